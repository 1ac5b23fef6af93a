//! A device on a node that holds no copy of its volume: its requests go to a node of the site that does.
//!
//! ```text
//!   pod ─ device ─ ForwardedDevice        stream of the transport         Serving ─ SessionDevice ─ volume
//!   └──────── node of the device ───────┘ ◄───── frames, both ways ─────► └──── the epoch's holder, a member ────┘
//! ```
//!
//! The register names the member that serves (it alone holds the epoch) and the session; a label of the volume says on which
//! node that session's device is (`place`). To the core there is no such thing as a forwarded device.
//!
//! *Why nothing of an ended session comes through.* The member serves only the session that the register names, only to the
//! node of the label, and only whoever asked last; what comes by an older stream has its place in the volume's order before the
//! first request of a newer one, or none (`SessionDevice`). What may be issued again, and why, is as with the device
//! process (`device/remote`): the same backlog keeps what has no answer.
//!
//! *Why nothing is told too late.* The node of the device tells an answer only under a lease, which the member lends it out
//! of its own: so much as it had left, counted from when the node asked. So it is over before the member's own is, and whoever
//! waits until no lease of the member's is left (every fence does) has waited for this one. A member that ends the session
//! itself waits until the node says that its device is gone, or for what it has lent.
//!
//! *What waits.* While no member serves the session, requests wait. They fail when a member has read in the register, from a
//! control quorum, that another session or none is named.

mod attached;
mod device;
mod frame;
mod link;
mod note;
mod place;
mod serve;
mod verbs;

pub(super) use attached::Forwarding;
pub(super) use device::ForwardedDevice;
pub(super) use note::ForwardedNote;
pub(super) use place::{DEVICE_LABEL, Place, forwarded_to};
pub(super) use serve::Served;
pub(super) use verbs::{EndForwarded, ServeStep, busy};

#[cfg(test)]
mod golden_tests;
