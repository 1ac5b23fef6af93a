//! Disks that fail, bytes that rot, files that vanish.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::*;
use crate::disk::faults::{Fault, FaultyEngine};
use crate::disk::start_engine;

fn faulty() -> FaultyEngine {
    FaultyEngine::around(start_engine(EngineChoice::Auto).unwrap())
}

fn segment(dir: &tempfile::TempDir, number: u32) -> PathBuf {
    dir.path().join("journal").join(format!("segment-{number:04}"))
}

fn group_at(dir: &tempfile::TempDir, at: usize) -> (u64, u64) {
    let report = inspect(&dir.path().join("journal"));
    let group = &report.segments[0].groups[at];
    (group.offset, group.bytes)
}

fn rot(dir: &tempfile::TempDir, number: u32, at: u64) {
    let file = std::fs::File::options().read(true).write(true).open(segment(dir, number)).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
    file.sync_all().unwrap();
}

#[test]
fn after_a_failed_write_or_sync_nothing_is_done_any_more() {
    for fault in [Fault::WriteFails, Fault::SyncFails, Fault::NoSpace, Fault::Torn(1)] {
        let dir = tempfile::tempdir().unwrap();
        let engine = faulty();
        let (journal, _) = Journal::open_on(small(&dir, 8), Arc::new(engine.clone())).unwrap();
        let mut a = Chain::new(1);
        append(&journal, vec![a.entry(1)]).unwrap();
        let durable = a.end;
        engine.plan(0, fault);
        let failed = append(&journal, vec![a.entry(3)]);
        assert!(matches!(failed, Err(JournalError::Poisoned { .. })), "{fault:?}: {failed:?}");
        let writes = engine.writes();
        for _ in 0..3 {
            let failed = append(&journal, vec![Entry::Meta { volume: a.volume, blob: Bytes::new() }]);
            assert!(matches!(failed, Err(JournalError::Poisoned { .. })), "{fault:?}: {failed:?}");
        }
        assert_eq!(engine.writes(), writes, "{fault:?}: nothing is tried again");
        assert!(journal.status().poisoned.is_some());
        assert_eq!(journal.read(a.volume, Seq(1), 1).unwrap().len(), 1, "reads go on");
        drop(journal);
        let (journal, found) = Journal::open(small(&dir, 8)).unwrap();
        assert!(journal.burnt().is_some_and(|reason| reason.contains("segment")), "{fault:?}: the failure is noted");
        let may_be_there = [durable, a.end];
        let end = may_be_there.iter().find(|end| end.seq == found[0].last).unwrap();
        assert_eq!((found[0].last_hash, found[0].damaged), (end.hash, None), "{fault:?}");
        assert!(fault == Fault::SyncFails || end.seq == durable.seq, "{fault:?}: it was never whole");
    }
}

#[test]
fn a_rotten_group_in_the_middle_is_damage_and_can_be_repaired_from_a_peer() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(small(&dir, 8)).unwrap();
    let (mut a, mut b) = (Chain::new(1), Chain::new(2));
    let mut records = Vec::new();
    for _ in 0..5 {
        records.push(a.next(1));
        append(&journal, vec![Entry::Record(records.last().unwrap().clone())]).unwrap();
        append(&journal, vec![b.entry(1)]).unwrap();
    }
    drop(journal);
    // The segment's head, then a1 b1 a2 b2 a3 …
    let (offset, bytes) = group_at(&dir, 5);
    rot(&dir, 0, offset + bytes / 2);

    let report = inspect(&dir.path().join("journal"));
    assert_eq!((report.groups_lost, report.rule.as_deref()), (1, Some("DamagedMiddle")));
    assert_eq!(report.volumes[0].damaged_seq, Some(3));
    let (journal, found) = Journal::open(small(&dir, 8)).unwrap();
    assert_eq!((found[0].damaged, found[0].last, found[0].meta_damaged), (Some(Seq(3)), Seq(5), false));
    assert_eq!((found[1].damaged, found[1].last), (None, Seq(5)), "the other volume is whole");
    assert_eq!(journal.read(a.volume, Seq(1), 1 << 20).unwrap(), records[..2]);
    assert!(matches!(journal.read(a.volume, Seq(3), 1), Err(ReadError::Corrupt { seq: Seq(3), .. })));
    assert_eq!(journal.read(a.volume, Seq(4), 1 << 20).unwrap(), records[3..]);

    append(&journal, vec![Entry::Record(records[2].clone())]).unwrap();
    assert_eq!(read_all(&journal, a.volume, Seq(1)), records);
    drop(journal);
    let (journal, found) = Journal::open(small(&dir, 8)).unwrap();
    assert_eq!((found[0].damaged, found[0].last_hash), (None, a.end.hash));
    assert_eq!(read_all(&journal, a.volume, Seq(1)), records);
}

#[test]
fn a_rotten_last_group_is_a_torn_tail_and_the_journal_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(small(&dir, 8)).unwrap();
    let mut a = Chain::new(1);
    append(&journal, vec![a.entry(1)]).unwrap();
    let end = a.end;
    append(&journal, vec![a.entry(2)]).unwrap();
    drop(journal);
    let (offset, bytes) = group_at(&dir, 2);
    rot(&dir, 0, offset + bytes - 4000);
    let (journal, found) = Journal::open(small(&dir, 8)).unwrap();
    assert_eq!((found[0].last, found[0].damaged), (Seq(1), None));
    assert_eq!(journal.status().recovery_rule, "TornTail");
    a.end = end;
    append(&journal, vec![a.entry(1)]).unwrap();
    drop(journal);
    let (_journal, found) = Journal::open(small(&dir, 8)).unwrap();
    assert_eq!((found[0].last, found[0].last_hash), (Seq(2), a.end.hash));
}

#[test]
fn rot_found_while_reading_is_named_and_repairable_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(small(&dir, 8)).unwrap();
    let mut a = Chain::new(1);
    let records: Vec<Record> = (0..3).map(|_| a.next(1)).collect();
    for record in &records {
        append(&journal, vec![Entry::Record(record.clone())]).unwrap();
    }
    drop(journal);
    // Opened anew, so that nothing is in memory.
    let (journal, _) = Journal::open(small(&dir, 8)).unwrap();
    let (offset, _) = group_at(&dir, 2);
    rot(&dir, 0, offset + 4000);
    assert_eq!(journal.read(a.volume, Seq(1), 1 << 20).unwrap(), records[..1]);
    assert!(matches!(journal.read(a.volume, Seq(2), 1), Err(ReadError::Corrupt { seq: Seq(2), .. })));
    append(&journal, vec![Entry::Record(records[1].clone())]).unwrap();
    assert_eq!(read_all(&journal, a.volume, Seq(1)), records);
}

#[test]
fn lost_and_misdirected_writes_are_damage_once_something_follows() {
    for fault in [Fault::Lost, Fault::Misdirected(64 << 10)] {
        let dir = tempfile::tempdir().unwrap();
        let engine = faulty();
        let (journal, _) = Journal::open_on(small(&dir, 8), Arc::new(engine.clone())).unwrap();
        let mut a = Chain::new(1);
        append(&journal, vec![a.entry(1)]).unwrap();
        engine.plan(0, fault);
        append(&journal, vec![a.entry(1)]).unwrap();
        append(&journal, vec![a.entry(1)]).unwrap();
        drop(journal);
        let (_journal, found) = Journal::open(small(&dir, 8)).unwrap();
        assert_eq!((found[0].damaged, found[0].last), (Some(Seq(2)), Seq(3)), "{fault:?}");
    }
}

/// The copy made of a rewritten tail heals that group as long as there is no newer copy: so it is written back first.
#[test]
fn a_group_that_rots_after_it_was_copied_is_made_whole_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(small(&dir, 8)).unwrap();
    let mut a = Chain::new(1);
    let records: Vec<Record> = (0..4).map(|_| a.next(1)).collect();
    append(&journal, vec![Entry::Record(records[0].clone())]).unwrap();
    append(&journal, vec![Entry::Record(records[1].clone())]).unwrap();
    drop(journal);
    let (offset, bytes) = group_at(&dir, 2);
    for record in &records[2..] {
        let (journal, _) = Journal::open(small(&dir, 8)).unwrap();
        append(&journal, vec![Entry::Record(record.clone())]).unwrap();
        drop(journal);
        if record.seq == Seq(3) {
            rot(&dir, 0, offset + bytes / 2);
        }
    }
    let (journal, found) = Journal::open(small(&dir, 8)).unwrap();
    assert_eq!((found[0].damaged, found[0].last), (None, Seq(4)));
    assert_eq!(read_all(&journal, a.volume, Seq(1)), records);
}

#[test]
fn a_power_cut_while_the_tail_is_rewritten_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(small(&dir, 8)).unwrap();
    let mut a = Chain::new(1);
    append(&journal, vec![a.entry(3)]).unwrap();
    drop(journal);
    // The first write of a start is the tail's.
    let engine = faulty();
    engine.plan(0, Fault::WriteFails);
    assert!(Journal::open_on(small(&dir, 8), Arc::new(engine)).is_err());
    let (offset, _) = group_at(&dir, 1);
    rot(&dir, 0, offset + 9000);
    let (journal, found) = Journal::open(small(&dir, 8)).unwrap();
    assert_eq!((found[0].last, found[0].damaged), (Seq(1), None));
    assert_eq!(journal.read(a.volume, Seq(1), 1).unwrap().len(), 1, "healed in its place");
}

#[test]
fn superblocks_and_segments_that_are_not_right_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(small(&dir, 8)).unwrap();
    append(&journal, vec![Chain::new(1).entry(1)]).unwrap();
    drop(journal);
    let path = dir.path().join("journal").join("journal.super");
    let good = std::fs::read(&path).unwrap();
    for slot in [0, 4096] {
        let mut bad = good.clone();
        bad[slot + 30] ^= 1;
        std::fs::write(&path, &bad).unwrap();
        Journal::open(small(&dir, 8)).map(drop).expect("the other slot serves");
    }
    let mut bad = std::fs::read(&path).unwrap();
    bad[30] ^= 1;
    bad[4096 + 30] ^= 1;
    std::fs::write(&path, &bad).unwrap();
    assert!(matches!(Journal::open(small(&dir, 8)), Err(JournalError::Superblock { .. })));
    assert_eq!(inspect(&dir.path().join("journal")).problems.len(), 1);
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(Journal::open(small(&dir, 8)), Err(JournalError::Superblock { .. })), "segments, no superblock");

    std::fs::write(&path, &good).unwrap();
    let segments: Vec<PathBuf> = (0..2).map(|number| segment(&dir, number)).collect();
    let bytes = std::fs::read(&segments[1]).unwrap();
    std::fs::remove_file(&segments[1]).unwrap();
    assert!(matches!(Journal::open(small(&dir, 8)), Err(JournalError::SegmentMissing { .. })));
    std::fs::write(&segments[1], bytes).unwrap();
    std::fs::write(&segments[0], vec![0; 4 << 20]).unwrap();
    let _ = std::fs::remove_file(dir.path().join("journal").join("journal.tail"));
    assert!(matches!(Journal::open(small(&dir, 8)), Err(JournalError::Gone { .. })));
}

#[test]
fn nonsense_configurations_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let config = small(&dir, 8);
    for bad in [
        JournalConfig { segment_bytes: 1000, ..config.clone() },
        JournalConfig { segment_bytes: u64::MAX, ..config.clone() },
        JournalConfig { budget_bytes: 12 * MIB, ..config.clone() },
    ] {
        assert!(matches!(Journal::open(bad), Err(JournalError::Config { .. })));
    }
}

/// Heads of several groups, and the disk fails at each write around the rotation in turn.
#[test]
fn a_rotation_that_breaks_off_anywhere_loses_no_metadata() {
    for skip in 22..34 {
        let dir = tempfile::tempdir().unwrap();
        let config = || JournalConfig { segment_bytes: 16 * MIB, budget_bytes: 160 * MIB, ..small(&dir, 5) };
        let engine = faulty();
        let (journal, _) = Journal::open_on(config(), Arc::new(engine.clone())).unwrap();
        engine.plan(skip, if skip % 2 == 0 { Fault::Torn(2) } else { Fault::WriteFails });
        for volume in 1..=14 {
            let blob = Bytes::from(vec![volume as u8; META_BYTES_MAX]);
            append(&journal, vec![Entry::Meta { volume: VolumeId(volume), blob }]).unwrap();
        }
        let mut a = Chain::new(1);
        let mut durable = LogEnd::default();
        while append(&journal, vec![a.entry(256)]).is_ok() {
            durable = a.end;
        }
        drop(journal);
        let (journal, found) = Journal::open(config()).unwrap();
        assert_eq!(found.len(), 14);
        for found in found.iter() {
            let meta = found.meta.as_ref().expect("no metadata");
            assert!(meta.len() == META_BYTES_MAX && meta.iter().all(|&byte| u128::from(byte) == found.volume.0));
            assert_eq!((found.damaged, found.meta_damaged), (None, false), "write {skip}");
        }
        assert_eq!((found[0].last, found[0].last_hash), (durable.seq, durable.hash), "write {skip}");
        a.end = durable;
        for _ in 0..6 {
            append(&journal, vec![a.entry(256)]).unwrap();
        }
        assert_eq!(read_all(&journal, a.volume, Seq(1)).len() as u64, a.end.seq.0);
        drop(journal);
        let (_journal, found) = Journal::open(config()).unwrap();
        assert_eq!((found[0].last, found[0].damaged, found.len()), (a.end.seq, None, 14), "write {skip}");
    }
}

#[test]
fn a_failure_is_noted_wherever_that_works_until_the_replicas_began_a_new_life() {
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let gone = dir.path().join("gone");
    let config = JournalConfig { burnt_dirs: vec![gone, elsewhere.path().to_owned()], ..small(&dir, 8) };
    let engine = faulty();
    let (journal, _) = Journal::open_on(config.clone(), Arc::new(engine.clone())).unwrap();
    assert_eq!(journal.burnt(), None);
    let mut a = Chain::new(1);
    engine.plan(0, Fault::SyncFails);
    append(&journal, vec![a.entry(1)]).unwrap_err();
    drop(journal);
    let open = |config: &JournalConfig| loop {
        match Journal::open(config.clone()) {
            // A child that another test is just starting has our lock until it runs its own program.
            Err(JournalError::Locked { .. }) => std::thread::yield_now(),
            opened => break opened.unwrap().0,
        }
    };
    let own = dir.path().join("journal").join("journal.burnt");
    let other = elsewhere.path().join("journal.burnt");
    // Either place alone is enough, also when what is there is damaged.
    std::fs::remove_file(&own).unwrap();
    assert!(open(&config).burnt().is_some());
    std::fs::rename(&other, &own).unwrap();
    assert!(open(&config).burnt().is_some());
    std::fs::write(&own, "nonsense").unwrap();
    assert!(open(&config).burnt().is_some());
    let journal = open(&config);
    journal.reborn().unwrap();
    drop(journal);
    assert_eq!(open(&config).burnt(), None);
    // What is noted of another journal says nothing of this one.
    std::fs::write(&other, format!("farshore burnt 1\njournal {:032x}\nreason  x\n", 7)).unwrap();
    assert_eq!(open(&config).burnt(), None);
}

#[test]
fn a_tail_that_can_not_be_rewritten_at_the_start_is_a_failure_too() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(small(&dir, 8)).unwrap();
    append(&journal, vec![Chain::new(1).entry(1)]).unwrap();
    drop(journal);
    let engine = faulty();
    engine.plan(0, Fault::SyncFails);
    assert!(Journal::open_on(small(&dir, 8), Arc::new(engine)).is_err());
    let (journal, _) = Journal::open(small(&dir, 8)).unwrap();
    assert!(journal.burnt().is_some());
}
