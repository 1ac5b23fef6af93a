//! The table of targets, and what the program does beside fuzzing.

use std::path::Path;
use std::sync::OnceLock;

use crate::{burnt, configuration_file, device, engine, journal, messages, snapshot, store, transport};

pub struct Target {
    pub name: &'static str,
    /// Panics where the decoder, or what it promises, is broken.
    pub run: fn(&[u8]),
    /// Real encodings to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

pub const TARGETS: &[Target] = &[
    Target { name: "record", run: messages::record, seeds: messages::record_seeds },
    Target { name: "mark", run: messages::mark, seeds: messages::mark_seeds },
    Target { name: "message", run: messages::message, seeds: messages::message_seeds },
    Target { name: "configuration", run: messages::configuration, seeds: messages::configuration_seeds },
    Target { name: "durable", run: messages::durable, seeds: messages::durable_seeds },
    Target { name: "journal_items", run: journal::items, seeds: journal::items_seeds },
    Target { name: "journal_segment", run: journal::segment, seeds: journal::segment_seeds },
    Target { name: "journal_recovery", run: journal::recovery, seeds: journal::recovery_seeds },
    Target { name: "journal_superblock", run: journal::superblock, seeds: journal::superblock_seeds },
    Target { name: "store_superblock", run: store::superblocks, seeds: store::superblock_seeds },
    Target { name: "store_index", run: store::index, seeds: store::index_seeds },
    Target { name: "transport_hello", run: transport::hello_messages, seeds: transport::hello_seeds },
    Target { name: "transport_frames", run: transport::frames, seeds: transport::frame_seeds },
    Target { name: "transport_refusal", run: transport::refusals, seeds: transport::refusal_seeds },
    Target { name: "nbd_negotiation", run: device::negotiation, seeds: device::negotiation_seeds },
    Target { name: "nbd_requests", run: device::requests, seeds: device::request_seeds },
    Target { name: "configuration_file", run: configuration_file::parse, seeds: configuration_file::seeds },
    Target { name: "node_calls", run: engine::calls, seeds: engine::call_seeds },
    Target { name: "node_answers", run: engine::answers, seeds: engine::answer_seeds },
    Target { name: "diverged_note", run: engine::diverged_notes, seeds: engine::diverged_seeds },
    Target { name: "kept_note", run: engine::kept_notes, seeds: engine::kept_seeds },
    Target { name: "schedule", run: engine::schedules, seeds: engine::schedule_seeds },
    Target { name: "scrub_record", run: engine::scrub_records, seeds: engine::scrub_seeds },
    Target { name: "export", run: snapshot::exports, seeds: snapshot::seeds },
    Target { name: "burnt_note", run: burnt::notes, seeds: burnt::seeds },
];

static CHOSEN: OnceLock<&'static Target> = OnceLock::new();

pub fn chosen() -> &'static Target {
    CHOSEN.get().expect("chosen before the first bytes come")
}

/// Runs before libFuzzer; what is asked for by FARSHORE_FUZZ_LIST or FARSHORE_FUZZ_SEEDS ends the program.
pub fn begin() {
    if std::env::var_os("FARSHORE_FUZZ_LIST").is_some() {
        TARGETS.iter().for_each(|target| println!("{}", target.name));
        std::process::exit(0);
    }
    if let Some(dir) = std::env::var_os("FARSHORE_FUZZ_SEEDS") {
        write_seeds(Path::new(&dir));
        std::process::exit(0);
    }
    let name = std::env::var("FARSHORE_FUZZ_TARGET").unwrap_or_default();
    let Some(target) = TARGETS.iter().find(|target| target.name == name) else {
        eprintln!("FARSHORE_FUZZ_TARGET={name:?} is no target; FARSHORE_FUZZ_LIST=1 lists them");
        std::process::exit(2);
    };
    let _ = CHOSEN.set(target);
}

fn write_seeds(dir: &Path) {
    for target in TARGETS {
        let dir = dir.join(target.name);
        std::fs::create_dir_all(&dir).expect("the seeds' directory can be made");
        for (i, seed) in (target.seeds)().iter().enumerate() {
            assert!(!seed.is_empty(), "an empty seed of {}", target.name);
            std::fs::write(dir.join(format!("seed-{i:02}")), seed).expect("a seed can be written");
            (target.run)(seed);
        }
    }
}
