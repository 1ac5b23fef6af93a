//! What snapshots and clones cost, on real replicators: the pause of one, reads and writes above many, chains of clones,
//! and what changed between two.

pub mod chains;
pub mod difference;
pub mod figures;
pub mod many;
pub mod measure;
pub mod part;
pub mod pause;
pub mod rounds;
pub mod volumes;
