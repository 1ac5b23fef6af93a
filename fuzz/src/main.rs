//! Foreign bytes for every decoder. One program: `FARSHORE_FUZZ_TARGET` names the decoder that libFuzzer's bytes go to.
//!
//! `FARSHORE_FUZZ_LIST=1` prints the targets; `FARSHORE_FUZZ_SEEDS=DIR` writes real encodings to `DIR/TARGET/`. See
//! `fuzz/run`, and ARCHITECTURE.md for what is covered elsewhere.
#![no_main]

mod burnt;
#[path = "../../replicator/src/config.rs"]
mod config;
mod configuration_file;
mod control;
mod device;
mod engine;
mod journal;
mod messages;
#[path = "../../replicator/core/tests/golden/samples.rs"]
mod samples;
mod seal;
mod snapshot;
mod store;
mod targets;
mod transport;

// What the device's files name from the root of their own package.
use device::{BlockDevice, Geometry, IoError, limits};

libfuzzer_sys::fuzz_target!(
    init: targets::begin(),
    |data: &[u8]| (targets::chosen().run)(data)
);
