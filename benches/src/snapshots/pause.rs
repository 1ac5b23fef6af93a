//! How long I/O waits while a snapshot is made: four writers without a pause, and snapshots among them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use farshore_tests::cluster::Site;
use farshore_wan::Conditions;

use super::figures::Pause;
use super::volumes::{BLOCK_BYTES, MEMBERS, attach, client, create, run};
use crate::histogram::Histogram;
use crate::stage::Stage;

const WRITERS: u64 = 4;
const VOLUME: &str = "paused";
const PARTNER: &str = "partner";
const BYTES: u64 = 64 << 20;
/// Between two snapshots: so much is without any.
const APART: Duration = Duration::from_millis(120);
/// Between the two sites that lead a cut over two volumes.
const CUT_RTT_MS: u32 = 5;

/// A stretch of the run, since its beginning.
type Span = (Duration, Duration);

pub fn measure(stage: &Stage, snapshots: usize) -> Result<Pause, String> {
    let (east, west) = (stage.east(), &stage.sites()[1]);
    create(east, VOLUME, BYTES, MEMBERS)?;
    attach(east, VOLUME)?;
    run(east, &["snapshot", "create", VOLUME, "--name", "first"])?;
    let began = Instant::now();
    let ((made, shown), writes) = while_written(east, began, || {
        let (mut made, mut shown) = (Vec::new(), Vec::new());
        for number in 0..snapshots {
            let name = format!("s{number}");
            made.push(span(began, || run(east, &["snapshot", "create", VOLUME, "--name", &name]))?);
            shown.push(span(began, || run(east, &["snapshot", "show", &format!("{VOLUME}@first")]))?);
        }
        Ok((made, shown))
    })?;
    let beside = latencies(&writes, |write| made.iter().any(|span| overlap(*write, *span)));
    let showing = latencies(&writes, |write| {
        shown.iter().any(|span| overlap(*write, *span)) && !made.iter().any(|span| overlap(*write, *span))
    });
    let without = latencies(&writes, |write| !made.iter().chain(&shown).any(|span| overlap(*write, *span)));
    let ms = |us: f64| us / 1e3;

    create(west, PARTNER, BYTES, "--members=west,east,north")?;
    attach(west, PARTNER)?;
    let apart = Duration::from_millis(CUT_RTT_MS.into());
    stage.wan().set(Conditions { mtu_bytes: None, ..Conditions::between_sites(apart) });
    let (held, _) = while_written(east, began, || {
        let cut = |number: usize| {
            std::thread::sleep(APART);
            let cut = run(east, &["snapshot", "create", VOLUME, PARTNER, "--name", &format!("cut{number}")])?;
            cut["held_us"].as_u64().ok_or_else(|| format!("a cut that does not say how long it held: {cut}"))
        };
        (0..snapshots.div_ceil(2)).map(cut).collect::<Result<Vec<u64>, String>>()
    })?;
    stage.wan().set(Conditions::default());
    let cuts = held.len();
    let held: Histogram = held.into_iter().map(|us| us * 1000).collect();
    for (site, volume) in [(east, VOLUME), (west, PARTNER)] {
        run(site, &["volume", "detach", volume])?;
    }
    Ok(Pause {
        snapshots,
        writes_beside: beside.count(),
        beside_p50_ms: ms(beside.p50_us()),
        beside_p99_ms: ms(beside.p99_us()),
        beside_max_ms: ms(beside.percentile_us(1.0).unwrap_or_default()),
        shown_p99_ms: ms(showing.p99_us()),
        without_p50_ms: ms(without.p50_us()),
        without_p99_ms: ms(without.p99_us()),
        cuts,
        cut_rtt_ms: CUT_RTT_MS,
        cut_held_p99_ms: ms(held.p99_us()),
    })
}

/// When something began and ended, after some time without anything.
fn span<T>(began: Instant, what: impl FnOnce() -> Result<T, String>) -> Result<Span, String> {
    std::thread::sleep(APART);
    let start = began.elapsed();
    what()?;
    Ok((start, began.elapsed()))
}

fn overlap(a: Span, b: Span) -> bool {
    a.0 < b.1 && b.0 < a.1
}

fn latencies(writes: &[Span], counts: impl Fn(&Span) -> bool) -> Histogram {
    writes.iter().filter(|write| counts(write)).map(|(start, end)| (*end - *start).as_nanos() as u64).collect()
}

/// Does something while the volume is written to; also returns when each write began and ended.
fn while_written<T>(
    site: &Site,
    began: Instant,
    what: impl FnOnce() -> Result<T, String>,
) -> Result<(T, Vec<Span>), String> {
    let stop = AtomicBool::new(false);
    let write = |writer: u64| {
        let mut device = client(site, VOLUME)?;
        let mut spans = Vec::new();
        let blocks = BYTES / BLOCK_BYTES as u64 / WRITERS;
        for number in 0_u64.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let block = writer * blocks + super::volumes::scattered(number, blocks);
            let bytes = [(number % 251) as u8 + 1; BLOCK_BYTES];
            let start = began.elapsed();
            device.write(block * BLOCK_BYTES as u64, &bytes).map_err(|e| format!("writing beside snapshots: {e:?}"))?;
            spans.push((start, began.elapsed()));
        }
        Ok::<_, String>(spans)
    };
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS).map(|writer| scope.spawn(move || write(writer))).collect();
        let done = what();
        stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for writer in writers {
            all.extend(writer.join().expect("a writer does not panic")?);
        }
        Ok((done?, all))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_under_way_at_some_time_of_a_span_is_beside_it() {
        let at = |from: u64, upto: u64| (Duration::from_millis(from), Duration::from_millis(upto));
        let span = at(10, 20);
        let beside = [at(5, 11), at(12, 13), at(19, 30), at(5, 30)];
        assert!(beside.into_iter().all(|write| overlap(write, span)));
        assert!(![at(5, 10), at(20, 21)].into_iter().any(|write| overlap(write, span)));
        let writes = [at(5, 11), at(20, 24)];
        assert_eq!(latencies(&writes, |write| !overlap(*write, span)).p99_us(), 4000.0);
    }
}
