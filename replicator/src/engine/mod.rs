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
mod doubt;
mod driver;
mod effects;
mod exports;
mod fenced;
mod force;
mod forward;
mod forwarded;
mod frontend;
mod holders;
mod images;
mod inbox;
mod io_counts;
mod io_limits;
mod kept;
mod kept_note;
mod loss_history;
mod make_room;
mod marks;
mod members;
mod metrics;
mod modes;
mod moves;
mod neighbours;
mod node;
mod operations;
mod outgoing;
mod packing;
mod peer_view;
mod policy;
mod read_there;
mod reader_device;
mod readers;
mod readmit;
mod rebirth;
mod receive;
mod receive_packed;
mod recovery;
mod refill;
mod register_read;
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
mod ship_attempt;
mod ship_counts;
mod ship_listing;
mod ship_pages;
mod ship_room;
mod shown;
mod snapshot_space;
mod snapshots;
mod spans;
mod takeover;
mod view;
mod volume_device;
mod words;

#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod shipment_tests;
#[cfg(test)]
mod transcript;

pub use node::{Node, NodeError};
