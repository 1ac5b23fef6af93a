//! A volume's index against a list of records that is changed in the plainest way.

use proptest::prelude::*;

use crate::ids::{Epoch, Seq, VolumeId};
use crate::journal::entry::{Entry, LogEnd};
use crate::journal::log::tests::record_after;
use crate::journal::log::{Log, Place, VolumeLog};
use crate::record::{Record, RecordHash};

const VOLUME: VolumeId = VolumeId(1);

#[derive(Debug, Clone, Copy)]
enum Step {
    Append { new_epoch: bool },
    Skipping,
    OtherChain,
    Truncate(u64),
    RaiseFloor(u64),
    Lose(u64),
    Refill(u64),
    Restart(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => any::<bool>().prop_map(|new_epoch| Step::Append { new_epoch }),
        1 => Just(Step::Skipping),
        1 => Just(Step::OtherChain),
        1 => (0_u64..24).prop_map(Step::Truncate),
        1 => (0_u64..24).prop_map(Step::RaiseFloor),
        2 => (0_u64..24).prop_map(Step::Lose),
        2 => (0_u64..24).prop_map(Step::Refill),
        1 => (0_u64..24).prop_map(Step::Restart),
    ]
}

#[derive(Default)]
struct Model {
    base: LogEnd,
    /// What follows the base, and where it lies if it does.
    records: Vec<(Record, Option<Place>)>,
    epoch: u64,
    placed: u32,
}

impl Model {
    fn end(&self) -> LogEnd {
        self.records.last().map_or(self.base, |(record, _)| end_of(record))
    }

    fn at(&mut self, seq: u64) -> Option<&mut (Record, Option<Place>)> {
        let at = seq.checked_sub(self.base.seq.0 + 1)?;
        self.records.get_mut(at as usize)
    }

    fn place(&mut self) -> Place {
        self.placed += 1;
        Place { segment: 1, offset: self.placed * 4096, len: 144 + self.placed }
    }

    fn step(&mut self, step: Step, log: &mut Log) {
        let end = self.end();
        let apply = |log: &mut Log, record: &Record, place| {
            log.apply(&Entry::Record(record.clone()), record.hash(), place).is_ok()
        };
        match step {
            Step::Append { new_epoch } => {
                self.epoch += u64::from(new_epoch);
                let (record, place) = (record_after(1, end, self.epoch, b""), self.place());
                assert!(apply(log, &record, place), "what follows is taken");
                self.records.push((record, Some(place)));
            }
            Step::Skipping => {
                let record = Record { seq: Seq(end.seq.0 + 2), ..record_after(1, end, self.epoch, b"") };
                assert!(!apply(log, &record, Place::default()), "a gap is refused");
            }
            Step::OtherChain if end.hash != RecordHash::default() => {
                let record = Record { prev_hash: RecordHash(3), ..record_after(1, end, self.epoch, b"") };
                assert!(!apply(log, &record, Place::default()), "another predecessor is refused");
            }
            Step::OtherChain => {}
            Step::Truncate(after) => {
                log.apply(&Entry::Truncate { volume: VOLUME, after: Seq(after) }, end.hash, Place::default())
                    .expect("only records are refused");
                if after < self.base.seq.0 {
                    (self.base, self.records) = (LogEnd { seq: Seq(after), ..LogEnd::default() }, Vec::new());
                }
                self.records.retain(|(record, _)| record.seq.0 <= after);
            }
            Step::RaiseFloor(upto) => {
                log.volumes.get_mut(&VOLUME).expect("there").raise_floor(Seq(upto));
                while self.records.first().is_some_and(|(record, _)| record.seq.0 <= upto) {
                    self.base = end_of(&self.records.remove(0).0);
                }
            }
            Step::Lose(seq) => {
                log.volumes.get_mut(&VOLUME).expect("there").mark_lost(Seq(seq));
                if let Some((_, place)) = self.at(seq) {
                    *place = None;
                }
            }
            Step::Refill(seq) => {
                let place = self.place();
                let Some((record, lies)) = self.at(seq) else { return };
                assert_eq!(apply(log, record, place), lies.is_none(), "only a lost record is filled in");
                lies.get_or_insert(place);
            }
            Step::Restart(seq) => {
                let end = LogEnd { seq: Seq(seq), hash: RecordHash(9), epoch: Epoch { n: self.epoch, writer: 9 } };
                log.apply(&Entry::Restart { volume: VOLUME, end }, end.hash, Place::default()).expect("never refused");
                (self.base, self.records) = (end, Vec::new());
            }
        }
    }

    fn check(&self, log: &VolumeLog) {
        assert_eq!((log.base(), log.end()), (self.base, self.end()));
        assert_eq!((log.floor(), log.last_seq()), (self.base.seq.next(), self.end().seq));
        let lies = |seq| log.place(Seq(seq));
        assert_eq!((lies(self.base.seq.0), lies(self.end().seq.0 + 1)), (None, None));
        let mut epochs: Vec<(Epoch, Seq)> = Vec::new();
        for (record, place) in &self.records {
            assert_eq!(lies(record.seq.0), Some(*place), "{}", record.seq);
            assert_eq!(log.end_at(record.seq), end_of(record));
            if epochs.last().is_none_or(|(epoch, _)| *epoch != record.epoch) {
                epochs.push((record.epoch, record.seq));
            }
        }
        assert_eq!(log.epochs(), epochs);
        let lost = self.records.iter().find(|(_, place)| place.is_none());
        assert_eq!(log.damaged(), lost.map(|(record, _)| record.seq));
        for after in 0..30 {
            let bytes = self.records.iter().filter(|(record, _)| record.seq.0 > after).filter_map(|(_, place)| *place);
            assert_eq!(log.bytes_after(Seq(after)), bytes.map(|place| u64::from(place.len)).sum::<u64>(), "{after}");
        }
    }
}

fn end_of(record: &Record) -> LogEnd {
    LogEnd { seq: record.seq, hash: record.hash(), epoch: record.epoch }
}

proptest! {
    #[test]
    fn the_index_agrees_with_a_list(steps in prop::collection::vec(step(), 1..60)) {
        let (mut model, mut log) = (Model { epoch: 1, ..Model::default() }, Log::default());
        model.step(Step::Append { new_epoch: false }, &mut log);
        for step in steps {
            model.step(step, &mut log);
            model.check(&log.volumes[&VOLUME]);
        }
    }
}
