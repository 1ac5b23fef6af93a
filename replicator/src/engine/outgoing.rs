//! Shipments that a broken link or a restart cut short, at their source.
//!
//! The image stays pinned here, and what of it has arrived stays staged at its target, for a while: the same shipment
//! begun again goes on where all before it has arrived. A pin's name says what it is for, and outlives the daemon.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use farshore_core::durable::LogBase;
use farshore_core::ids::{Epoch, MemberId, Seq, VolumeId};

use super::clock::random_u128;
use super::driver::lock;
use super::ship_attempt::Progress;
use super::spans::Spans;

/// How long both sides keep what they have for each other, however short of space they are.
pub const KEPT_AT_LEAST: Duration = Duration::from_secs(3600);
/// Attempts in a row that were refused and brought nothing: perhaps what is kept is the reason.
const FRUITLESS_MAX: u32 = 3;
const PIN_PREFIX: &str = "ship-";

/// One image for one member.
#[derive(Debug, Clone)]
pub struct Shipment {
    pub volume: VolumeId,
    pub to: MemberId,
    pub ship: u128,
    /// What the target had applied.
    pub base: Seq,
    /// Of an attempt before: the image's last record, and its epoch.
    pub image: Option<(LogBase, Epoch)>,
    /// What of it the target has compared.
    pub(super) proven: Spans,
    pub fruitless: u32,
    pub(super) progress: Arc<Progress>,
}

/// Two of the same member and image are the same, wherever they are.
impl PartialEq for Shipment {
    fn eq(&self, other: &Shipment) -> bool {
        let of = |s: &Shipment| (s.volume, s.to, s.ship, s.base, s.image, s.fruitless);
        of(self) == of(other)
    }
}

impl Shipment {
    fn new(volume: VolumeId, to: MemberId, base: Seq) -> Shipment {
        Shipment {
            volume,
            to,
            ship: random_u128(),
            base,
            image: None,
            proven: Spans::default(),
            fruitless: 0,
            progress: Arc::default(),
        }
    }

    pub fn pin(&self) -> String {
        format!("{PIN_PREFIX}{:032x}-{}-{}", self.ship, self.to.0, self.base.0)
    }

    /// It must begin anew.
    pub fn give_up(&mut self) {
        self.fruitless = FRUITLESS_MAX;
    }

    /// An attempt has ended without the last page. Did it bring any; if not, was it refused? One that the link ended says
    /// nothing of what is kept.
    pub fn cut_short(&mut self, brought_some: bool, refused: bool) {
        if self.fruitless < FRUITLESS_MAX {
            self.fruitless = if brought_some { 0 } else { self.fruitless + u32::from(refused) };
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
    under_way: Mutex<Vec<(VolumeId, MemberId, Arc<Progress>)>>,
}

/// A shipment that is under way, until this is dropped.
pub(super) struct UnderWay<'o> {
    outgoing: &'o Outgoing,
    progress: Arc<Progress>,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        lock(&self.outgoing.under_way).retain(|(.., progress)| !Arc::ptr_eq(progress, &self.progress));
    }
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

    pub(super) fn under_way(&self, shipment: &Shipment) -> UnderWay<'_> {
        let progress = shipment.progress.clone();
        lock(&self.under_way).push((shipment.volume, shipment.to, progress.clone()));
        UnderWay { outgoing: self, progress }
    }

    /// How far a member's shipment is, also between two attempts: shipped, and to ship, in bytes.
    pub fn progress(&self, volume: VolumeId, to: MemberId) -> Option<(u64, u64)> {
        let under_way = lock(&self.under_way).iter().find(|(v, m, _)| (*v, *m) == (volume, to)).map(|f| f.2.read());
        under_way.or_else(|| {
            let cut = lock(&self.cut);
            cut.iter().find(|(s, _)| (s.volume, s.to) == (volume, to)).map(|(s, _)| s.progress.read())
        })
    }

    /// After a restart, by a pin's name. False: that pin is of no shipment that could go on.
    pub fn found(&self, volume: VolumeId, pin: &str) -> bool {
        Shipment::of_pin(volume, pin).is_some_and(|shipment| self.keep(shipment).is_none())
    }

    /// Those that nobody has come back for in a long time.
    pub fn old(&self) -> Vec<(VolumeId, MemberId)> {
        self.kept_for(KEPT_AT_LEAST)
    }

    fn kept_for(&self, time: Duration) -> Vec<(VolumeId, MemberId)> {
        let cut = lock(&self.cut);
        cut.iter().filter(|(_, since)| since.elapsed() > time).map(|(s, _)| (s.volume, s.to)).collect()
    }

    /// Those that nobody may come back for, or that are not wanted any more.
    pub fn expired(
        &self,
        unwanted: &[(VolumeId, MemberId)],
        is_member: impl Fn(VolumeId, MemberId) -> bool,
    ) -> Vec<Shipment> {
        let mut cut = lock(&self.cut);
        let is_over = |(s, _): &(Shipment, Instant)| unwanted.contains(&(s.volume, s.to)) || !is_member(s.volume, s.to);
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
        assert_eq!(outgoing.expired(&[], |_, _| true), []);
        assert_eq!(outgoing.expired(&[], |_, to| to == MemberId(1)), shipments[1..]);
        assert_eq!(outgoing.begin(VOLUME, MemberId(1), Seq(5)).0, shipments[0], "the other goes on");
    }

    #[test]
    fn one_that_nobody_came_back_for_is_kept_until_it_is_unwanted() {
        let outgoing = Outgoing::default();
        let (shipment, _) = outgoing.begin(VOLUME, MemberId(1), Seq(5));
        outgoing.keep(shipment.clone());
        assert_eq!((outgoing.old(), outgoing.kept_for(Duration::ZERO)), (vec![], vec![(VOLUME, MemberId(1))]));
        assert_eq!(outgoing.expired(&[(VOLUME, MemberId(2))], |_, _| true), []);
        assert_eq!(outgoing.expired(&[(VOLUME, MemberId(1))], |_, _| true), [shipment]);
    }

    #[test]
    fn a_link_that_breaks_is_no_reason_to_begin_anew() {
        let (mut shipment, _) = Outgoing::default().begin(VOLUME, MemberId(1), Seq(5));
        (0..100).for_each(|_| shipment.cut_short(false, false));
        assert_eq!(shipment.fruitless, 0);
        (1..FRUITLESS_MAX).for_each(|_| shipment.cut_short(false, true));
        shipment.cut_short(false, false);
        assert_eq!(shipment.fruitless, FRUITLESS_MAX - 1, "neither for nor against it");
        shipment.cut_short(true, false);
        assert_eq!(shipment.fruitless, 0);
        (0..FRUITLESS_MAX).for_each(|_| shipment.cut_short(false, true));
        shipment.cut_short(true, false);
        assert_eq!(shipment.fruitless, FRUITLESS_MAX, "given up is given up");
    }

    #[test]
    fn how_far_one_is_can_be_told_while_it_is_under_way_and_between_attempts() {
        let outgoing = Outgoing::default();
        assert_eq!(outgoing.progress(VOLUME, MemberId(1)), None);
        let (shipment, _) = outgoing.begin(VOLUME, MemberId(1), Seq(5));
        let under_way = outgoing.under_way(&shipment);
        shipment.progress.done(7);
        assert_eq!(outgoing.progress(VOLUME, MemberId(1)), Some((7, 0)));
        assert_eq!(outgoing.progress(VOLUME, MemberId(2)), None);
        drop(under_way);
        assert_eq!(outgoing.progress(VOLUME, MemberId(1)), None, "it is over");
        outgoing.keep(shipment);
        assert_eq!(outgoing.progress(VOLUME, MemberId(1)), Some((7, 0)), "it was cut short");
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
