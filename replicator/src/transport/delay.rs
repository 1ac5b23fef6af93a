//! A congestion controller for long links that lose packets at random: it goes by delay, and takes a few losses for
//! weather.
//!
//! Loss-based control (Cubic, RFC 9438) can't tell a full queue from a bad line: at 50 ms and 0.1 % loss it carries a
//! tenth of 200 Mbit/s. A queue shows in the round-trip time first. So once a round the window moves towards
//!
//! ```text
//! window × (base + target) ÷ standing
//! ```
//!
//! *base* being the least round trip of the last twenty seconds, *standing* the least one of this round (noise only ever adds to one
//! packet's) and *target* the queue that is meant to stand: enough to keep the link busy. This is FAST TCP's update
//! (Jin, Wei, Low, "FAST TCP: motivation, architecture, algorithms, performance", INFOCOM 2004, eq. 5) with its target
//! in time instead of packets, and standing as in Copa (Arun, Balakrishnan, NSDI 2018). A connection starts by doubling
//! until a queue shows, as in Vegas (Brakmo, Peterson, 1995).
//!
//! A path may become longer, so a base is not kept for ever; and since a queue of our own making would pass for the path
//! in time, every ten seconds two rounds go with half the window, which drains it (as BBR's ProbeRTT does).
//!
//! Beside loss-based flows on a queue that they keep full it would be starved: below [`WINDOW_FLOOR_BYTES`] only loss
//! pushes it.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory};
use quinn_proto::RttEstimator;

/// The queue that is meant to stand, beside a tenth of the round trip: below that it is the machines' own noise.
const TARGET_MIN: Duration = Duration::from_millis(2);
const TARGET_PART: u32 = 10;
const TARGET_LEAST: Duration = Duration::from_micros(100);
const TARGET_MAX: Duration = Duration::from_secs(1);
/// Each round without overflow; the queue may have become longer.
const SHALLOW_GROWTH: f64 = 1.01;
/// Of the window in one round, but for doubling at the start.
const GROWTH_MAX: f64 = 1.25;
/// More loss than this is a queue that overflows before delay could show it.
const LOSS_MAX: f64 = 0.08;
/// Judged over several rounds of few packets: of ten, one that is lost is no tenth of all. So much of what is sent is
/// looked at together, and less than the second figure is no reason to judge.
const LOSS_SAMPLE_BYTES: u64 = 384 << 10;
const LOST_BYTES_MIN: u64 = 24 << 10;
const LOSS_SHRINK: f64 = 0.7;
/// Delay alone does not push the window lower: whoever fills the queue may not be us.
const WINDOW_FLOOR_BYTES: f64 = (256 << 10) as f64;
const WINDOW_MIN_BYTES: f64 = (16 << 10) as f64;
const WINDOW_MAX_BYTES: f64 = (256 << 20) as f64;
/// Rounds with next to no queue until it is taken for certain that the link has more to give, and the window grows by as
/// much as it may.
const QUIET_ROUNDS: u32 = 4;
/// Rounds and time at the floor after which the path must have become longer.
const STARVED_ROUNDS: u32 = 16;
const STARVED_FOR: Duration = Duration::from_secs(1);
/// The base is the least of two spans.
const BASE_SPAN: Duration = Duration::from_secs(10);
const DRAIN_ROUNDS: u32 = 2;

#[derive(Debug, Clone)]
struct Round {
    began: Instant,
    standing: Duration,
    longest: Duration,
    acked: u64,
    lost: u64,
    congested: bool,
    /// The window was what held us back, at least once.
    full: bool,
}

/// What became of packets, over one round or several.
#[derive(Debug, Clone, Copy, Default)]
struct Losses {
    acked: u64,
    lost: u64,
}

impl Losses {
    /// Adds a round and says whether too much was lost; then, or after enough, it begins anew.
    fn too_many(&mut self, round: &Round) -> bool {
        (self.acked, self.lost) = (self.acked + round.acked, self.lost + round.lost);
        let all = self.acked + self.lost;
        let many = self.lost >= LOST_BYTES_MIN && self.lost as f64 > LOSS_MAX * all as f64;
        if many || all >= LOSS_SAMPLE_BYTES {
            *self = Losses::default();
        }
        many
    }
}

impl Round {
    fn new(began: Instant) -> Round {
        Round {
            began,
            standing: Duration::MAX,
            longest: Duration::ZERO,
            acked: 0,
            lost: 0,
            congested: false,
            full: false,
        }
    }
}

/// One connection's window.
#[derive(Debug, Clone)]
pub(super) struct DelayWindow {
    initial: f64,
    window: f64,
    base: Duration,
    span_began: Instant,
    span_least: Duration,
    /// Rounds that are still to go with half the window, and the whole one.
    draining: Option<(u32, f64)>,
    round: Round,
    losses: Losses,
    starting: bool,
    quiet: u32,
    starved: Option<(Instant, u32)>,
    /// The queue overflows before it is as long as we would like it: half of what it was then.
    shallow: Duration,
}

impl DelayWindow {
    fn new(now: Instant, initial_bytes: u64) -> DelayWindow {
        let initial = initial_bytes as f64;
        DelayWindow {
            initial,
            window: initial,
            base: Duration::MAX,
            span_began: now,
            span_least: Duration::MAX,
            draining: None,
            round: Round::new(now),
            losses: Losses::default(),
            starting: true,
            quiet: 0,
            starved: None,
            shallow: TARGET_MAX,
        }
    }

    fn target(&self) -> Duration {
        (self.base / TARGET_PART).max(TARGET_MIN).min(self.shallow)
    }

    fn acked(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool) {
        let took = now.saturating_duration_since(sent);
        self.base = self.base.min(took);
        self.span_least = self.span_least.min(took);
        let round = &mut self.round;
        round.standing = round.standing.min(took);
        round.longest = round.longest.max(took);
        round.acked += bytes;
        round.full |= !app_limited;
        if sent >= round.began {
            let over = std::mem::replace(round, Round::new(now));
            self.window = self.after(&over, now).clamp(WINDOW_MIN_BYTES, WINDOW_MAX_BYTES);
            if now.saturating_duration_since(self.span_began) >= BASE_SPAN {
                // The least of the span that has just ended, and of what is to come.
                self.base = self.span_least;
                (self.span_began, self.span_least) = (now, Duration::MAX);
                self.draining = Some((DRAIN_ROUNDS, self.window));
                self.window /= 2.0;
            }
        }
    }

    /// The window that follows from one round.
    fn after(&mut self, round: &Round, now: Instant) -> f64 {
        // A window that holds nothing back is no cause of losses.
        if !round.full && self.draining.is_none() {
            return self.window;
        }
        if self.losses.too_many(round) || round.congested {
            self.starting = false;
            (self.quiet, self.draining) = (0, None);
            self.shallow = (round.longest.saturating_sub(self.base) / 2).clamp(TARGET_LEAST, self.shallow);
            return self.window * LOSS_SHRINK;
        }
        self.shallow = self.shallow.mul_f64(SHALLOW_GROWTH).min(TARGET_MAX);
        if let Some((rounds, whole)) = self.draining {
            self.draining = (rounds > 1).then_some((rounds - 1, whole));
            return if self.draining.is_some() { self.window } else { whole };
        }
        let (base, target) = (self.base.as_secs_f64(), self.target().as_secs_f64());
        let standing = round.standing.as_secs_f64();
        let queue = standing - base;
        if self.starting {
            if queue < target / 2.0 {
                return self.window + round.acked as f64;
            }
            self.starting = false;
            return (self.window * (base + target) / standing).max(WINDOW_FLOOR_BYTES.min(self.window));
        }
        self.quiet = if queue < target / 4.0 { self.quiet + 1 } else { 0 };
        let growth = if self.quiet > QUIET_ROUNDS { GROWTH_MAX } else { (1.0 + (base + target) / standing) / 2.0 };
        // It grows no further than a little above what a round delivers: when the path changes, all of the window is under
        // way at once. A round that had little to send is no reason to give up what was found before.
        let used = (2 * round.acked) as f64 + self.initial;
        let next = (self.window * growth.min(GROWTH_MAX)).min(used.max(self.window));
        self.notice_a_longer_path(queue > target && next < WINDOW_FLOOR_BYTES, round.standing, now);
        if next < self.window { next.max(WINDOW_FLOOR_BYTES.min(self.window)) } else { next }
    }

    /// A queue that stays although we hardly send any more is no queue.
    fn notice_a_longer_path(&mut self, starved: bool, standing: Duration, now: Instant) {
        let Some((since, rounds)) = self.starved.filter(|_| starved) else {
            self.starved = starved.then_some((now, 1));
            return;
        };
        self.starved = Some((since, rounds + 1));
        if rounds >= STARVED_ROUNDS && now.saturating_duration_since(since) >= STARVED_FOR {
            (self.base, self.span_least, self.starved) = (standing, standing, None);
            self.starting = true;
        }
    }
}

impl Controller for DelayWindow {
    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, _rtt: &RttEstimator) {
        self.acked(now, sent, bytes, app_limited);
    }

    fn on_congestion_event(&mut self, _now: Instant, _sent: Instant, is_persistent: bool, lost_bytes: u64) {
        self.round.lost += lost_bytes;
        // None lost: a router marked a packet (ECN).
        self.round.congested |= lost_bytes == 0;
        if is_persistent {
            // A path that carries nothing is probed and not flooded.
            (self.window, self.starting, self.quiet, self.draining) = (WINDOW_MIN_BYTES, true, 0, None);
        }
    }

    fn on_mtu_update(&mut self, _new_mtu: u16) {}

    fn window(&self) -> u64 {
        self.window as u64
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.initial as u64
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// Makes one for each path.
#[derive(Debug)]
pub(super) struct DelayFactory {
    pub initial_window_bytes: u64,
}

impl ControllerFactory for DelayFactory {
    fn build(self: Arc<Self>, now: Instant, _current_mtu: u16) -> Box<dyn Controller> {
        Box::new(DelayWindow::new(now, self.initial_window_bytes))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    const PACKET: u64 = 1452;

    /// A bottleneck with a drop-tail queue, some propagation, and weather; each loop of `run` sends or hears one packet.
    struct Link {
        bytes_per_s: f64,
        rtt: f64,
        queue_s: f64,
        loss_every: u64,
    }

    struct Outcome {
        share: f64,
        lost: f64,
        /// Mean time in the queue over the second half, in seconds.
        queued_s: f64,
    }

    fn run(window: &mut DelayWindow, link: &Link, seconds: f64) -> Outcome {
        let zero = window.round.began;
        let at = |s: f64| zero + Duration::from_secs_f64(s);
        // (when its answer is here, when it was sent); `None` instead of an answer: it was lost.
        let mut under_way: VecDeque<(f64, f64, bool)> = VecDeque::new();
        let (mut now, mut free_at, mut in_flight) = (0.0f64, 0.0f64, 0);
        let (mut sent, mut lost, mut delivered, mut queued, mut samples) = (0u64, 0u64, 0u64, 0.0, 0u64);
        while now < seconds {
            while in_flight + PACKET <= window.window() {
                sent += 1;
                in_flight += PACKET;
                let wait = (free_at - now).max(0.0);
                let dropped = wait > link.queue_s || sent.is_multiple_of(link.loss_every);
                if wait <= link.queue_s {
                    free_at = now + wait + PACKET as f64 / link.bytes_per_s;
                }
                if now > seconds / 2.0 && !dropped {
                    (queued, samples) = (queued + wait, samples + 1);
                }
                let heard = now + wait + PACKET as f64 / link.bytes_per_s + link.rtt;
                under_way.push_back((heard, now, dropped));
            }
            let Some((heard, began, dropped)) = under_way.pop_front() else { break };
            now = now.max(heard);
            in_flight -= PACKET;
            if dropped {
                lost += 1;
                window.on_congestion_event(at(now), at(began), false, PACKET);
            } else {
                delivered += PACKET;
                window.acked(at(now), at(began), PACKET, false);
            }
        }
        Outcome {
            share: delivered as f64 / seconds / link.bytes_per_s,
            lost: lost as f64 / sent as f64,
            queued_s: queued / samples.max(1) as f64,
        }
    }

    fn fresh() -> DelayWindow {
        DelayWindow::new(Instant::now(), 128 << 10)
    }

    fn link(mbit_s: f64, rtt_ms: f64, loss_every: u64) -> Link {
        let (bytes_per_s, rtt) = (mbit_s * 1e6 / 8.0, rtt_ms / 1e3);
        Link { bytes_per_s, rtt, queue_s: rtt, loss_every }
    }

    #[test]
    fn a_long_lossy_link_is_filled_and_its_queue_is_not() {
        for loss_every in [u64::MAX, 1000, 100] {
            let link = link(200.0, 50.0, loss_every);
            let got = run(&mut fresh(), &link, 20.0);
            assert!(got.share > 0.9, "1 of {loss_every}: {:.3} of the link", got.share);
            assert!(got.lost < 1.0 / loss_every as f64 + 0.01, "1 of {loss_every}: {:.4} lost", got.lost);
            assert!(got.queued_s < 0.0075, "1 of {loss_every}: {:.4} s in the queue", got.queued_s);
        }
    }

    #[test]
    fn short_and_slow_links_are_filled_too() {
        for (mbit_s, rtt_ms) in [(1000.0, 1.0), (100.0, 5.0), (1000.0, 20.0), (500.0, 80.0)] {
            let got = run(&mut fresh(), &link(mbit_s, rtt_ms, 1000), 20.0);
            assert!(got.share > 0.85, "{mbit_s} Mbit/s, {rtt_ms} ms: {:.3} of the link", got.share);
            assert!(got.lost < 0.05, "{mbit_s} Mbit/s, {rtt_ms} ms: {:.3} lost", got.lost);
        }
        // A queue of less than a window's floor: only loss can tell.
        let slow = run(&mut fresh(), &link(2.0, 50.0, u64::MAX), 60.0);
        assert!(slow.share > 0.8 && slow.lost < 0.2, "{:.3}, {:.3} lost", slow.share, slow.lost);
    }

    #[test]
    fn a_link_that_gives_more_is_used_and_one_that_gives_less_is_not_flooded() {
        let mut window = fresh();
        run(&mut window, &link(50.0, 50.0, 1000), 10.0);
        let narrow = window.window();
        // Time goes on for the window: each run begins where it left off.
        window.round = Round::new(Instant::now());
        run(&mut window, &link(400.0, 50.0, 1000), 10.0);
        assert!(window.window() > 4 * narrow, "{narrow} to {}", window.window());
        window.round = Round::new(Instant::now());
        let got = run(&mut window, &link(50.0, 50.0, 1000), 20.0);
        assert!(window.window() < 2 * narrow && got.lost < 0.1, "{} and {:.3} lost", window.window(), got.lost);
    }

    #[test]
    fn a_path_that_became_longer_is_not_taken_for_a_queue_for_ever() {
        let mut window = fresh();
        run(&mut window, &link(200.0, 10.0, 1000), 5.0);
        window.round = Round::new(Instant::now());
        let got = run(&mut window, &link(200.0, 100.0, 1000), 120.0);
        assert!(got.share > 0.7, "{:.3}", got.share);
    }

    #[test]
    fn rounds_with_little_to_send_cost_nothing_of_the_window() {
        let (now, rtt) = (Instant::now(), Duration::from_millis(50));
        let mut window = fresh();
        run(&mut window, &link(200.0, 50.0, 100), 10.0);
        let found = window.window();
        window.round = Round::new(now);
        for round in 0..20u64 {
            for _ in 0..10 {
                let sent = now + rtt * round as u32;
                window.acked(sent + rtt, sent, PACKET, false);
            }
        }
        assert!(window.window() >= found / 2, "{found} became {}", window.window());
    }

    #[test]
    fn a_few_small_writes_keep_their_window_in_bad_weather() {
        let (now, rtt) = (Instant::now(), Duration::from_millis(50));
        for app_limited in [true, false] {
            let mut window = fresh();
            // Ten packets of 4 KiB in each round, of which at 1 % every tenth round loses one.
            for round in 0..1000u64 {
                let sent = now + rtt * round as u32;
                for packet in 0..10 {
                    if round.is_multiple_of(10) && packet == 3 {
                        window.on_congestion_event(sent + rtt, sent, false, 4300);
                    } else {
                        window.acked(sent + rtt, sent, 4300, app_limited);
                    }
                }
            }
            assert!(window.window() >= 100 << 10, "{} left, app limited: {app_limited}", window.window());
        }
    }

    #[test]
    fn silence_is_probed_gently_and_idleness_changes_nothing() {
        let now = Instant::now();
        let mut window = fresh();
        window.on_congestion_event(now, now, true, 100_000);
        assert_eq!(window.window(), WINDOW_MIN_BYTES as u64);
        let mut window = fresh();
        for round in 1..100u64 {
            let at = now + Duration::from_millis(100 * round);
            window.acked(at, at - Duration::from_millis(50), 4096, true);
        }
        assert_eq!(window.window(), 128 << 10);
    }
}
