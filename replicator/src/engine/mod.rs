//! The engine: one owner task per volume drives the core and carries its effects out; the node holds the volumes,
//! speaks to its peers, and serves the verbs.
//!
//! Not here: what is decided (core), and how bytes reach disk, wire or client (journal, store, transport, device).

mod answers;
mod applier;
mod attachments;
mod calls;
mod catalog;
mod checkpointer;
mod clock;
mod clone;
mod create;
mod cut;
mod cut_short;
mod deletion;
mod detach;
mod diverged;
mod diverged_note;
mod driver;
mod effects;
mod force;
mod forwarded;
mod images;
mod inbox;
mod io_counts;
mod kept;
mod kept_note;
mod marks;
mod members;
mod metrics;
mod neighbours;
mod node;
mod operations;
mod peer_view;
mod readmit;
mod rebirth;
mod recovery;
mod refill;
mod repair;
mod roles;
mod rpc;
mod schedule_plan;
mod schedule_text;
mod schedule_verbs;
mod schedules;
mod scrub;
mod scrub_record;
mod session_device;
mod ship;
mod snapshot_space;
mod snapshots;
mod takeover;
mod view;
mod volume_device;

#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod transcript;

pub use node::{Node, NodeError};
