//! Random histories against a naive model: one byte array per image, one number per block.
//!
//! Writes, discards, batches, pins, shipments, floors, checkpoints, restarts and power cuts, on two volumes that share
//! a slab too small for everything. After every step the volume reads as the model does.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use farshore_core::ids::{Seq, VolumeId};
use farshore_core::mark::Mark;
use farshore_core::record::{Kind, Record};
use proptest::prelude::*;

use super::tests_fixture::{BLOCK, Rig, delete_snapshot, naive_digest, pin_of, record, snapshot};
use super::*;

const BLOCKS: usize = 16 * 5 + 3;
const PLACES: u64 = 22;
const VOLUMES: [VolumeId; 2] = [VolumeId(0), VolumeId(u128::MAX)];

#[derive(Debug, Clone)]
enum Step {
    Apply(usize, Vec<(u8, usize, usize)>),
    Pin(usize, u8),
    Unpin(usize, u8),
    Snapshot(usize, u8),
    DeleteSnapshot(usize, u8),
    Checkpoint,
    /// More is applied between taking the changes and writing them.
    CheckpointUnder(usize, Vec<(u8, usize, usize)>),
    Sweep,
    PowerCut(f64, u64),
    Ship {
        volume: usize,
        full: bool,
        back: u64,
        parts: Vec<(u8, usize, usize)>,
        interrupted: bool,
        commit: bool,
    },
    RaiseFloor(usize, u64),
    Changed(usize, u8, u64),
    Recreate(usize),
    FullCheck,
}

fn ranges() -> impl Strategy<Value = Vec<(u8, usize, usize)>> {
    let range = (any::<u8>(), 0..BLOCKS, prop_oneof![4 => 1usize..4, 1 => 1..BLOCKS])
        .prop_map(|(fill, at, count)| (fill, at, count.min(BLOCKS - at)));
    prop::collection::vec(range, 1..6)
}

fn step() -> impl Strategy<Value = Step> {
    let volume = || 0usize..2;
    let kept = prop_oneof![Just(0.0), Just(0.5), Just(1.0)];
    prop_oneof![
        12 => (volume(), ranges()).prop_map(|(v, r)| Step::Apply(v, r)),
        3 => (volume(), 0u8..3).prop_map(|(v, p)| Step::Pin(v, p)),
        2 => (volume(), 0u8..3).prop_map(|(v, p)| Step::Unpin(v, p)),
        3 => (volume(), 0u8..4).prop_map(|(v, s)| Step::Snapshot(v, s)),
        2 => (volume(), 0u8..4).prop_map(|(v, s)| Step::DeleteSnapshot(v, s)),
        2 => Just(Step::Checkpoint),
        2 => (volume(), ranges()).prop_map(|(v, r)| Step::CheckpointUnder(v, r)),
        1 => Just(Step::Sweep),
        4 => (kept, any::<u64>()).prop_map(|(kept, seed)| Step::PowerCut(kept, seed)),
        2 => (volume(), any::<bool>(), 0u64..6, ranges(), any::<bool>(), any::<bool>()).prop_map(
            |(volume, full, back, parts, interrupted, commit)| Step::Ship { volume, full, back, parts, interrupted, commit }
        ),
        1 => (volume(), 0u64..9).prop_map(|(v, back)| Step::RaiseFloor(v, back)),
        3 => (volume(), 0u8..7, 0u64..9).prop_map(|(v, p, back)| Step::Changed(v, p, back)),
        1 => volume().prop_map(Step::Recreate),
        1 => Just(Step::FullCheck),
    ]
}

/// One image: bytes, and for each block whether it is stored and when it last changed.
#[derive(Clone)]
struct Image {
    seq: u64,
    bytes: Vec<u8>,
    stored: Vec<bool>,
    change: Vec<u64>,
    /// Names the version of each extent: equal names in two images are one place.
    version: Vec<(u64, u64)>,
}

impl Image {
    fn empty() -> Image {
        Image {
            seq: 0,
            bytes: vec![0; BLOCKS * BLOCK],
            stored: vec![false; BLOCKS],
            change: vec![0; BLOCKS],
            version: vec![(0, 0); BLOCKS.div_ceil(16)],
        }
    }

    fn write(&mut self, era: u64, seq: u64, block: usize, fill: Option<u8>) {
        let changes = fill.is_some() || self.stored[block];
        self.bytes[block * BLOCK..(block + 1) * BLOCK].fill(fill.unwrap_or(0));
        if changes {
            self.stored[block] = fill.is_some();
            self.change[block] = seq;
            self.version[block / 16] = (era, seq);
        }
    }

    fn apply(&mut self, era: u64, record: &Record) {
        self.seq = record.seq.0;
        let first = record.offset as usize / BLOCK;
        for block in first..first + record.length as usize / BLOCK {
            let fill = (record.kind == Kind::Write).then(|| record.payload[0]);
            self.write(era, record.seq.0, block, fill);
        }
    }

    /// Extents that need a place, by version.
    fn places(&self) -> BTreeSet<(usize, (u64, u64))> {
        let stored = (0..BLOCKS).filter(|block| self.stored[*block]);
        stored.map(|block| (block / 16, self.version[block / 16])).collect()
    }
}

struct Model {
    image: Image,
    era: u64,
    floor: u64,
    pins: BTreeMap<String, Image>,
    /// By the names of their pins.
    snapshots: BTreeMap<String, Image>,
    journal: Vec<Record>,
}

impl Model {
    fn new() -> Model {
        let (pins, snapshots) = (BTreeMap::new(), BTreeMap::new());
        Model { image: Image::empty(), era: 0, floor: 0, pins, snapshots, journal: Vec::new() }
    }

    /// Pinned images, by the names of their pins.
    fn held(&self) -> impl Iterator<Item = (&String, &Image)> {
        self.pins.iter().chain(&self.snapshots)
    }
}

struct World {
    rig: Rig,
    models: Vec<Model>,
    eras: u64,
}

impl World {
    fn new() -> World {
        let rig = Rig::new(PLACES);
        for volume in VOLUMES {
            rig.create(volume, (BLOCKS * BLOCK) as u64).unwrap();
        }
        World { rig, models: vec![Model::new(), Model::new()], eras: 0 }
    }

    fn records(&self, volume: usize, ranges: &[(u8, usize, usize)]) -> Vec<Record> {
        let first = self.models[volume].image.seq + 1;
        let record = |(at, (fill, block, count)): (usize, &(u8, usize, usize))| {
            let (offset, length, seq) = (block * BLOCK, count * BLOCK, first + at as u64);
            match fill {
                0..40 => record(VOLUMES[volume], seq, Kind::Discard, offset, length, Bytes::new()),
                40..60 => record(VOLUMES[volume], seq, Kind::WriteZeroes, offset, length, Bytes::new()),
                60..65 => record(VOLUMES[volume], seq, Kind::EpochStart, 0, 0, Bytes::new()),
                fill => {
                    let payload = Bytes::from(vec![*fill - 65; length]);
                    record(VOLUMES[volume], seq, Kind::Write, offset, length, payload)
                }
            }
        };
        ranges.iter().enumerate().map(record).collect()
    }

    fn note(&mut self, volume: usize, records: &[Record]) {
        let model = &mut self.models[volume];
        for record in records {
            model.image.apply(model.era, record);
            model.journal.push(record.clone());
            if record.kind == Kind::SnapMark {
                match Mark::decode(record.payload.clone()).unwrap() {
                    Mark::Create(creation) => {
                        let image = || model.image.clone();
                        model.snapshots.entry(pin_of(creation.id.0)).or_insert_with(image);
                    }
                    Mark::Delete { id } => drop(model.snapshots.remove(&pin_of(id.0))),
                    Mark::Update { .. } => {}
                }
            }
        }
    }

    /// One mark, at the next seq. It needs no room.
    fn mark(&mut self, volume: usize, make: impl FnOnce(u64) -> Record) {
        let record = make(self.models[volume].image.seq + 1);
        self.rig.apply(VOLUMES[volume], std::slice::from_ref(&record)).unwrap();
        self.note(volume, &[record]);
    }

    fn apply(&mut self, volume: usize, records: Vec<Record>) {
        match self.rig.apply_all(VOLUMES[volume], &records) {
            Ok(applied) => assert_eq!(applied, records[records.len() - 1].seq),
            Err(StoreError::Full { .. }) => {
                // What was applied before it is a prefix; and without pins everything fits.
                let applied = self.rig.volume(VOLUMES[volume]).applied_seq;
                assert!(applied < records[records.len() - 1].seq);
                let prefix: Vec<Record> = records.iter().filter(|record| record.seq <= applied).cloned().collect();
                self.note(volume, &prefix);
                self.check(volume);
                self.unpin_all();
                let next = self.models[volume].image.seq + 1;
                let rest: Vec<Record> = records[prefix.len()..]
                    .iter()
                    .enumerate()
                    .map(|(at, record)| Record { seq: Seq(next + at as u64), ..record.clone() })
                    .collect();
                self.rig.apply(VOLUMES[volume], &rest).expect("there is room now");
                self.note(volume, &rest);
                return;
            }
            Err(error) => panic!("{error}"),
        }
        self.note(volume, &records);
    }

    fn unpin_all(&mut self) {
        for (volume, model) in self.models.iter_mut().enumerate() {
            for name in std::mem::take(&mut model.pins).into_keys() {
                self.rig.unpin(VOLUMES[volume], &name).unwrap();
            }
        }
        for (volume, named) in VOLUMES.into_iter().enumerate() {
            for id in 0..4 {
                if self.models[volume].snapshots.contains_key(&pin_of(id + 1)) {
                    self.mark(volume, |seq| delete_snapshot(named, seq, id + 1));
                }
            }
        }
    }

    fn redo(&mut self) {
        for (volume, model) in self.models.iter().enumerate() {
            let id = VOLUMES[volume];
            let found = self.rig.volume(id);
            assert!(found.checkpointed_seq <= Seq(model.image.seq));
            for half in model.journal.chunks(7) {
                self.rig.apply_all(id, half).expect("what fitted before the crash fits again");
            }
            assert_eq!(self.rig.volume(id).applied_seq, Seq(model.image.seq));
        }
    }

    fn check(&self, volume: usize) {
        let (id, model) = (VOLUMES[volume], &self.models[volume]);
        assert_eq!(self.rig.volume(id).applied_seq, Seq(model.image.seq));
        let found = self.rig.read_all(id).unwrap_or_else(|error| panic!("{error}"));
        assert!(found == model.image.bytes, "the image of volume {volume} at {} differs", model.image.seq);
    }

    fn check_fully(&mut self) {
        self.rig.sweep().unwrap();
        self.rig.checkpoint().unwrap();
        let mut used = 0;
        for (volume, model) in self.models.iter().enumerate() {
            let id = VOLUMES[volume];
            let mut places = model.image.places();
            let shown = places.len();
            assert_eq!(self.rig.digest(id).unwrap().digest, naive_digest(&model.image.bytes));
            for (name, image) in model.held() {
                let found = self.rig.read_at(id, name, 0, image.bytes.len()).unwrap();
                assert!(found == image.bytes, "pin {name} of volume {volume} at {} differs", image.seq);
                assert_eq!(self.rig.digest_at(id, name).unwrap().digest, naive_digest(&image.bytes));
                places.extend(image.places());
            }
            let pins: Vec<(String, Seq)> =
                self.rig.pins(id).unwrap().into_iter().map(|pin| (pin.name, pin.seq)).collect();
            assert!(pins.iter().map(|(name, _)| name).eq(model.pins.keys().chain(model.snapshots.keys())));
            let listed = self.rig.snapshots(id).unwrap().into_iter().map(|row| (snapshot_pin(row.id), row.seq));
            let expected = model.snapshots.iter().map(|(name, image)| (name.clone(), Seq(image.seq)));
            assert_eq!(listed.collect::<BTreeMap<_, _>>(), expected.collect::<BTreeMap<_, _>>());
            assert_eq!(self.rig.volume(id).used_bytes, places.len() as u64 * EXTENT_BYTES, "volume {volume}");
            let held = (places.len() - shown) as u64 * EXTENT_BYTES;
            assert_eq!(self.rig.held_bytes(id), Some(held), "beside what volume {volume} shows");
            assert!(self.rig.scrub(id, ScrubCursor::default(), 1 << 30).unwrap().damaged.is_empty());
            used += places.len() as u64;
        }
        let space = self.rig.space();
        assert_eq!((space.used_bytes, space.pending_bytes), (used * EXTENT_BYTES, 0));
    }

    fn ship(
        &mut self,
        volume: usize,
        full: bool,
        back: u64,
        parts: &[(u8, usize, usize)],
        interrupted: bool,
        commit: bool,
    ) {
        let id = VOLUMES[volume];
        let applied = self.models[volume].image.seq;
        // Incremental from what is here; a full copy may also lead to an earlier seq.
        let base = (!full).then_some(Seq(applied));
        let target = if full { (applied + 3).saturating_sub(back) } else { applied + back };
        self.eras += 1;
        let era = self.eras;
        let mut image = if full { Image::empty() } else { self.models[volume].image.clone() };
        image.seq = target;
        let ship = 100 + u128::from(era);
        self.rig.stage_begin(id, ship, base, None, Seq(target)).unwrap();
        let (mut staged_extents, mut staged_now) = (BTreeSet::new(), BTreeSet::new());
        for (at, (fill, block, count)) in parts.iter().enumerate() {
            let data = (*fill >= 60).then(|| *fill - 60);
            let staged = match data {
                Some(fill) => StageData::Data(Bytes::from(vec![fill; count * BLOCK])),
                None => StageData::Hole { len: (count * BLOCK) as u64 },
            };
            match self.rig.stage_write(id, ship, (block * BLOCK) as u64, staged) {
                Ok(()) => {}
                Err(StoreError::Full { .. }) => {
                    self.rig.stage_abort(id, ship).unwrap();
                    return;
                }
                Err(error) => panic!("{error}"),
            }
            let cursor = Cursor { seq: Seq::ZERO, extent: at as u64 + 1 };
            self.rig.stage_advance(id, ship, cursor).unwrap();
            for block in *block..block + count {
                // A full copy starts from nothing: a hole in an extent that was not shipped so far says nothing.
                if full && data.is_none() && !staged_extents.contains(&(block / 16)) {
                    continue;
                }
                staged_now.insert(block / 16);
                image.write(era, target, block, data);
                image.change[block] = target;
                image.version[block / 16] = (era, target);
            }
            staged_extents.append(&mut staged_now);
            self.check(volume);
        }
        if interrupted {
            self.rig.power_cut(0.5, era);
            self.redo();
            let stage = self.rig.stage_begin(id, ship, base, None, Seq(target)).unwrap();
            for (fill, block, count) in &parts[stage.cursor.extent as usize..] {
                let staged = match (*fill >= 60).then(|| *fill - 60) {
                    Some(fill) => StageData::Data(Bytes::from(vec![fill; count * BLOCK])),
                    None => StageData::Hole { len: (count * BLOCK) as u64 },
                };
                match self.rig.stage_write(id, ship, (block * BLOCK) as u64, staged) {
                    Ok(()) => {}
                    Err(StoreError::Full { .. }) => {
                        self.rig.stage_abort(id, ship).unwrap();
                        return;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        }
        if !commit {
            self.rig.stage_abort(id, ship).unwrap();
            return;
        }
        assert_eq!(self.rig.stage_commit(id, ship).unwrap(), Seq(target));
        let model = &mut self.models[volume];
        model.floor = if full { model.floor.max(target) } else { model.floor };
        model.image = image;
        model.era = era;
        model.journal.clear();
        assert_eq!(self.rig.volume(id).changed_floor, Seq(model.floor));
    }

    fn changed(&self, volume: usize, pin: u8, back: u64) {
        let (id, model) = (VOLUMES[volume], &self.models[volume]);
        let name = if pin < 3 { format!("p{pin}") } else { pin_of(u128::from(pin) - 2) };
        let Some((_, image)) = model.held().find(|(held, _)| **held == name) else { return };
        let listed = |base: Option<Seq>| -> Result<BTreeMap<usize, bool>, StoreError> {
            let (mut out, mut cursor) = (BTreeMap::new(), Cursor::default());
            loop {
                let page = self.rig.changed_since(id, base, &name, cursor, 2)?;
                for found in page.extents {
                    for block in (0..16).filter(|block| found.changed & (1 << block) != 0) {
                        let hole = found.holes & (1 << block) != 0;
                        assert!(out.insert(found.extent as usize * 16 + block, hole).is_none(), "listed twice");
                    }
                }
                match page.next {
                    Some(next) => cursor = next,
                    None => return Ok(out),
                }
            }
        };
        let stored = (0..BLOCKS).filter(|block| image.stored[*block]);
        assert_eq!(listed(None).unwrap(), stored.map(|block| (block, false)).collect());
        let base = image.seq.saturating_sub(back);
        if base < model.floor {
            assert!(matches!(listed(Some(Seq(base))), Err(StoreError::BelowFloor { .. })));
            return;
        }
        let changed = (0..BLOCKS).filter(|block| image.change[*block] > base);
        let expected: BTreeMap<usize, bool> = changed.map(|block| (block, !image.stored[block])).collect();
        assert_eq!(listed(Some(Seq(base))).unwrap(), expected, "changed since {base}");
        // The other way to find them.
        let (mut scanned, mut from) = (BTreeMap::new(), Some(0));
        while let Some(extent) = from {
            let page = self.rig.changed_by_extent(id, Some(Seq(base)), &name, extent, 2).unwrap();
            for found in page.extents {
                assert!(scanned.range(found.extent as usize * 16..).next().is_none(), "out of order");
                for block in (0..16).filter(|block| found.changed & (1 << block) != 0) {
                    scanned.insert(found.extent as usize * 16 + block, found.holes & (1 << block) != 0);
                }
            }
            from = page.next.map(|next| next.extent);
        }
        assert_eq!(scanned, expected, "scanned for what changed since {base}");
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Apply(volume, ranges) => {
                let records = self.records(volume, &ranges);
                self.apply(volume, records);
                self.check(volume);
            }
            Step::Pin(volume, pin) => {
                let name = format!("p{pin}");
                let seq = self.rig.pin(VOLUMES[volume], &name).unwrap();
                let model = &mut self.models[volume];
                let image = model.pins.entry(name).or_insert_with(|| model.image.clone());
                assert_eq!(seq, Seq(image.seq));
            }
            Step::Unpin(volume, pin) => {
                let name = format!("p{pin}");
                self.rig.unpin(VOLUMES[volume], &name).unwrap();
                self.models[volume].pins.remove(&name);
            }
            Step::Snapshot(volume, id) => {
                let (id, size) = (u128::from(id) + 1, BLOCKS * BLOCK);
                self.mark(volume, |seq| snapshot(VOLUMES[volume], seq, id, size));
            }
            Step::DeleteSnapshot(volume, id) => {
                self.mark(volume, |seq| delete_snapshot(VOLUMES[volume], seq, u128::from(id) + 1));
            }
            Step::Checkpoint => {
                for (id, seq) in self.rig.checkpoint().unwrap() {
                    assert_eq!(self.rig.volume(id).applied_seq, seq);
                }
            }
            Step::CheckpointUnder(volume, ranges) => {
                let before = self.models[volume].image.seq;
                let records = self.records(volume, &ranges);
                let mut result = None;
                // A full store would ask for the checkpoint that is running.
                if self.rig.space().free_bytes / EXTENT_BYTES >= 2 * BLOCKS.div_ceil(16) as u64 {
                    let apply = || result = Some(self.rig.apply(VOLUMES[volume], &records));
                    self.rig.checkpoint_with(apply).unwrap();
                    result.unwrap().unwrap();
                    assert_eq!(self.rig.volume(VOLUMES[volume]).checkpointed_seq, Seq(before));
                    self.note(volume, &records);
                }
                self.check(volume);
            }
            Step::Sweep => {
                self.rig.sweep_step().unwrap();
            }
            Step::PowerCut(kept, seed) => {
                self.rig.power_cut(kept, seed);
                self.redo();
                (0..2).for_each(|volume| self.check(volume));
            }
            Step::Ship { volume, full, back, parts, interrupted, commit } => {
                self.ship(volume, full, back, &parts, interrupted, commit);
                self.check(volume);
            }
            Step::RaiseFloor(volume, back) => {
                let model = &mut self.models[volume];
                let floor = model.image.seq.saturating_sub(back);
                self.rig.raise_floor(VOLUMES[volume], Seq(floor)).unwrap();
                model.floor = model.floor.max(floor);
                // A power cut takes the floor back; this test does not model that.
                self.rig.checkpoint().unwrap();
            }
            Step::Changed(volume, pin, back) => self.changed(volume, pin, back),
            Step::Recreate(volume) => {
                self.rig.remove(VOLUMES[volume]).unwrap();
                self.rig.create(VOLUMES[volume], (BLOCKS * BLOCK) as u64).unwrap();
                self.models[volume] = Model::new();
                self.check(volume);
            }
            Step::FullCheck => self.check_fully(),
        }
    }
}

fn config() -> ProptestConfig {
    let cases = std::env::var("FARSHORE_STORE_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(48);
    ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 400, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]
    #[test]
    fn any_history_reads_as_the_model_does(steps in prop::collection::vec(step(), 1..40)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.check_fully();
        world.rig.power_cut(0.5, 1);
        world.redo();
        world.check_fully();
    }
}
