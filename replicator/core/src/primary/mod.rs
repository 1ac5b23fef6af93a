//! Holding an epoch: feeding the members, counting acknowledgements, the lease, opening and closing the device.
//!
//! ```text
//!  opening ──EpochStart acked, change in effect, old lease over, own store caught up──► open
//!     └───────────── higher epoch seen, quorum lost too long, journal failed ──────────► fenced (follower)
//!  open ──handover: everything acked and on the target──► released (follower)
//! ```
//! Not here: device requests (pipeline), what one member is sent (peers), register values (change). `distance` decides, by the mode, who
//! leaves the sync set and comes back, `watch` how far one member has been, and `places` who stands in for one that is lost. `relay`: who is asked for what a holder without a copy does not have.

mod commands;
mod distance;
mod feed;
mod holder;
mod marks;
mod places;
mod register;
mod relay;
mod watch;

pub use holder::{Next, Primary};
