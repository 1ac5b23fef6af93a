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
