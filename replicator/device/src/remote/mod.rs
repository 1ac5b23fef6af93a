//! A device whose volume is served by another process, over NBD: what the device process puts under a loop device. When
//! the server goes away its requests wait, and are issued again to the server that comes back.
//!
//! ```text
//!   BlockDevice calls ─► backlog (every unanswered request, in order) ─► link ═ unix socket ═► replicator
//!                           ▲  answered: forgotten                        │
//!                           └──── link broken: all of it again ◄──────────┘
//! ```
//!
//! *Why a request may be issued again.* Before its answer nobody can tell whether a write happened, and a second time
//! writes the same bytes. It is only wrong where something that came later and overlaps was answered in between: the
//! older bytes would come back over the newer. So a change waits here, unsent, until every earlier change that overlaps is
//! answered (`Backlog`); between the first issue of a write and its answer nothing else changes its range. The loop
//! driver and FUSE keep no such order by themselves. Reads wait for nobody: whatever a read returns while a write is
//! under way, the write's bytes or those before it, it may return, and the replicator serves only bytes that survive it.
//! A flush speaks of writes that were answered before it, which the recovered log holds; issued again it speaks of them too.
//!
//! *Why the first issue can't come late.* A replicator that died left its writes in the log of its epoch or nowhere,
//! and the next one serves only under a later epoch. One that lives, and lost only the connection, may still have requests
//! in its socket: it ends the old connection's right to the device before it gives the device to a new one.
//!
//! *Why no other session is written.* The export's name holds the session, and the server knows that export only while
//! the session is its own. Until then, and when it answers that the device is fenced (it may be stopping), requests
//! wait; what ends them is [`RemoteDevice::end`], which the replicator asks for by name.

mod backlog;
mod device;
mod handshake;

#[cfg(test)]
mod fake_server;
#[cfg(test)]
mod tests;

pub use backlog::{Backlog, Entry, Request};
pub use device::RemoteDevice;
pub(crate) use handshake::{Export, choose};
