//! A journal that is full: who waits, who goes on, and that nothing is lost.

use super::*;

/// Appends until the journal takes no more; returns the answers still outstanding.
fn fill(journal: &Journal, chain: &mut Chain) -> Vec<mpsc::Receiver<Result<(), JournalError>>> {
    let mut pending = Vec::new();
    loop {
        let answer = start(journal, vec![chain.entry(64)]);
        match answer.recv_timeout(Duration::from_millis(500)) {
            Ok(result) => result.unwrap(),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                pending.push(answer);
                if journal.status().waiting_submissions > 0 {
                    return pending;
                }
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_full_journal_makes_data_wait_lets_metadata_pass_and_says_who_holds_it() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(small(&dir, 5)).unwrap();
    let mut a = Chain::new(1);
    let pending = fill(&journal, &mut a);
    let status = journal.status();
    assert_eq!(status.floor_held_by, [a.volume.to_string()]);
    assert!(status.queued_bytes > 0 && status.poisoned.is_none());
    for round in 0..20 {
        let meta = Entry::Meta { volume: a.volume, blob: Bytes::from(format!("promise {round}")) };
        append(&journal, vec![meta]).unwrap();
    }
    assert!(pending.iter().all(|answer| answer.try_recv().is_err()), "data still waits");
    journal.set_checkpoint(a.volume, Seq(u64::from(a.end.seq.0 as u32) / 2));
    pending.iter().for_each(|answer| answer.recv_timeout(PATIENCE).unwrap().unwrap());
    drop(journal);
    let (_journal, found) = Journal::open(small(&dir, 5)).unwrap();
    assert_eq!(found[0].last, a.end.seq);
    assert_eq!(found[0].meta.as_deref(), Some(&b"promise 19"[..]));
}

#[test]
fn a_full_journal_is_freed_by_a_truncation_and_what_it_hides_is_cancelled() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(small(&dir, 5)).unwrap();
    let mut a = Chain::new(1);
    let first = a.next(1);
    append(&journal, vec![Entry::Record(first.clone())]).unwrap();
    let end = a.end;
    let pending = fill(&journal, &mut a);
    (a.end, a.epoch) = (end, 2);
    let truncation = start(&journal, vec![Entry::Truncate { volume: a.volume, after: Seq(1) }]);
    truncation.recv_timeout(PATIENCE).unwrap().unwrap();
    for answer in pending {
        let answer = answer.recv_timeout(PATIENCE).unwrap();
        assert!(matches!(answer, Err(JournalError::Superseded { .. })), "{answer:?}");
    }
    journal.set_checkpoint(a.volume, Seq(1));
    append(&journal, vec![a.entry(64)]).unwrap();
    drop(journal);
    let (_journal, found) = Journal::open(small(&dir, 5)).unwrap();
    assert_eq!((found[0].last, found[0].last_hash), (Seq(2), a.end.hash));
}

#[test]
fn who_holds_more_than_its_share_waits_while_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(small(&dir, 16)).unwrap();
    let (mut hog, mut modest) = (Chain::new(1), Chain::new(2));
    append(&journal, vec![modest.entry(1)]).unwrap();
    let pending = fill(&journal, &mut hog);
    assert!(!pending.is_empty());
    for _ in 0..10 {
        append(&journal, vec![modest.entry(16)]).unwrap();
    }
    assert!(pending.iter().all(|answer| answer.try_recv().is_err()), "the hog still waits");
    journal.set_checkpoint(modest.volume, modest.end.seq);
    journal.set_checkpoint(hog.volume, hog.end.seq.prev());
    pending.iter().for_each(|answer| answer.recv_timeout(PATIENCE).unwrap().unwrap());
}

#[test]
fn a_disk_without_space_for_more_segments_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let engine = crate::disk::faults::FaultyEngine::around(crate::disk::start_engine(EngineChoice::Auto).unwrap());
    let (journal, _) = Journal::open_on(small(&dir, 8), std::sync::Arc::new(engine.clone())).unwrap();
    engine.fail_allocations(true);
    let mut a = Chain::new(1);
    let pending = fill(&journal, &mut a);
    let status = journal.status();
    assert!(status.allocation_error.is_some() && status.poisoned.is_none());
    append(&journal, vec![Entry::Meta { volume: a.volume, blob: Bytes::from_static(b"m") }]).unwrap();
    engine.fail_allocations(false);
    journal.set_checkpoint(a.volume, Seq(1));
    pending.iter().for_each(|answer| answer.recv_timeout(PATIENCE).unwrap().unwrap());
    assert!(journal.status().allocation_error.is_none());
}

#[test]
fn what_is_wanted_for_catch_up_stays_until_space_is_short() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(small(&dir, 12)).unwrap();
    let mut a = Chain::new(1);
    let mut append_mib = |count: u64, keep: Option<Seq>| {
        for _ in 0..count * 4 {
            append(&journal, vec![a.entry(64)]).unwrap();
            journal.set_checkpoint(a.volume, a.end.seq);
            if let Some(keep) = keep {
                journal.set_keep(a.volume, keep);
            }
        }
        a.end.seq
    };
    append_mib(24, None);
    assert_eq!(journal.floor(VolumeId(1)), Seq(1), "there is room, nothing is given up");
    let last = append_mib(100, None);
    let floor = journal.floor(VolumeId(1));
    assert!(floor > Seq(1) && floor < last, "space was short: {floor}");
    append_mib(1, Some(last));
    wait_for("what nobody wants to go", || journal.floor(VolumeId(1)).0 > last.0 - 40);
}

#[test]
fn the_queue_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let engine = crate::disk::faults::FaultyEngine::around(crate::disk::start_engine(EngineChoice::Auto).unwrap());
    let (journal, _) = Journal::open_on(small(&dir, 8), std::sync::Arc::new(engine.clone())).unwrap();
    engine.hold(true);
    let mut a = Chain::new(1);
    let payload = Bytes::from(vec![1; 1 << 20]);
    let mut answers = Vec::new();
    for _ in 0..(QUEUE_BYTES_MAX >> 20) + 14 {
        let record = record_after(a.volume, a.end, 1, payload.clone());
        a.end = LogEnd { seq: record.seq, hash: record.hash(), epoch: record.epoch };
        answers.push(start(&journal, vec![Entry::Record(record)]));
    }
    assert!(journal.queued_bytes() <= QUEUE_BYTES_MAX + (2 << 20));
    engine.hold(false);
    let refused = answers.pop().unwrap().recv_timeout(PATIENCE).unwrap();
    assert!(matches!(refused, Err(JournalError::QueueFull { .. } | JournalError::Refused(_))), "{refused:?}");
}

#[test]
fn a_volume_that_stands_still_does_not_stop_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(small(&dir, 8)).unwrap();
    let (mut stuck, mut busy) = (Chain::new(1), Chain::new(2));
    let mut kept = Vec::new();
    let mut written = 0;
    // Ten times what the journal holds, while the first volume's records are never applied.
    for round in 0..1300 {
        if round < 20 {
            kept.push(stuck.next(32));
            append(&journal, vec![Entry::Record(kept.last().unwrap().clone())]).unwrap();
        }
        append(&journal, vec![busy.entry(64)]).unwrap();
        written += 64 * 4096;
        journal.set_checkpoint(busy.volume, busy.end.seq);
        if round % 400 == 399 {
            assert_eq!(read_all(&journal, stuck.volume, Seq(1)), kept, "after {written} bytes");
        }
    }
    assert!(journal.status().segments_total <= 8);
    drop(journal);
    let (journal, found) = Journal::open(small(&dir, 8)).unwrap();
    assert_eq!((found[0].first, found[0].last, found[0].last_hash), (Seq(1), Seq(20), stuck.end.hash));
    assert_eq!((found[0].damaged, found[0].epochs.len()), (None, 1));
    assert_eq!(found[1].damaged, None);
    assert_eq!(read_all(&journal, stuck.volume, Seq(1)), kept);
    journal.set_checkpoint(stuck.volume, Seq(20));
    append(&journal, vec![stuck.entry(1)]).unwrap();
}

/// By what a volume may have un-acked, and by which no further one is taken.
#[test]
fn volumes_with_a_log_share_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(small(&dir, 8)).unwrap();
    let (mut a, mut b) = (Chain::new(1), Chain::new(2));
    let whole = journal.share_bytes();
    append(&journal, vec![Entry::Meta { volume: VolumeId(3), blob: Bytes::from_static(b"a witness") }]).unwrap();
    append(&journal, vec![a.entry(1)]).unwrap();
    assert_eq!((journal.share_bytes(), journal.share_bytes_of(1)), (whole, whole));
    append(&journal, vec![b.entry(1)]).unwrap();
    assert_eq!(journal.share_bytes(), whole / 2);
    drop(journal);
    let (journal, _) = Journal::open(small(&dir, 8)).unwrap();
    assert_eq!(journal.share_bytes(), whole / 2, "after a restart, too");
    append(&journal, vec![Entry::Forget { volume: b.volume }]).unwrap();
    assert_eq!(journal.share_bytes(), whole);
}
