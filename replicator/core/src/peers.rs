//! What the holder of an epoch knows of each member, and feeding it records from where it stands.
//!
//! ```text
//!  silent ──Elect/ElectOk──► live ◄──────► reading (from our journal)
//!    ▲                         │ behind our journal's floor
//!    └────── link lost ────────┴──► shipping (resync) ──shipped──► silent
//! ```

use crate::ids::{Incarnation, Seq, Tick};
use crate::register::ConfigVersion;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feed {
    /// Has not said where its log stands in this epoch.
    Silent,
    /// New records go to it as they are appended.
    Live,
    /// Records are being read from the journal for it.
    Reading,
    /// The journal no longer holds what it needs: an image is being shipped.
    Shipping,
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
    /// When `appended` last moved, or records were first sent after it had caught up.
    pub moved: Tick,
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
            moved: now,
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
        self.rewind();
    }

    pub fn acked(&mut self, appended: Seq, durable: Seq, applied: Seq, echo: Tick, now: Tick) {
        if appended > self.appended {
            self.appended = appended;
            self.moved = now;
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

    /// Records are on their way and nothing has arrived for `after_us`.
    pub fn is_stalled(&self, now: Tick, after_us: u64) -> bool {
        !self.sent.is_empty() && now.since(self.moved) >= after_us
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ack_from_before_a_crash_does_not_hide_what_the_crash_took() {
        let mut peer = Peer::silent(Tick(1));
        peer.elected(Incarnation(1), Seq(5), Seq(5), Tick(2));
        peer.sending(Seq(6), 100, Tick(3));
        // Said before the crash, of what was on its way to the disk.
        peer.acked(Seq(7), Seq(5), Seq(5), Tick(1), Tick(4));
        peer.sending(Seq(9), 100, Tick(5));
        assert_eq!(peer.next, Seq(10));
        assert!(peer.is_stalled(Tick(1_000_005), 1_000_000));
        peer.rewind();
        assert_eq!(peer.next, Seq(6));
    }
}
