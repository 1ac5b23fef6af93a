//! How far one remote member is, over time: whether it has stayed beyond a limit, and whether it has kept within them
//! for long enough. Pure: what is seen goes in, and the clock with it.

use crate::ids::Tick;
use crate::limits::{LEAVE_LEASES, REJOIN_DOUBLINGS_MAX, REJOIN_LEASES, STAY_LEASES};
use crate::register::Mode;

/// Which limit a member is beyond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    Latency { us: u64, limit_us: u64 },
    Lag { bytes: u64, limit_bytes: u64 },
    Silent,
}

impl std::fmt::Display for Over {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Over::Latency { us, limit_us } => write!(f, "commit latency {} ms over {} ms", us / 1000, limit_us / 1000),
            Over::Lag { bytes, limit_bytes } => write!(f, "lag {} KiB over {} KiB", bytes >> 10, limit_bytes >> 10),
            Over::Silent => f.write_str("not heard"),
        }
    }
}

/// What is seen of a member at one look.
#[derive(Debug, Clone, Copy)]
pub struct Sight {
    /// Of what it made durable since the last look, or the age of what it has not.
    pub latency_us: u64,
    pub lag_bytes: u64,
    /// It answered within the lease.
    pub heard: bool,
}

impl Sight {
    /// The limit that it is beyond. Who is outside must keep below four fifths of each, so that nobody comes back only to
    /// leave again.
    fn over(&self, mode: Mode, in_sync: bool) -> Option<Over> {
        let Mode::Adaptive { max_commit_latency_us, max_lag_bytes } = mode else { return None };
        let least = |limit: u64| if in_sync || limit == 0 { limit } else { limit - limit / 5 };
        let (limit_us, limit_bytes) = (least(max_commit_latency_us), least(max_lag_bytes));
        if !self.heard {
            return Some(Over::Silent);
        }
        if limit_us > 0 && self.latency_us > limit_us {
            return Some(Over::Latency { us: self.latency_us, limit_us });
        }
        (limit_bytes > 0 && self.lag_bytes > limit_bytes).then_some(Over::Lag { bytes: self.lag_bytes, limit_bytes })
    }
}

#[derive(Debug)]
pub struct Watch {
    samples: u32,
    samples_us: u64,
    over: Option<Over>,
    /// When it was last seen within the limits; at first, when it was first looked at.
    within_at: Tick,
    /// Since when it has been within them without a break.
    within_since: Option<Tick>,
    entered: Tick,
    left: Option<(Tick, Over)>,
    /// How often it left, as far as that still counts.
    departures: u32,
}

impl Watch {
    pub fn new(now: Tick) -> Watch {
        Watch {
            samples: 0,
            samples_us: 0,
            over: None,
            within_at: now,
            within_since: None,
            entered: now,
            left: None,
            departures: 0,
        }
    }

    /// So long it took to make something durable, or to answer.
    pub fn sample(&mut self, us: u64) {
        self.samples += 1;
        self.samples_us = self.samples_us.saturating_add(us);
    }

    /// The mean of the samples since the last look.
    pub fn take_mean_us(&mut self) -> Option<u64> {
        let mean = self.samples_us.checked_div(self.samples.into());
        (self.samples, self.samples_us) = (0, 0);
        mean
    }

    pub fn see(&mut self, sight: Sight, mode: Mode, in_sync: bool, lease_us: u64, now: Tick) {
        self.over = sight.over(mode, in_sync);
        if self.over.is_none() {
            self.within_at = now;
            self.within_since.get_or_insert(now);
        } else {
            self.within_since = None;
        }
        if !in_sync {
            return;
        }
        if self.left.take().is_some() {
            self.entered = now;
        }
        if now.since(self.entered) >= STAY_LEASES * lease_us {
            self.departures = 0;
        }
    }

    /// It has stayed beyond a limit.
    pub fn is_far(&self, lease_us: u64, now: Tick) -> Option<Over> {
        self.over.filter(|_| now.since(self.within_at) >= LEAVE_LEASES * lease_us)
    }

    /// It has kept within the limits for long enough to come back: the longer, the oftener it has left of late.
    pub fn is_near(&self, lease_us: u64, now: Tick) -> bool {
        let doublings = self.departures.saturating_sub(1).min(REJOIN_DOUBLINGS_MAX);
        let after_us = (REJOIN_LEASES * lease_us) << doublings;
        self.within_since.is_some_and(|since| now.since(since) >= after_us)
    }

    pub fn leave(&mut self, why: Over, now: Tick) {
        self.departures = self.departures.saturating_add(1);
        self.left = Some((now, why));
    }

    pub fn left(&self) -> Option<(Tick, Over)> {
        self.left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE_US: u64 = 1_000_000;
    const MODE: Mode = Mode::Adaptive { max_commit_latency_us: 50_000, max_lag_bytes: 1 << 20 };

    fn at(latency_us: u64) -> Sight {
        Sight { latency_us, lag_bytes: 0, heard: true }
    }

    /// Looks twice a lease for so many leases; says when it would leave or come back, in leases.
    fn look(watch: &mut Watch, sight: Sight, in_sync: bool, from: u64, leases: u64) -> Option<u64> {
        for half in 1..=2 * leases {
            let now = Tick((2 * from + half) * LEASE_US / 2);
            watch.see(sight, MODE, in_sync, LEASE_US, now);
            let done = if in_sync { watch.is_far(LEASE_US, now).is_some() } else { watch.is_near(LEASE_US, now) };
            if done {
                return Some(half.div_ceil(2));
            }
        }
        None
    }

    #[test]
    fn a_spike_is_forgiven_and_what_stays_is_not() {
        let mut watch = Watch::new(Tick(0));
        for half in 0..100_u64 {
            let now = Tick(half * LEASE_US / 2);
            watch.see(at(if half % 2 == 0 { 90_000 } else { 40_000 }), MODE, true, LEASE_US, now);
            assert_eq!(watch.is_far(LEASE_US, now), None, "{half}");
        }
        assert_eq!(look(&mut watch, at(90_000), true, 50, 10), Some(LEAVE_LEASES));
        let silent = Sight { latency_us: 0, lag_bytes: 0, heard: false };
        assert_eq!(look(&mut Watch::new(Tick(0)), silent, true, 0, 10), Some(LEAVE_LEASES));
        let lagging = Sight { lag_bytes: 2 << 20, ..at(1000) };
        assert_eq!(look(&mut Watch::new(Tick(0)), lagging, true, 0, 10), Some(LEAVE_LEASES));
    }

    #[test]
    fn who_is_outside_comes_back_when_well_within_and_later_each_time() {
        let mut watch = Watch::new(Tick(0));
        let mut from = 0;
        let mut waited = Vec::new();
        for _ in 0..6 {
            let far = look(&mut watch, at(90_000), true, from, 100).expect("it leaves");
            from += far;
            watch.leave(Over::Silent, Tick(from * LEASE_US));
            // Just within the limit is not well within it.
            assert_eq!(look(&mut watch, at(45_000), false, from, 100), None);
            from += 100;
            let near = look(&mut watch, at(30_000), false, from, 100).expect("it comes back");
            from += near;
            waited.push(near);
        }
        assert!(waited.is_sorted() && waited[0] < waited[2], "{waited:?}");
        assert!(waited[5] <= (REJOIN_LEASES << REJOIN_DOUBLINGS_MAX) + 1, "{waited:?}");
        // Having stayed for long it is as if it had never left.
        assert_eq!(look(&mut watch, at(30_000), true, from, 2 * STAY_LEASES), None);
        from += 2 * STAY_LEASES;
        from += look(&mut watch, at(90_000), true, from, 100).expect("it leaves");
        watch.leave(Over::Silent, Tick(from * LEASE_US));
        assert_eq!(look(&mut watch, at(30_000), false, from, 100), Some(waited[0]));
    }
}
