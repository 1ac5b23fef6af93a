//! Tests with real daemons. The harness is here; the stories are in `tests/`, one file each.
//!
//! They run the programs as built, so `cargo build --release --workspace --bins` comes first (`make test` does it).

pub mod cluster;
