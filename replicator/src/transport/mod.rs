//! Messages between replicators, over QUIC with TLS 1.3 both ways, on one UDP port that either side may dial.
//!
//! ```text
//!  endpoint ── the verbs, the peers        cert ── the private CA and the nodes' certificates
//!   ├─ admission ── being dialled ─┐       tls  ── what is trusted, verdicts on certificates
//!   └─ peer ── one task per peer ◀─┤       hello, adoption ── the first words, and which connection is used
//!       ├─ dial ── dialling ───────┘       refusal, explain ── reasons an operator can act on
//!       └─ session ── messages over streams (frame, cutter, stripe, queue, congestion, pace); streams for one user (stream)
//! ```
//! A peer has two connections: control and records share one, bulk has its own. Messages are opaque here, and so are
//! volumes: a peer's proven name comes with every message, and whether it may speak for a volume is the engine's to say.

mod admission;
mod adoption;
pub mod cert;
mod config;
mod congestion;
mod cutter;
mod delay;
mod dial;
mod endpoint;
mod explain;
mod frame;
mod hello;
mod hello_stream;
mod name;
mod node;
mod pace;
mod peer;
mod queue;
mod refusal;
mod reset;
mod session;
mod status;
mod stream;
mod stripe;
mod tls;

#[cfg(test)]
pub mod tap;
#[cfg(test)]
mod tests;

pub use config::{Limits, PeerConfig, TransportConfig};
pub use congestion::Congestion;
pub use cutter::MESSAGE_BYTES_MAX;
pub use endpoint::{Transport, TransportError};
pub use frame::Lane;
pub use hello::Versions;
pub use name::{NameError, PeerName, SpiffeId};
pub use node::TransportEvent;
pub use queue::SendError;
pub use refusal::{Refusal, RefusalCode, RefusalEntry};
pub use status::{Dialled, EndpointStatus, PeerStatus};
pub use stream::{Opened, PeerStream, StreamError, StreamReceiver, StreamSender};
pub use tls::CredentialsError;
