//! Random histories against a plain model: appends, truncations, metadata, checkpoints, restarts of logs, disk failures
//! at random writes, reopening. After each reopening, journal and model must agree record by record.

use std::collections::BTreeMap;
use std::sync::Arc;

use farshore_core::record::RecordHash;

use super::*;
use crate::disk::faults::{Fault, FaultyEngine};
use crate::disk::start_engine;

#[derive(Debug, Clone, Default, PartialEq)]
struct Model {
    meta: Option<Bytes>,
    /// Before the first record in `records`.
    base: LogEnd,
    records: Vec<Record>,
    checkpoint: u64,
}

impl Model {
    fn end(&self) -> LogEnd {
        self.records.last().map_or(self.base, |last| LogEnd { seq: last.seq, hash: last.hash(), epoch: last.epoch })
    }

    fn apply(&mut self, entry: &Entry) {
        match entry {
            Entry::Record(record) => self.records.push(record.clone()),
            Entry::Meta { blob, .. } => self.meta = Some(blob.clone()),
            Entry::Truncate { after, .. } => self.records.retain(|record| record.seq <= *after),
            Entry::Restart { end, .. } => *self = Model { meta: self.meta.clone(), base: *end, ..Model::default() },
            Entry::Forget { .. } => *self = Model::default(),
        }
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

struct History {
    random: Random,
    engine: FaultyEngine,
    journal: Journal,
    models: BTreeMap<VolumeId, Model>,
    epoch: u64,
}

fn config(dir: &tempfile::TempDir) -> JournalConfig {
    small(dir, 7)
}

fn faulty() -> FaultyEngine {
    FaultyEngine::around(start_engine(EngineChoice::Auto).unwrap())
}

impl History {
    fn entries(&mut self, volume: VolumeId) -> Vec<Entry> {
        let model = self.models[&volume].clone();
        let mut ahead = model.clone();
        let mut out = Vec::new();
        for _ in 0..=self.random.below(3) {
            let entry = match self.random.below(24) {
                0 if !ahead.records.is_empty() => {
                    self.epoch += 1;
                    let last = ahead.end().seq.0;
                    let after = last - self.random.below((last - model.checkpoint.min(last) + 1).min(9));
                    // Never below what is checkpointed, nor below what the log began with.
                    Entry::Truncate { volume, after: Seq(after.max(ahead.base.seq.0)) }
                }
                1 => Entry::Forget { volume },
                2 => {
                    let seq = Seq(ahead.end().seq.0 + self.random.below(50));
                    Entry::Restart {
                        volume,
                        end: LogEnd { seq, hash: RecordHash(u128::from(seq.0) + 5), ..ahead.end() },
                    }
                }
                3..8 => {
                    let len = 1 + self.random.below(3000) as usize;
                    Entry::Meta { volume, blob: Bytes::from(vec![self.random.below(251) as u8; len]) }
                }
                _ => {
                    let payload = vec![self.random.below(251) as u8; 4096 * (1 + self.random.below(60) as usize)];
                    Entry::Record(record_after(volume, ahead.end(), self.epoch, Bytes::from(payload)))
                }
            };
            ahead.apply(&entry);
            out.push(entry);
        }
        out
    }

    fn step(&mut self, dir: &tempfile::TempDir) {
        let volume = VolumeId(u128::from(self.random.below(4)) + 1);
        self.models.entry(volume).or_default();
        match self.random.below(60) {
            0 => {
                let fault = [Fault::WriteFails, Fault::SyncFails, Fault::Torn(1), Fault::Torn(3)];
                let fault = fault[self.random.below(4) as usize];
                self.engine.plan(self.random.below(6), fault);
            }
            1 => self.reopen(dir, None),
            _ => {
                let entries = self.entries(volume);
                let before = self.models[&volume].clone();
                let model = self.models.get_mut(&volume).unwrap();
                entries.iter().for_each(|entry| model.apply(entry));
                match append(&self.journal, entries) {
                    Ok(()) => self.checkpoint(volume),
                    Err(JournalError::Poisoned { .. }) => self.reopen(dir, Some((volume, before))),
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }

    fn checkpoint(&mut self, volume: VolumeId) {
        let lag = if volume.0 == 1 { 40 } else { self.random.below(12) };
        let model = self.models.get_mut(&volume).unwrap();
        model.checkpoint = model.checkpoint.max(model.end().seq.0.saturating_sub(lag));
        self.journal.set_checkpoint(volume, Seq(model.checkpoint));
    }

    /// `undone`: this volume's last append failed; it is there whole or not at all.
    fn reopen(&mut self, dir: &tempfile::TempDir, undone: Option<(VolumeId, Model)>) {
        self.journal.close();
        self.engine = faulty();
        // The lock goes with the last handle.
        let (placeholder, _) = Journal::open(small(&tempfile::tempdir().unwrap(), 4)).unwrap();
        drop(std::mem::replace(&mut self.journal, placeholder));
        let (journal, found) = Journal::open_on(config(dir), Arc::new(self.engine.clone())).unwrap();
        self.journal = journal;
        if let Some((volume, before)) = undone {
            let found = found.iter().find(|found| found.volume == volume);
            let end = found.map(|found| (found.last, found.last_hash, found.meta.clone())).unwrap_or_default();
            let after = &self.models[&volume];
            let is = |model: &Model| end == (model.end().seq, model.end().hash, model.meta.clone());
            if !is(after) {
                assert!(is(&before), "a failed append is there in part: {end:?}");
                self.models.insert(volume, before);
            }
        }
        for (&volume, model) in &self.models {
            self.compare(volume, model, found.iter().find(|found| found.volume == volume));
            self.journal.set_checkpoint(volume, Seq(model.checkpoint));
        }
    }

    fn compare(&self, volume: VolumeId, model: &Model, found: Option<&RecoveredVolume>) {
        let Some(found) = found else { return assert_eq!(*model, Model::default(), "{volume} is gone") };
        assert_eq!((found.damaged, found.meta_damaged), (None, false));
        assert_eq!(found.meta, model.meta);
        assert_eq!((found.last, found.last_hash), (model.end().seq, model.end().hash));
        let retained = read_all(&self.journal, volume, found.first);
        let expected: Vec<_> = model.records.iter().filter(|record| record.seq >= found.first).cloned().collect();
        assert!(retained == expected, "records of {volume} from {} on differ", found.first);
        assert!(found.first.0 <= model.checkpoint.max(model.base.seq.0) + 1, "needed records are gone");
        let mut epochs: Vec<_> = expected.iter().map(|record| (record.epoch, record.seq)).collect();
        epochs.dedup_by_key(|&mut (epoch, _)| epoch);
        assert_eq!(found.epochs, epochs);
    }
}

/// `FARSHORE_TEST_SEED=7` tries that one alone, `7..40` all of these.
fn seeds() -> std::ops::Range<u64> {
    let asked = std::env::var("FARSHORE_TEST_SEED").unwrap_or_default();
    let mut bounds = asked.split("..").filter_map(|word| word.parse::<u64>().ok());
    let first = bounds.next().unwrap_or(1);
    let end = bounds.next().unwrap_or(if asked.is_empty() { 4 } else { first + 1 });
    first..end
}

#[test]
fn random_histories_agree_with_the_model() {
    for seed in seeds() {
        println!("seed {seed}");
        let dir = tempfile::tempdir().unwrap();
        let engine = faulty();
        let (journal, _) = Journal::open_on(config(&dir), Arc::new(engine.clone())).unwrap();
        let random = Random(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
        let mut history = History { random, engine, journal, models: BTreeMap::new(), epoch: 1 };
        for _ in 0..500 {
            history.step(&dir);
        }
        history.reopen(&dir, None);
    }
}
