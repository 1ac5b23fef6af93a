//! Append, read, reopen, truncate, forget, restart, rotate.

use super::*;

fn engines() -> Vec<EngineChoice> {
    let uring = crate::disk::start_engine(EngineChoice::IoUring).is_ok();
    if uring { vec![EngineChoice::IoUring, EngineChoice::Threads] } else { vec![EngineChoice::Threads] }
}

#[test]
fn what_was_done_is_there_after_reopening_on_both_engines() {
    for engine in engines() {
        let dir = tempfile::tempdir().unwrap();
        let config = JournalConfig { engine, ..small(&dir, 8) };
        let (journal, found) = Journal::open(config.clone()).unwrap();
        assert!(found.is_empty());
        let (mut a, mut b) = (Chain::new(1), Chain::new(2));
        let mut records = Vec::new();
        for round in 0..50 {
            let record = a.next(round % 5 + 1);
            records.push(record.clone());
            let meta = Entry::Meta { volume: b.volume, blob: Bytes::from(format!("meta {round}")) };
            append(&journal, vec![Entry::Record(record), b.entry(1), meta]).unwrap();
        }
        assert_eq!(read_all(&journal, a.volume, Seq(1)), records);
        let name = journal.status().engine;
        journal.close();
        drop(journal);

        let (journal, found) = Journal::open(config).unwrap();
        assert_eq!(journal.status().engine, name);
        assert_eq!(found.len(), 2);
        let (of_a, of_b) = (&found[0], &found[1]);
        assert_eq!((of_a.first, of_a.last, of_a.last_hash), (Seq(1), Seq(50), a.end.hash));
        assert_eq!(of_a.epochs, [(Epoch { n: 1, writer: 9 }, Seq(1))]);
        assert_eq!((of_a.damaged, of_a.meta.clone()), (None, None));
        assert_eq!(of_b.meta.as_deref(), Some(&b"meta 49"[..]));
        assert_eq!(read_all(&journal, a.volume, Seq(1)), records, "from the disk this time");
        assert_eq!(journal.read(a.volume, Seq(51), 1), Err(ReadError::Beyond { last: Seq(50) }));
        append(&journal, vec![a.entry(1)]).unwrap();
    }
}

#[test]
fn a_truncation_hides_what_came_before_it_and_nothing_that_comes_after() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(small(&dir, 8)).unwrap();
    let mut a = Chain::new(1);
    let mut ends = vec![LogEnd::default()];
    for _ in 0..10 {
        append(&journal, vec![a.entry(1)]).unwrap();
        ends.push(a.end);
    }
    a.end = ends[4];
    a.epoch = 2;
    let truncate = Entry::Truncate { volume: a.volume, after: Seq(4) };
    let kept = a.next(1);
    append(&journal, vec![truncate, Entry::Record(kept.clone())]).unwrap();
    assert_eq!(journal.read(a.volume, Seq(5), 1).unwrap(), std::slice::from_ref(&kept));
    assert_eq!(journal.read(a.volume, Seq(6), 1), Err(ReadError::Beyond { last: Seq(5) }));
    drop(journal);
    let (journal, found) = Journal::open(small(&dir, 8)).unwrap();
    assert_eq!((found[0].last, found[0].last_hash, found[0].last_epoch.n), (Seq(5), a.end.hash, 2));
    let epochs: Vec<_> = found[0].epochs.iter().map(|(epoch, seq)| (epoch.n, seq.0)).collect();
    assert_eq!(epochs, [(1, 1), (2, 5)]);
    assert_eq!(read_all(&journal, a.volume, Seq(5)), [kept]);
}

#[test]
fn an_append_that_does_not_fit_is_refused_whole_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(small(&dir, 8)).unwrap();
    let mut a = Chain::new(1);
    append(&journal, vec![a.entry(1), a.entry(1)]).unwrap();
    let good = a.next(1);
    let skipping = Record { seq: Seq(9), ..good.clone() };
    let broken = Record { prev_hash: farshore_core::record::RecordHash(1), ..good.clone() };
    for bad in [skipping, broken] {
        let refused = append(&journal, vec![Entry::Record(good.clone()), Entry::Record(bad.clone())]);
        assert!(matches!(refused, Err(JournalError::Refused(_))), "{refused:?}");
        let refused = append(&journal, vec![Entry::Truncate { volume: a.volume, after: Seq(1) }, Entry::Record(bad)]);
        assert!(matches!(refused, Err(JournalError::Refused(_))), "{refused:?}");
    }
    let blob = Bytes::from(vec![0; META_BYTES_MAX + 1]);
    let refused = append(&journal, vec![Entry::Meta { volume: a.volume, blob }]);
    assert!(matches!(refused, Err(JournalError::TooLarge { .. })), "{refused:?}");
    append(&journal, vec![Entry::Record(good)]).unwrap();
    assert_eq!(read_all(&journal, a.volume, Seq(1)).len(), 3);
}

#[test]
fn forgotten_volumes_are_gone_and_restarted_ones_go_on_where_they_were_told() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(small(&dir, 8)).unwrap();
    let (mut a, mut b) = (Chain::new(1), Chain::new(2));
    append(&journal, vec![a.entry(1), b.entry(1), b.entry(1)]).unwrap();
    append(&journal, vec![Entry::Forget { volume: a.volume }]).unwrap();
    assert_eq!(journal.read(a.volume, Seq(1), 1), Err(ReadError::Beyond { last: Seq(0) }));
    b.end = LogEnd { seq: Seq(1000), ..b.end };
    append(&journal, vec![Entry::Restart { volume: b.volume, end: b.end }, b.entry(1)]).unwrap();
    assert_eq!(journal.read(b.volume, Seq(2), 1), Err(ReadError::BelowFloor { floor: Seq(1001) }));
    drop(journal);
    let (journal, found) = Journal::open(small(&dir, 8)).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].volume, found[0].first, found[0].last), (b.volume, Seq(1001), Seq(1001)));
    assert_eq!(journal.floor(b.volume), Seq(1001));
}

#[test]
fn metadata_and_log_ends_outlive_the_segments_that_held_them() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(small(&dir, 5)).unwrap();
    let (mut a, mut quiet) = (Chain::new(1), Chain::new(2));
    let meta = Entry::Meta { volume: quiet.volume, blob: Bytes::from_static(b"promised 7") };
    append(&journal, vec![quiet.entry(1), quiet.entry(1), meta]).unwrap();
    journal.set_checkpoint(quiet.volume, Seq(2));
    // Five times what the journal holds.
    let mut kept = Vec::new();
    for _ in 0..400 {
        let record = a.next(64);
        kept.push(record.clone());
        append(&journal, vec![Entry::Record(record)]).unwrap();
        journal.set_checkpoint(a.volume, a.end.seq);
    }
    let status = journal.status();
    assert!(status.segments_total <= 5 && status.used_bytes <= status.budget_bytes);
    assert!(journal.floor(a.volume) > Seq(100), "old segments were recycled");
    assert_eq!(journal.floor(quiet.volume), Seq(3));
    drop(journal);
    let (journal, found) = Journal::open(small(&dir, 5)).unwrap();
    let of_quiet = &found[1];
    assert_eq!(of_quiet.meta.as_deref(), Some(&b"promised 7"[..]));
    assert_eq!((of_quiet.first, of_quiet.last, of_quiet.last_hash), (Seq(3), Seq(2), quiet.end.hash));
    assert_eq!(of_quiet.last_epoch.n, 1);
    assert_eq!((of_quiet.damaged, of_quiet.meta_damaged), (None, false));
    let floor = journal.floor(a.volume);
    assert_eq!(read_all(&journal, a.volume, floor), kept[floor.0 as usize - 1..]);
    // Until it is told what the stores have, all that is retained counts as needed, and is more than a volume's share.
    journal.set_checkpoint(a.volume, Seq(400));
    append(&journal, vec![quiet.entry(1), a.entry(1)]).unwrap();
}

#[test]
fn many_appends_share_a_sync() {
    let dir = tempfile::tempdir().unwrap();
    let engine = crate::disk::faults::FaultyEngine::around(crate::disk::start_engine(EngineChoice::Auto).unwrap());
    let (journal, _) = Journal::open_on(small(&dir, 8), std::sync::Arc::new(engine.clone())).unwrap();
    let syncs = journal.status().syncs;
    engine.hold(true);
    let mut chains: Vec<Chain> = (1..=50).map(Chain::new).collect();
    let answers: Vec<_> = chains.iter_mut().map(|chain| start(&journal, vec![chain.entry(1)])).collect();
    engine.hold(false);
    answers.iter().for_each(|answer| answer.recv_timeout(PATIENCE).unwrap().unwrap());
    // The first may have gone alone, before the others came.
    assert!(journal.status().syncs - syncs <= 2, "{} syncs", journal.status().syncs - syncs);
    assert_eq!(journal.queued_bytes(), 0);
}

#[test]
fn a_second_opener_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(small(&dir, 8)).unwrap();
    assert!(matches!(Journal::open(small(&dir, 8)), Err(JournalError::Locked { .. })));
    assert!(inspect(&dir.path().join("journal")).in_use_now);
    drop(journal);
    Journal::open(small(&dir, 8)).unwrap();
}

#[test]
fn the_last_handle_may_go_inside_a_completion() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(small(&dir, 8)).unwrap();
    let (tx, rx) = std::sync::mpsc::channel();
    let last = journal.clone();
    let entry = Chain::new(1).entry(1);
    journal.append(
        vec![entry],
        Box::new(move |result| {
            drop(last);
            tx.send(result).unwrap();
        }),
    );
    drop(journal);
    rx.recv_timeout(PATIENCE).unwrap().unwrap();
    wait_for("the lock", || Journal::open(small(&dir, 8)).is_ok());
}

#[test]
fn metadata_of_all_volumes_fits_into_every_segment() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(small(&dir, 5)).unwrap();
    let meta = |volume: u128| Entry::Meta { volume: VolumeId(volume), blob: Bytes::from(vec![7; META_BYTES_MAX]) };
    for volume in 1..=3 {
        append(&journal, vec![meta(volume)]).unwrap();
        append(&journal, vec![meta(volume)]).unwrap();
    }
    let refused = append(&journal, vec![meta(4)]);
    assert!(matches!(refused, Err(JournalError::TooLarge { .. })), "{refused:?}");
    append(&journal, vec![Entry::Forget { volume: VolumeId(1) }]).unwrap();
    append(&journal, vec![meta(4)]).unwrap();
    let mut a = Chain::new(9);
    for _ in 0..100 {
        append(&journal, vec![a.entry(64)]).unwrap();
        journal.set_checkpoint(a.volume, a.end.seq);
    }
    drop(journal);
    let (_journal, found) = Journal::open(small(&dir, 5)).unwrap();
    let with_meta = found.iter().filter(|found| found.meta.as_ref().is_some_and(|meta| meta.len() == META_BYTES_MAX));
    assert_eq!(with_meta.map(|found| found.volume.0).collect::<Vec<_>>(), [2, 3, 4]);
}

#[test]
fn an_append_after_closing_is_answered_too() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(small(&dir, 5)).unwrap();
    let mut a = Chain::new(1);
    append(&journal, vec![a.entry(1)]).unwrap();
    journal.close();
    assert!(matches!(append(&journal, vec![a.entry(1)]), Err(JournalError::Closed)));
    assert_eq!(journal.read(a.volume, Seq(1), 1).unwrap().len(), 1);
}

#[test]
fn a_completion_that_panics_leaves_nobody_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(small(&dir, 5)).unwrap();
    let mut a = Chain::new(1);
    journal.append(vec![a.entry(1)], Box::new(|_| panic!("a caller's bug")));
    // Those of the same group are dropped, those after it are refused; none is left hanging.
    wait_for("the end of the thread", || match start(&journal, vec![a.entry(1)]).recv_timeout(PATIENCE) {
        Ok(result) => result.is_err(),
        Err(error) => error == mpsc::RecvTimeoutError::Disconnected,
    });
    wait_for("the word of it", || journal.status().poisoned.is_some());
}
