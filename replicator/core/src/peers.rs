//! What the holder of an epoch knows of each member, and feeding it records from where it stands.
//!
//! ```text
//!  silent ──Elect/ElectOk──► live ◄──────► reading (from our journal, or where we have none from a member's)
//!    ▲                         │ behind our journal's floor
//!    └────── link lost ────────┼──► shipping (resync) ──shipped──► silent
//!                              └──► resting ──its time──► shipping        (on a schedule)
//! ```

use crate::ids::{Incarnation, MemberId, Seq, Tick};
use crate::limits::{CATCH_UP_RESEND_DOUBLINGS, RESEND_AFTER_US, RESEND_DOUBLINGS_MAX};
use crate::register::ConfigVersion;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feed {
    /// Has not said where its log stands in this epoch.
    Silent,
    /// New records go to it as they are appended.
    Live,
    /// Records are being read from the journal for it.
    Reading,
    /// What it needs is being shipped: the journal no longer holds it, or its time has come.
    Shipping,
    /// It is shipped what changed, at its times; until then it is only spoken to.
    Resting,
}

#[derive(Debug)]
pub struct Peer {
    pub feed: Feed,
    pub incarnation: Option<Incarnation>,
    /// The next seq to send.
    pub next: Seq,
    pub appended: Seq,
    pub durable: Seq,
    pub applied: Seq,
    /// Our clock at the sending of the newest message it has answered: the lease counts from here.
    pub echo: Option<Tick>,
    pub heard: Option<Tick>,
    /// When it was last begun to be shipped, or found to lack nothing, by its schedule.
    pub served: Option<Tick>,
    /// What its schedule's last shipment began with, until it says where it stands.
    pub ship_base: Option<Seq>,
    /// Who was last asked for what this one lacks, and when, by a holder without a copy.
    pub asked: Option<(MemberId, Tick)>,
    /// When `appended` last moved, or records were first sent after it had caught up.
    pub moved: Tick,
    /// How often it was sent records again since `appended` last moved.
    resent: u32,
    /// What was sent last goes behind everything else, and may take its time.
    pub catching_up: bool,
    /// The newest configuration of ours that it has stored.
    pub config_ok: ConfigVersion,
    /// It has claimed what can't be; told once.
    pub disbelieved: bool,
    /// Bytes sent and not yet appended there: (last seq of a message, its bytes).
    sent: std::collections::VecDeque<(Seq, usize)>,
    sent_bytes: usize,
}

impl Peer {
    pub fn silent(now: Tick) -> Peer {
        Peer {
            feed: Feed::Silent,
            incarnation: None,
            next: Seq::ZERO,
            appended: Seq::ZERO,
            durable: Seq::ZERO,
            applied: Seq::ZERO,
            echo: None,
            heard: None,
            served: None,
            ship_base: None,
            asked: None,
            moved: now,
            resent: 0,
            catching_up: false,
            config_ok: ConfigVersion::default(),
            disbelieved: false,
            sent: std::collections::VecDeque::new(),
            sent_bytes: 0,
        }
    }

    /// It told us where its log stands in our epoch.
    pub fn elected(&mut self, incarnation: Incarnation, durable: Seq, applied: Seq, now: Tick) {
        if self.incarnation != Some(incarnation) {
            // Another life of its disk: what the old one said no longer counts.
            self.durable = Seq::ZERO;
            self.config_ok = ConfigVersion::default();
            self.echo = None;
        }
        self.incarnation = Some(incarnation);
        // Told anew, not maximised: a crash takes the store back to its checkpoint, and a shipment's base must not be
        // above what it shows; a journal with a hole has lost what it once had, and must be sent it again.
        self.durable = durable;
        self.applied = applied;
        self.appended = self.durable;
        self.heard = Some(now);
        self.moved = now;
        self.resent = 0;
        if self.feed == Feed::Silent {
            self.feed = Feed::Live;
            self.rewind();
        }
    }

    /// Starts again from what it has for good. What it had merely appended is gone with a crash, and an Ack from before
    /// that can come after it has told where its log stands.
    pub fn rewind(&mut self) {
        self.appended = self.durable;
        self.next = self.appended.next();
        self.sent.clear();
        self.sent_bytes = 0;
    }

    pub fn lost(&mut self) {
        self.feed = Feed::Silent;
        self.catching_up = false;
        self.rewind();
    }

    pub fn acked(&mut self, appended: Seq, durable: Seq, applied: Seq, echo: Tick, now: Tick) {
        if appended > self.appended {
            self.appended = appended;
            self.moved = now;
            self.resent = 0;
        }
        self.durable = self.durable.max(durable);
        self.applied = self.applied.max(applied);
        self.echo = self.echo.max(Some(echo));
        self.heard = Some(now);
        self.next = self.next.max(self.appended.next());
        while self.sent.front().is_some_and(|(seq, _)| *seq <= self.appended) {
            if let Some((_, bytes)) = self.sent.pop_front() {
                self.sent_bytes -= bytes;
            }
        }
    }

    pub fn sending(&mut self, last: Seq, bytes: usize, now: Tick) {
        if self.sent.is_empty() {
            self.moved = now;
        }
        self.sent.push_back((last, bytes));
        self.sent_bytes += bytes;
        self.next = last.next();
    }

    pub fn sent_bytes(&self) -> usize {
        self.sent_bytes
    }

    /// Starts again from what it has for good if records are on their way and none has arrived for long: at first a
    /// second, then twice as long each time. On a slow line they may only take their time, and each copy makes it longer.
    pub fn resend_if_stalled(&mut self, now: Tick) {
        let least = if self.catching_up { CATCH_UP_RESEND_DOUBLINGS } else { 0 };
        let patience_us = RESEND_AFTER_US << self.resent.clamp(least, RESEND_DOUBLINGS_MAX);
        if self.feed == Feed::Live && !self.sent.is_empty() && now.since(self.moved) >= patience_us {
            self.resent += 1;
            self.rewind();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_line_is_not_filled_with_copies() {
        let mut peer = Peer::silent(Tick(0));
        peer.elected(Incarnation(1), Seq(4), Seq::ZERO, Tick(0));
        let mut copies = 0;
        for ms in 0..60_000 {
            let now = Tick(ms * 1000);
            if peer.next == Seq(5) {
                peer.sending(Seq(9), 4096, now);
                copies += 1;
            }
            peer.resend_if_stalled(now);
        }
        // At 0, 1, 3, 7, 15, 31 and 47 seconds.
        assert_eq!(copies, 7);
        peer.acked(Seq(9), Seq(9), Seq::ZERO, Tick(0), Tick(60_000_000));
        peer.sending(Seq(10), 4096, Tick(60_000_000));
        peer.resend_if_stalled(Tick(60_000_000 + RESEND_AFTER_US));
        assert_eq!(peer.next, Seq(10), "what arrived made it quick again");
    }

    #[test]
    fn an_ack_from_before_a_crash_does_not_hide_what_the_crash_took() {
        let mut peer = Peer::silent(Tick(1));
        peer.elected(Incarnation(1), Seq(5), Seq(5), Tick(2));
        peer.sending(Seq(6), 100, Tick(3));
        // Said before the crash, of what was on its way to the disk.
        peer.acked(Seq(7), Seq(5), Seq(5), Tick(1), Tick(4));
        peer.sending(Seq(9), 100, Tick(5));
        assert_eq!(peer.next, Seq(10));
        peer.resend_if_stalled(Tick(1_000_005));
        assert_eq!(peer.next, Seq(6));
    }
}
