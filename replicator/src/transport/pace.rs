//! How fast bulk may go while the foreground needs the link.
//!
//! On a shared bottleneck bulk fills the queue that every record then waits in; stream priorities do not help, the
//! queue is the network's. So bulk backs off by what the foreground feels: while the main connection's round trip is
//! longer than its base by more than [`QUEUE_TARGET_US`], the rate shrinks, else it grows (the idea of LEDBAT, RFC
//! 6817). Without foreground traffic there is nothing to protect, and congestion control alone limits bulk.
//!
//! Measured over an emulated 100 Mbit/s, 20 ms link with a 400 KB queue and 333 writes a second: beside unpaced bulk
//! (81 Mbit/s) a write took 45 ms at the median instead of 23; beside paced bulk (72 Mbit/s) 27.
//!
//! [`Pace`] is the rule, without a clock; [`Pacer`] applies it to the bulk writer.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::node::Peer;

/// How often the rule looks.
pub(super) const INTERVAL: Duration = Duration::from_millis(100);
/// What bulk hands to its connection at a time.
pub(super) const SLICE_BYTES: usize = 64 << 10;
/// Bulk always gets this much, or a resync would never end on a busy link.
const RATE_MIN: f64 = (1 << 20) as f64;
const RATE_MAX: f64 = (16u64 << 30) as f64;
/// Where a link's rate is not known yet, bytes per second.
const RATE_START: f64 = (16 << 20) as f64;
/// What the foreground's round trip may grow by on behalf of bulk.
const QUEUE_TARGET_US: u64 = 5_000;
/// Intervals without a record, there or back, after which there is no foreground any more. One writer at a time may have
/// a single record in a round trip.
const FOREGROUND_INTERVALS: u32 = 10;
const GROWTH: f64 = 1.05;
/// One step down shrinks the rate to no less than this part.
const SHRINK_MIN: f64 = 0.5;
/// Intervals at the least rate after which a queue that still stands is none: the path has become longer.
const STARVED_INTERVALS: u32 = 20;
/// The base is the least round trip of so many spans of so many intervals: five minutes. An older minimum may be of
/// another path.
const BASE_SPANS: usize = 10;
const SPAN_INTERVALS: u32 = 300;

/// The rule: what the rate is after each look at the foreground.
pub(super) struct Pace {
    /// Bytes per second; `None`: unlimited.
    rate: Option<f64>,
    spans: VecDeque<u64>,
    intervals: u32,
    /// Intervals since the last one with a record.
    without_records: u32,
    /// Intervals at the least rate.
    starved: u32,
}

impl Pace {
    fn new() -> Pace {
        Pace {
            rate: None,
            spans: VecDeque::from([u64::MAX]),
            intervals: 0,
            without_records: FOREGROUND_INTERVALS,
            starved: 0,
        }
    }

    fn base_us(&self) -> u64 {
        self.spans.iter().copied().min().unwrap_or(u64::MAX)
    }

    /// One look. `rtt_us`: of the main connection now; `records`: messages with records that it sent and received since
    /// the last look; `sent_bytes`: what bulk sent since then.
    fn look(&mut self, rtt_us: u64, records: u64, sent_bytes: u64) {
        self.remember(rtt_us);
        self.without_records = if records > 0 { 0 } else { self.without_records.saturating_add(1) };
        if self.without_records >= FOREGROUND_INTERVALS {
            self.rate = None;
            return;
        }
        let sent_rate = sent_bytes as f64 / INTERVAL.as_secs_f64();
        let Some(rate) = self.rate else {
            // The foreground has begun: start from what bulk has just shown that the link carries, or less.
            let start = if sent_bytes > 0 { sent_rate * SHRINK_MIN } else { RATE_START };
            self.rate = Some(start.clamp(RATE_MIN, RATE_MAX));
            return;
        };
        self.starved = if rate <= RATE_MIN { self.starved + 1 } else { 0 };
        if self.starved > STARVED_INTERVALS {
            self.starved = 0;
            self.spans = VecDeque::from([rtt_us]);
        }
        let queue_us = rtt_us.saturating_sub(self.base_us());
        let next = if sent_bytes == 0 {
            // The queue is someone else's doing.
            rate
        } else if queue_us > QUEUE_TARGET_US {
            // In proportion to the excess: a little over, a little less.
            let excess = (queue_us - QUEUE_TARGET_US) as f64 / (4 * QUEUE_TARGET_US) as f64;
            rate * (1.0 - excess).max(SHRINK_MIN)
        } else if sent_rate * 2.0 < rate {
            // Bulk does not use what it has; more would be a guess.
            rate
        } else {
            rate * GROWTH
        };
        self.rate = Some(next.clamp(RATE_MIN, RATE_MAX));
    }

    fn remember(&mut self, rtt_us: u64) {
        self.intervals += 1;
        if self.intervals.is_multiple_of(SPAN_INTERVALS) {
            self.spans.push_back(u64::MAX);
            if self.spans.len() > BASE_SPANS {
                self.spans.pop_front();
            }
        }
        if let Some(span) = self.spans.back_mut() {
            *span = rtt_us.min(*span);
        }
    }
}

struct State {
    pace: Pace,
    /// The writer owes this much time: it has sent ahead of the rate until then.
    ahead_until: Instant,
    sent_bytes: u64,
}

/// The bulk writer's brake, one per bulk connection.
pub(super) struct Pacer(Mutex<State>);

impl Pacer {
    pub fn new() -> Pacer {
        Pacer(Mutex::new(State { pace: Pace::new(), ahead_until: Instant::now(), sent_bytes: 0 }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `bytes` more may be sent.
    pub async fn permit(&self, bytes: usize) {
        let wait = {
            let now = Instant::now();
            let mut state = self.state();
            state.sent_bytes += bytes as u64;
            let Some(rate) = state.pace.rate else { return };
            let start = state.ahead_until.max(now);
            state.ahead_until = start + Duration::from_secs_f64(bytes as f64 / rate);
            start - now
        };
        if !wait.is_zero() {
            sleep(wait).await;
        }
    }

    /// Looks at the peer's main connection for as long as it is polled.
    pub async fn watch(&self, peer: &Peer) {
        let mut records_before = peer.records_passed();
        loop {
            sleep(INTERVAL).await;
            let Some(rtt) = peer.main_rtt() else { continue };
            let records = peer.records_passed();
            let mut state = self.state();
            let sent_bytes = std::mem::take(&mut state.sent_bytes);
            let rtt_us = u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX);
            state.pace.look(rtt_us, records - records_before, sent_bytes);
            records_before = records;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUSY: u64 = 1000;

    /// A bottleneck of `link` bytes per second with a drop-tail queue of one bandwidth-delay product, shared by the
    /// foreground and by bulk at its full rate. Returns the rate and the longest round trip of the last quarter.
    fn run(link: f64, foreground: f64, base_us: u64, intervals: u32) -> (f64, u64) {
        let (mut pace, mut queue, mut longest_us) = (Pace::new(), 0f64, 0);
        // The base is learnt before the foreground begins.
        pace.look(base_us, 0, 0);
        let seconds = INTERVAL.as_secs_f64();
        for interval in 0..intervals {
            let bulk = pace.rate.unwrap_or(link);
            queue = (queue + (bulk + foreground - link) * seconds).clamp(0.0, link * base_us as f64 / 1e6);
            let rtt_us = base_us + (queue / link * 1e6) as u64;
            if interval > intervals * 3 / 4 {
                longest_us = longest_us.max(rtt_us);
            }
            pace.look(rtt_us, BUSY, (bulk.min(link) * seconds) as u64);
        }
        (pace.rate.unwrap(), longest_us)
    }

    #[test]
    fn bulk_takes_most_of_what_is_left_and_the_foreground_hardly_feels_it() {
        for (link, foreground, base_us) in [(12.5e6, 2e6, 20_000), (125e6, 30e6, 10_000), (125e6, 100e6, 80_000)] {
            let (rate, longest_us) = run(link, foreground, base_us, 2000);
            let left = link - foreground;
            assert!(rate > 0.5 * left && rate < 1.2 * left, "{rate} of {left}");
            let allowed_us = base_us + 6 * QUEUE_TARGET_US;
            assert!(longest_us < allowed_us, "{longest_us} with base {base_us}");
        }
    }

    #[test]
    fn a_queue_too_short_to_be_felt_leaves_bulk_to_congestion_control() {
        let (rate, longest_us) = run(125e6, 30e6, 2_000, 2000);
        assert!(rate > 95e6 && rate < 3.0 * 125e6, "{rate}");
        assert!(longest_us <= 4_000);
    }

    #[test]
    fn without_foreground_bulk_is_free_and_with_it_bulk_never_starves() {
        let mut pace = Pace::new();
        pace.look(1000, 0, 50_000_000);
        assert_eq!(pace.rate, None);
        for _ in 0..STARVED_INTERVALS {
            pace.look(500_000, BUSY, 1000);
        }
        assert_eq!(pace.rate, Some(RATE_MIN));
        // One writer at a time, over a path of half a second: a record now and then is a foreground, too.
        for record in 0..20 * FOREGROUND_INTERVALS {
            pace.look(500_000, u64::from(record.is_multiple_of(FOREGROUND_INTERVALS - 1)), 1000);
            assert!(pace.rate.is_some());
        }
        for _ in 0..=FOREGROUND_INTERVALS {
            pace.look(500_000, 0, 1000);
        }
        assert_eq!(pace.rate, None);
        pace.look(1_000, BUSY, 0);
        let begun = pace.rate;
        pace.look(500_000, BUSY, 0);
        assert_eq!(pace.rate, begun, "what bulk did not cause it does not answer for");
    }

    #[test]
    fn bulk_that_starves_finds_out_that_the_path_is_longer() {
        let (mut pace, left) = (Pace::new(), 15e6);
        pace.look(300, 0, 50_000_000);
        for _ in 0..600 {
            let rate = pace.rate.unwrap_or(left);
            let queue_us = if rate > left { 20_000 } else { 0 };
            pace.look(50_000 + queue_us, BUSY, (rate.min(left) * INTERVAL.as_secs_f64()) as u64);
        }
        assert!(pace.rate.is_some_and(|rate| rate > left / 2.0), "{:?}", pace.rate);
    }

    #[test]
    fn a_longer_path_becomes_the_new_base() {
        let mut pace = Pace::new();
        pace.look(1000, BUSY, 1000);
        for _ in 0..SPAN_INTERVALS * (BASE_SPANS as u32 + 1) {
            pace.look(90_000, BUSY, 1000);
        }
        assert_eq!(pace.base_us(), 90_000);
    }

    #[tokio::test]
    async fn the_brake_spreads_what_is_sent() {
        let pacer = Pacer::new();
        pacer.state().pace.rate = Some(1e6);
        let begin = Instant::now();
        for _ in 0..4 {
            pacer.permit(50_000).await;
        }
        // The first leaves at once, each further one 50 ms after the one before.
        assert!(begin.elapsed() >= Duration::from_millis(150), "{:?}", begin.elapsed());
    }
}
