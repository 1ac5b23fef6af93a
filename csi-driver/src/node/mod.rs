//! What is done on the node that a pod runs on: the device, its filesystem, mounts. Nothing is remembered that the
//! replicator, the kernel's table of mounts or the device itself can tell, so a restarted driver finds everything.

mod expand;
mod filesystem;
mod machine;
mod mounts;
mod program;
mod publish;
mod service;
mod stage;
mod stats;

pub use machine::Machine;
