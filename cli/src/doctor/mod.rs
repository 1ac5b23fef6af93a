//! `farshore doctor`: is this machine fit, is the replicator well, are the peers there? Each check names its remedy.
//!
//! Judged here and not in the daemon: a machine on which it can't start is the one that needs a doctor. What only the
//! daemon can know it is asked for. Nothing is changed, but for one file of a few KiB that is written and removed.

mod certificates;
mod daemon;
mod disk;
mod machine;
mod ports;
mod run;

pub use run::run;
