//! What distance costs, on real replicators: shipments and the foreground beside them, a site that returns, and moving the
//! primary.

pub mod figures;
pub mod measure;
pub mod moves;
pub mod outage;
pub mod part;
pub mod shipping;
