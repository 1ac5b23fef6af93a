//! Shipments that a broken link or a restart cut short, at their source.
//!
//! The image stays pinned here, and what of it has arrived stays staged at its target, for a while: the same shipment
//! begun again goes on where all before it has arrived. A pin's name says what it is for, and outlives the daemon.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use farshore_core::durable::LogBase;
use farshore_core::ids::{Epoch, MemberId, Seq, VolumeId};

use super::clock::random_u128;
use super::driver::lock;

/// How long both sides wait for each other. After that the space is worth more than what was sent.
pub const RESUMED_WITHIN: Duration = Duration::from_secs(3600);
/// Attempts in a row that brought nothing: perhaps what is kept is the reason.
const FRUITLESS_MAX: u32 = 3;
const PIN_PREFIX: &str = "ship-";

/// One image for one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shipment {
    pub volume: VolumeId,
    pub to: MemberId,
    pub ship: u128,
    /// What the target had applied.
    pub base: Seq,
    /// Of an attempt before: the image's last record, and its epoch.
    pub image: Option<(LogBase, Epoch)>,
    pub fruitless: u32,
}

impl Shipment {
    fn new(volume: VolumeId, to: MemberId, base: Seq) -> Shipment {
        Shipment { volume, to, ship: random_u128(), base, image: None, fruitless: 0 }
    }

    pub fn pin(&self) -> String {
        format!("{PIN_PREFIX}{:032x}-{}-{}", self.ship, self.to.0, self.base.0)
    }

    /// It must begin anew.
    pub fn give_up(&mut self) {
        self.fruitless = FRUITLESS_MAX;
    }

    /// An attempt has ended without the last page; did it bring any?
    pub fn cut_short(&mut self, fruitless: bool) {
        if self.fruitless < FRUITLESS_MAX {
            self.fruitless = if fruitless { self.fruitless + 1 } else { 0 };
        }
    }

    fn of_pin(volume: VolumeId, name: &str) -> Option<Shipment> {
        let mut parts = name.strip_prefix(PIN_PREFIX)?.split('-');
        let ship = u128::from_str_radix(parts.next()?, 16).ok()?;
        let (to, base) = (MemberId(parts.next()?.parse().ok()?), Seq(parts.next()?.parse().ok()?));
        Some(Shipment { ship, ..Shipment::new(volume, to, base) }).filter(|found| found.pin() == name)
    }
}

#[derive(Default)]
pub struct Outgoing {
    cut: Mutex<Vec<(Shipment, Instant)>>,
}

impl Outgoing {
    /// The shipment to begin, or to go on with; and those to the same member that nobody goes on with any more.
    ///
    /// One from a lower base holds all that one from this base would: a target that came back may have applied a few
    /// records more before the shipment stopped that. Whether its image is of use is for the caller to see.
    pub fn begin(&self, volume: VolumeId, to: MemberId, base: Seq) -> (Shipment, Vec<Shipment>) {
        let mut cut = lock(&self.cut);
        let of_member = |s: &Shipment| s.volume == volume && s.to == to;
        let (mut found, others) = std::mem::take(&mut *cut).into_iter().partition::<Vec<_>, _>(|(s, _)| of_member(s));
        *cut = others;
        let reaches = (0..found.len()).filter(|at| found[*at].0.base <= base).max_by_key(|at| found[*at].0.base);
        let kept = reaches.map(|at| found.swap_remove(at).0);
        let stale = found.into_iter().map(|(shipment, _)| shipment).collect();
        (kept.unwrap_or_else(|| Shipment::new(volume, to, base)), stale)
    }

    /// It was cut short. Given back where it is not worth going on with.
    pub fn keep(&self, shipment: Shipment) -> Option<Shipment> {
        if shipment.fruitless >= FRUITLESS_MAX {
            return Some(shipment);
        }
        lock(&self.cut).push((shipment, Instant::now()));
        None
    }

    /// After a restart, by a pin's name. False: that pin is of no shipment that could go on.
    pub fn found(&self, volume: VolumeId, pin: &str) -> bool {
        Shipment::of_pin(volume, pin).is_some_and(|shipment| self.keep(shipment).is_none())
    }

    /// Those that nobody came back for, or may.
    pub fn expired(&self, is_member: impl Fn(VolumeId, MemberId) -> bool) -> Vec<Shipment> {
        let mut cut = lock(&self.cut);
        let is_over = |(shipment, since): &(Shipment, Instant)| {
            since.elapsed() > RESUMED_WITHIN || !is_member(shipment.volume, shipment.to)
        };
        let (over, rest) = std::mem::take(&mut *cut).into_iter().partition::<Vec<_>, _>(is_over);
        *cut = rest;
        over.into_iter().map(|(shipment, _)| shipment).collect()
    }
}

pub fn is_pin(name: &str) -> bool {
    name.starts_with(PIN_PREFIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOLUME: VolumeId = VolumeId(7);

    #[test]
    fn a_shipment_goes_on_for_the_same_member_alone_and_never_from_above_its_base() {
        let outgoing = Outgoing::default();
        let (first, _) = outgoing.begin(VOLUME, MemberId(1), Seq(5));
        let (other, _) = outgoing.begin(VOLUME, MemberId(2), Seq(5));
        assert!(outgoing.keep(first.clone()).is_none() && outgoing.keep(other.clone()).is_none());
        assert_eq!(outgoing.begin(VOLUME, MemberId(1), Seq(5)), (first.clone(), vec![]));
        outgoing.keep(first.clone());
        assert_eq!(outgoing.begin(VOLUME, MemberId(1), Seq(9)), (first.clone(), vec![]), "it has applied some more");
        outgoing.keep(first.clone());
        let (new, stale) = outgoing.begin(VOLUME, MemberId(1), Seq(4));
        assert!(new.ship != first.ship && stale == [first], "it has less than that shipment builds on");
        assert_eq!(outgoing.begin(VOLUME, MemberId(2), Seq(5)).0, other, "nobody else's");
    }

    #[test]
    fn what_brings_nothing_is_not_tried_for_ever() {
        let outgoing = Outgoing::default();
        let (first, _) = outgoing.begin(VOLUME, MemberId(1), Seq(5));
        let fruitless = Shipment { fruitless: FRUITLESS_MAX, ..first };
        assert_eq!(outgoing.keep(fruitless.clone()), Some(fruitless));
    }

    #[test]
    fn one_for_a_member_that_was_removed_is_given_up() {
        let outgoing = Outgoing::default();
        let shipments = [1, 2].map(|to| outgoing.begin(VOLUME, MemberId(to), Seq(5)).0);
        assert!(shipments.iter().all(|shipment| outgoing.keep(shipment.clone()).is_none()));
        assert_eq!(outgoing.expired(|_, _| true), []);
        assert_eq!(outgoing.expired(|_, to| to == MemberId(1)), shipments[1..]);
        assert_eq!(outgoing.begin(VOLUME, MemberId(1), Seq(5)).0, shipments[0], "the other goes on");
    }

    #[test]
    fn a_pins_name_says_what_it_is_for() {
        let (shipment, _) = Outgoing::default().begin(VOLUME, MemberId(3), Seq(12));
        assert_eq!(Shipment::of_pin(VOLUME, &shipment.pin()), Some(shipment.clone()));
        let older = format!("{PIN_PREFIX}{:032x}", shipment.ship);
        for foreign in [older.as_str(), "ship-", "ship-x-1-2", "other", "ship-1-2-3-4"] {
            assert_eq!(Shipment::of_pin(VOLUME, foreign), None, "{foreign}");
        }
    }
}
