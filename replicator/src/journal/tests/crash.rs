//! Processes killed with -9 in the middle of their work: whatever was reported done is there afterwards.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use super::*;

const DIR: &str = "FARSHORE_TEST_JOURNAL_DIR";
const ROUNDS: usize = 8;

/// Not a test of its own: what the killed process runs. Appends without end and prints what was done.
#[test]
fn the_child_that_is_killed() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let config = JournalConfig {
        segment_bytes: 4 * MIB,
        budget_bytes: 24 * MIB,
        engine: EngineChoice::Auto,
        ..JournalConfig::at(dir)
    };
    let (journal, found) = Journal::open(config).unwrap();
    let mut chains: Vec<Chain> = (1..=3).map(Chain::new).collect();
    for chain in &mut chains {
        if let Some(found) = found.iter().find(|found| found.volume == chain.volume) {
            chain.end = LogEnd { seq: found.last, hash: found.last_hash, epoch: found.last_epoch };
            journal.set_checkpoint(chain.volume, Seq(found.last.0.saturating_sub(60)));
        }
    }
    for round in 0.. {
        for chain in &mut chains {
            let (volume, blocks) = (chain.volume, round % 9 + 1);
            let meta = Entry::Meta { volume, blob: Bytes::from((chain.end.seq.0 + 1).to_string()) };
            let record = chain.entry(blocks);
            let end = chain.end;
            let done = move |result: Result<(), JournalError>| {
                result.unwrap();
                println!("done {} {} {}", volume.0, end.seq.0, end.hash.0);
            };
            journal.append(vec![record, meta], Box::new(done));
            if round > 20 && round % 10 == 0 {
                journal.set_checkpoint(volume, Seq(end.seq.0.saturating_sub(60)));
            }
        }
        wait_for("the queue", || journal.queued_bytes() < MIB);
    }
}

/// Starts the child, kills it after so many lines, and returns all that it had reported by then.
fn run_and_kill(dir: &std::path::Path, lines: usize) -> Vec<(u128, u64, u128)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "journal::tests::crash::the_child_that_is_killed", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let mut ledger = Vec::new();
    let mut line = String::new();
    let mut killed = false;
    while reader.read_line(&mut line).unwrap() > 0 {
        if line.ends_with('\n')
            && let Some(done) = line.split("done ").nth(1)
        {
            let mut words = done.split_whitespace();
            let mut number = || words.next().unwrap().parse::<u128>().unwrap();
            ledger.push((number(), number() as u64, number()));
        }
        line.clear();
        if ledger.len() >= lines && !killed {
            killed = true;
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(killed, "the child ended by itself");
    ledger
}

#[test]
fn what_a_killed_process_had_reported_done_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    for round in 0..ROUNDS {
        let ledger = run_and_kill(&path, 20 + round * 67 % 350);
        let config = JournalConfig { segment_bytes: 4 * MIB, budget_bytes: 24 * MIB, ..JournalConfig::at(&path) };
        let (journal, found) = Journal::open(config).unwrap();
        for volume in 1..=3 {
            let Some(&(_, seq, hash)) = ledger.iter().rev().find(|&&(of, ..)| of == volume) else { continue };
            let found = found.iter().find(|found| found.volume.0 == volume).expect("a volume vanished");
            assert_eq!((found.damaged, found.meta_damaged), (None, false), "round {round}");
            assert!(found.last.0 >= seq, "round {round}: {seq} of {volume} was done, the log ends at {}", found.last);
            let meta: u64 = std::str::from_utf8(found.meta.as_deref().unwrap()).unwrap().parse().unwrap();
            assert!(meta >= seq, "round {round}: metadata {meta} is older than the record {seq} done with it");
            let records = read_all(&journal, found.volume, found.first);
            let done = records.iter().find(|record| record.seq.0 == seq).map(|record| record.hash().0);
            assert_eq!(done, Some(hash), "round {round}");
            assert!(records.windows(2).all(|pair| pair[1].prev_hash == pair[0].hash()), "the chain holds");
        }
    }
    std::io::stdout().flush().unwrap();
}
