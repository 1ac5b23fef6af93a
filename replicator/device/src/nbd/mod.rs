//! The NBD server, by the protocol document of the NBD project (`doc/proto.md`): fixed newstyle negotiation, STARTTLS,
//! structured replies, `base:allocation`, and every command but RESIZE.
//!
//! ```text
//!  server ── accept, limits ──► connection ── negotiate ──► transmit: reader ─► submit ─► device
//!                                                                     writer ◄─ replies ◄───┘
//! ```
//! `wire` knows the bytes and nothing else; extended headers are not offered.

mod exports;
mod negotiate;
mod reply;
mod request;
mod server;
mod tls;
mod transmit;
pub(crate) mod wire;

#[cfg(test)]
mod client_tests;
#[cfg(test)]
mod protocol_tests;

pub use exports::{Exports, SingleExport};
pub(crate) use server::bind_unix;
pub use server::{NbdListen, NbdServer};
pub use tls::NbdTls;
