//! What nodes ask of each other and note for themselves: the engine's own files, compiled here without its tasks.

#[path = "../../../replicator/src/engine/answers.rs"]
mod answers;
#[path = "../../../replicator/src/engine/diverged_note.rs"]
mod diverged_note;
#[path = "../../../replicator/src/engine/kept_note.rs"]
mod kept_note;
#[path = "../../../replicator/src/engine/rpc.rs"]
mod rpc;
#[path = "../../../replicator/src/engine/samples.rs"]
mod samples;
#[path = "../../../replicator/src/engine/schedule_text.rs"]
mod schedule_text;
#[path = "../../../replicator/src/engine/scrub_record.rs"]
mod scrub_record;
mod targets;

pub use targets::{
    answer_seeds, answers, call_seeds, calls, diverged_notes, diverged_seeds, kept_notes, kept_seeds, schedule_seeds,
    schedules, scrub_records, scrub_seeds,
};
