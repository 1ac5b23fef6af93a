//! What nodes say before and between messages: the transport's own files, compiled here without their sockets.

#[path = "../../../replicator/src/transport/cutter.rs"]
mod cutter;
#[path = "../../../replicator/src/transport/hello.rs"]
mod hello;
#[path = "../../../replicator/src/transport/name.rs"]
mod name;
#[path = "../../../replicator/src/transport/refusal.rs"]
mod refusal;
mod targets;

pub use targets::{frame_seeds, frames, hello_messages, hello_seeds, refusal_seeds, refusals};
