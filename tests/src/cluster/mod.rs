//! A handful of sites on loopback: daemons, certificates, configuration, the command line, an NBD client and a ledger
//! of what was acknowledged. Everything lies in one temporary directory and ends with the [`Cluster`].
//!
//! Not here: the stories, and anything that knows how the daemon works inside.

mod binaries;
mod busy;
mod cli;
mod clock;
mod daemon;
pub mod fixture;
mod holder;
mod image;
mod in_order;
mod layout;
mod ledger;
mod nbd;
mod network;
mod site;
mod verb;
mod wait;

pub use binaries::{program, take_programs_from};
pub use busy::{Busy, Mount, succeed};
pub use cli::{Refusal, farshore};
pub use clock::BootClock;
pub use daemon::Launch;
pub use holder::DeviceHolder;
pub use image::Image;
pub use in_order::{IN_ORDER_BLOCKS, InOrder, image_after, writes_in};
pub use layout::{Cluster, Options};
pub use ledger::{Ledger, Writers};
pub use nbd::{NbdClient, NbdError};
pub use network::Network;
pub use site::{Site, all_in_sync, member};
pub use verb::Verb;
pub use wait::{eventually, until};
