//! A wide area network on one machine, without privileges: between each two sites a UDP relay of their own, whose
//! conditions can be changed while it runs.
//!
//! ```text
//!  site a ──▶ door at a ┐                      ┌ door at b ◀── site b      what a and b dial is the door, not the other
//!             (socket)  ├─▶ pipe a → b ─▶ ...  │  (socket)                 each direction is a pipe: loss, bandwidth and
//!                       └── ... ◀─ pipe b → a ◀┘                           its queue, delay, jitter, reordering, cut
//! ```
//! One thread per pair; it sleeps until the next datagram is due, to the microsecond. Trains of datagrams (GSO, GRO)
//! stay together where the conditions let them.

mod conditions;
mod lateness;
mod link;
mod pipe;
mod port;
mod wan;

pub use conditions::Conditions;
pub use link::{Counts, Direction, Link};
pub use wan::Wan;
