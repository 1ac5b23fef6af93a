//! What the holders of epochs have told a member: how far the volume is acknowledged, and as of when.
//!
//! A word is as old as its sending, not as its arrival: what waited on a line, or in the socket of a process that was
//! stopped, is no news of now. How long a word was under way is told by those that were quicker.

use crate::ids::{Epoch, Seq, Tick};
use crate::limits::CONTACT_WINDOW_US;
use crate::sabotage::{Sabotage, broken};

/// One word of the holder of an epoch.
#[derive(Debug, Clone, Copy)]
pub struct Word {
    pub epoch: Epoch,
    pub acked: Seq,
    /// Where the holder's log ended.
    pub end: Seq,
    /// By the holder's clock.
    pub sent: Tick,
}

#[derive(Debug, Default)]
pub struct Contact {
    epoch: Epoch,
    /// When this epoch's holder first told where its log stands. What it appends here was sent later.
    followed: Tick,
    /// The newest that was told to be acknowledged, whether it is here or not.
    acked: Seq,
    /// The newest word: the holder's clock at its sending, and ours, or a little earlier.
    sent: Option<Tick>,
    at: Option<Tick>,
    /// Up to here something may have completed when it was sent.
    completed: Seq,
    /// When the newest word was sent of which that much was durable here.
    level: Option<Tick>,
    /// The least by which our clock has been ahead of the sender's at an arrival: of late, and in the time before.
    least_ahead: [i128; 2],
    window_began: Tick,
}

impl Contact {
    pub fn acked(&self) -> Seq {
        self.acked
    }

    /// Whatever had completed by then is here for good, or known to be missing: what is acknowledged and beyond `end`. What
    /// is on its way to the disk may be given up yet, and what completes unacknowledged is not told of.
    pub fn known_until(&self, durable: Seq, end: Seq) -> Option<Tick> {
        let missing = self.completed <= self.acked && self.acked.min(end) <= durable;
        if self.completed <= durable || missing { self.at } else { self.level }
    }

    pub fn follows(&mut self, epoch: Epoch, now: Tick) {
        if epoch != self.epoch {
            (self.epoch, self.followed, self.sent, self.level) = (epoch, now, None, None);
        }
    }

    /// A word has arrived, where the log is durable up to `ours`. With `early` more may complete than is acknowledged.
    pub fn hears(&mut self, word: Word, early: bool, ours: Seq, now: Tick) {
        self.acked = self.acked.max(word.acked.min(word.end));
        if word.epoch != self.epoch || self.sent.is_some_and(|sent| word.sent <= sent) {
            if broken(Sabotage::StaleWordTaken) {
                self.at = Some(now);
            }
            return;
        }
        if self.sent.is_some() && self.completed <= ours {
            self.level = self.at;
        }
        let ahead = |ours: Tick| i128::from(ours.0) - i128::from(word.sent.0);
        if self.sent.is_none() {
            self.least_ahead = [ahead(self.followed).min(ahead(now)); 2];
            self.window_began = now;
        } else if now.since(self.window_began) >= CONTACT_WINDOW_US {
            self.least_ahead = [ahead(now), self.least_ahead[0]];
            self.window_began = now;
        }
        self.least_ahead[0] = self.least_ahead[0].min(ahead(now));
        let late = ahead(now) - self.least_ahead[0].min(self.least_ahead[1]);
        let late_us = if broken(Sabotage::StaleWordTaken) { 0 } else { u64::try_from(late).unwrap_or(u64::MAX) };
        (self.sent, self.at) = (Some(word.sent), Some(now.minus(late_us)));
        self.completed = if early { word.end } else { self.acked };
    }

    /// This node holds the epoch itself, and a data quorum followed it until then.
    pub fn leads(&mut self, acked: Seq, followed_until: Option<Tick>) {
        self.acked = self.acked.max(acked);
        if followed_until > self.at {
            (self.at, self.level) = (followed_until, followed_until);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: Epoch = Epoch { n: 3, writer: 7 };

    fn word(acked: u64, end: u64, sent: u64) -> Word {
        Word { epoch: EPOCH, acked: Seq(acked), end: Seq(end), sent: Tick(sent) }
    }

    /// The holder's clock is 1,000,000 ahead of ours; a word takes 100.
    fn in_touch() -> Contact {
        let mut contact = Contact::default();
        contact.follows(EPOCH, Tick(1000));
        contact.hears(word(5, 5, 1_001_200), false, Seq(5), Tick(1300));
        contact
    }

    #[test]
    fn a_late_word_is_as_old_as_its_sending() {
        let mut contact = in_touch();
        assert_eq!(contact.known_until(Seq(5), Seq(5)), Some(Tick(1000)), "of the first only that it is no older");
        contact.hears(word(9, 9, 1_050_000), false, Seq(5), Tick(950_000));
        let until = contact.known_until(Seq(5), Seq(5)).expect("heard");
        assert!(until <= Tick(50_000) && until >= Tick(49_700), "{until:?}");
        assert_eq!(contact.acked(), Seq(9));
        // A copy of an older one that comes now is no news at all.
        contact.hears(word(7, 7, 1_002_000), false, Seq(5), Tick(960_000));
        assert_eq!((contact.known_until(Seq(5), Seq(5)), contact.acked()), (Some(until), Seq(9)));
        // Nor what another epoch's holder says, whom one does not follow.
        contact.hears(Word { epoch: Epoch { n: 2, writer: 1 }, ..word(1, 1, 9_000_000) }, false, Seq(5), Tick(970_000));
        assert_eq!(contact.known_until(Seq(5), Seq(5)), Some(until));
    }

    #[test]
    fn clocks_that_drift_apart_are_followed() {
        let mut contact = in_touch();
        // The holder's clock runs a thousandth slower than ours, for an hour.
        for n in 1..36_000_u64 {
            let now = 1300 + n * 100_000;
            contact.hears(word(5, 5, 1_001_200 + n * 99_900), false, Seq(5), Tick(now));
        }
        let now = 1300 + 35_999 * 100_000;
        let until = contact.known_until(Seq(5), Seq(5)).expect("heard").0;
        assert!(until <= now && now - until <= 2 * CONTACT_WINDOW_US / 1000 + 1000, "{}", now - until);
    }

    #[test]
    fn what_is_not_here_for_good_and_not_told_to_be_missing_is_not_known() {
        // What is beyond the end of the log is told to be missing; what is on its way to the disk is not.
        let mut contact = in_touch();
        contact.hears(word(8, 8, 1_002_000), false, Seq(5), Tick(2100));
        let first = Some(Tick(1000));
        assert!(contact.known_until(Seq(5), Seq(5)) > first);
        assert_eq!(contact.known_until(Seq(5), Seq(7)), first);
        assert!(contact.known_until(Seq(7), Seq(7)) > first);
        // In class `flush` more may have completed than is acknowledged: anything that the holder had.
        let mut contact = in_touch();
        contact.hears(word(5, 6, 1_002_000), true, Seq(5), Tick(2100));
        assert_eq!(contact.known_until(Seq(5), Seq(5)), first);
        assert!(contact.known_until(Seq(6), Seq(6)) > first);
    }
}
