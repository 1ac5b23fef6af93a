//! Prints what the journal does in a second or two. Asserts nothing about it: that is the benches' business.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::*;

#[test]
fn throughput_is_printed() {
    for (name, blocks, in_flight) in
        [("4 KiB, one at a time", 1, 1), ("4 KiB, 128 in flight", 1, 128), ("256 KiB, 16 in flight", 64, 16)]
    {
        let dir = tempfile::tempdir().unwrap();
        let config = JournalConfig { engine: EngineChoice::Auto, ..small(&dir, 16) };
        let (journal, _) = Journal::open(config).unwrap();
        let mut chain = Chain::new(1);
        let done = Arc::new(AtomicU64::new(0));
        let began = Instant::now();
        let mut sent = 0;
        while began.elapsed() < Duration::from_millis(700) {
            if sent - done.load(Ordering::Acquire) >= in_flight {
                std::thread::yield_now();
                continue;
            }
            let done = done.clone();
            journal.append(
                vec![chain.entry(blocks)],
                Box::new(move |result| {
                    result.expect("an append failed");
                    done.fetch_add(1, Ordering::Release);
                }),
            );
            sent += 1;
            if sent % 16 == 0 {
                journal.set_checkpoint(chain.volume, Seq(sent.saturating_sub(2 * in_flight)));
            }
        }
        journal.close();
        let (status, seconds) = (journal.status(), began.elapsed().as_secs_f64());
        let per_second = sent as f64 / seconds;
        println!(
            "{name}: {per_second:.0} appends/s, {:.1} MiB/s, {:.1} appends per sync, engine {}, direct {}",
            per_second * blocks as f64 / 256.0,
            sent as f64 / status.syncs as f64,
            status.engine,
            status.direct
        );
        assert_eq!(done.load(Ordering::Acquire), sent, "closing writes what is queued");
    }
}
