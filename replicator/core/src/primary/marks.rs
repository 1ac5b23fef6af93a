//! Marks on their way into the order, and the hold under which several volumes get theirs at one moment.
//!
//! ```text
//!          Hold             Mark            Release                 marks acked, a data quorum still followed us
//!  (none) ─────► begun ─────────────► held ─────────────► confirming ────────────────────────────────────► unbroken
//!                  └── too long, a handover, epoch over ──┴──► broken ◄── too long, epoch over ──┘
//! ```
//! Why this makes a cut (I28): what is above a volume's mark completes, and is shown to reads, only after its release; and
//! releases come when all volumes have their marks. So nobody who asked for a write below any of the marks can have known
//! of one above another. All this is true of the one holder of the epoch only: a release is good once a data quorum has
//! followed this epoch later than it was asked for. Clocks of different nodes are not compared for it.

use std::collections::VecDeque;

use super::Primary;
use crate::api::{Answer, CommandId, Effect, Effects, HoldId, Refusal};
use crate::ids::{Seq, Tick};
use crate::limits::{COMMANDS_MAX, HOLD_US_MAX};
use crate::mark::{Creation, Mark};
use crate::record::{Kind, Origin};
use crate::replica::Replica;
use crate::sabotage::{Sabotage, broken};

#[derive(Debug)]
struct Waiting {
    command: CommandId,
    mark: Mark,
    under: Option<HoldId>,
}

#[derive(Debug)]
struct Hold {
    id: HoldId,
    until: Tick,
    /// The last mark under it; the first holds completions back.
    marked: Seq,
}

/// A hold that was unbroken when its release was asked for, by our own reckoning.
#[derive(Debug)]
struct Confirming {
    command: CommandId,
    since: Tick,
    until: Tick,
    marked: Seq,
}

#[derive(Debug, Default)]
pub(super) struct Marks {
    /// Without a seq: the epoch is not open yet, or there is no room.
    waiting: VecDeque<Waiting>,
    /// With one, and not acked.
    sent: VecDeque<(Seq, CommandId)>,
    hold: Option<Hold>,
    holds: u64,
    confirming: Vec<Confirming>,
}

fn hold_broken(why: &str) -> Refusal {
    Refusal::new("hold-broken", format!("the hold was broken: {why}"), "delete what was marked, then try again")
}

impl Marks {
    fn is_held(&self, hold: HoldId) -> bool {
        self.hold.as_ref().is_some_and(|h| h.id == hold)
    }

    /// When the next of them ends by itself.
    pub(super) fn deadline(&self) -> Option<Tick> {
        self.hold.iter().map(|h| h.until).chain(self.confirming.iter().map(|c| c.until)).min()
    }
}

impl Primary {
    pub fn mark(&mut self, command: CommandId, mark: Mark, under: Option<HoldId>, fx: &mut Effects) {
        let marks = &self.marks;
        let refusal = if let Err(error) = mark.check() {
            Some(Refusal::new("mark-invalid", error.to_string(), "correct it"))
        } else if self.handover.is_some() {
            Some(Refusal::new("handover-running", "a handover is running", "wait for it"))
        } else if marks.waiting.len() + marks.sent.len() >= COMMANDS_MAX {
            Some(Refusal::new("marks-many", "many snapshots are on their way", "try again shortly"))
        } else {
            None
        };
        match refusal {
            Some(refusal) => fx.push(Effect::Answer { id: command, result: Err(refusal) }),
            None => self.marks.waiting.push_back(Waiting { command, mark, under }),
        }
    }

    /// Those that wait get the next seqs, ahead of requests that wait: whoever asked for a mark has not seen those
    /// complete.
    pub(super) fn start_marks(&mut self, replica: &mut Replica, now: Tick, fx: &mut Effects) {
        while let Some(front) = self.marks.waiting.front_mut().filter(|_| self.handover.is_none()) {
            if let Mark::Create(Creation { size_bytes, .. }) = &mut front.mark {
                *size_bytes = self.config.volume.size_bytes;
            }
            let payload = front.mark.encode();
            let lost = front.under.is_some_and(|hold| self.marks.hold.as_ref().is_none_or(|h| h.id != hold));
            if !lost && !self.pipeline.has_room_for(&payload) {
                return;
            }
            let Some(Waiting { command, under, .. }) = self.marks.waiting.pop_front() else { return };
            if lost {
                let refusal = hold_broken("it ended before the mark had its place");
                fx.push(Effect::Answer { id: command, result: Err(refusal) });
                continue;
            }
            self.pipeline.marked(replica.end().next(), &payload);
            let seq = self.append(replica, Kind::SnapMark, (0, 0), payload, Origin::default(), now);
            if let Some(hold) = self.marks.hold.as_mut().filter(|_| under.is_some()) {
                if hold.marked == Seq::ZERO && !broken(Sabotage::HoldIgnored) && !broken(Sabotage::HoldLate) {
                    self.pipeline.hold(seq);
                }
                hold.marked = seq;
            }
            if under.is_some() || broken(Sabotage::MarkUnacked) {
                fx.push(Effect::Answer { id: command, result: Ok(Answer::Marked { seq }) });
            } else {
                self.marks.sent.push_back((seq, command));
            }
        }
    }

    pub fn hold(&mut self, command: CommandId, now: Tick, fx: &mut Effects) {
        let refusal = if self.handover.is_some() {
            Some(Refusal::new("handover-running", "a handover is running", "wait for it"))
        } else if !self.opened {
            Some(Refusal::new("change-pending", "the volume is still opening", "try again shortly"))
        } else if self.marks.hold.is_some() {
            Some(Refusal::new("hold-running", "another cut over several volumes is being made", "try again shortly"))
        } else {
            None
        };
        if let Some(refusal) = refusal {
            fx.push(Effect::Answer { id: command, result: Err(refusal) });
            return;
        }
        self.marks.holds += 1;
        let id = HoldId { epoch: self.epoch, n: self.marks.holds };
        self.marks.hold = Some(Hold { id, until: now.plus(HOLD_US_MAX), marked: Seq::ZERO });
        fx.push(Effect::Answer { id: command, result: Ok(Answer::Held { hold: id }) });
    }

    pub fn release(&mut self, command: CommandId, hold: HoldId, replica: &mut Replica, now: Tick, fx: &mut Effects) {
        if !self.marks.is_held(hold) {
            let result = match broken(Sabotage::HoldOfAnyEpoch) {
                true => Ok(Answer::Done),
                false => Err(hold_broken("it ended by itself, or it is of another epoch")),
            };
            fx.push(Effect::Answer { id: command, result });
            return;
        }
        let marked = self.end_hold().map_or(Seq::ZERO, |h| h.marked);
        let until = now.plus(HOLD_US_MAX);
        self.marks.confirming.push(Confirming { command, since: now, until, marked });
        // Whoever answers this has followed us until now.
        self.heartbeat(replica, now, fx);
    }

    fn end_hold(&mut self) -> Option<Hold> {
        self.pipeline.release();
        self.marks.hold.take()
    }

    pub(super) fn break_hold(&mut self, why: &str, fx: &mut Effects) {
        if let Some(hold) = &mut self.marks.hold {
            fx.push(Effect::Edge { rule: "hold-broken", text: format!("completions go on: {why}") });
            if broken(Sabotage::HoldBreakForgotten) {
                hold.until = Tick(u64::MAX);
                return self.pipeline.release();
            }
            self.end_hold();
        }
    }

    /// Before anything completes: a hold whose time is over is broken first.
    pub(super) fn watch_hold(&mut self, now: Tick, fx: &mut Effects) {
        if self.marks.hold.as_ref().is_some_and(|h| now >= h.until) {
            self.break_hold("its release did not come in time", fx);
        }
    }

    pub(super) fn answer_marks(&mut self, now: Tick, fx: &mut Effects) {
        while self.marks.sent.front().is_some_and(|(seq, _)| *seq <= self.acked) {
            if let Some((seq, id)) = self.marks.sent.pop_front() {
                fx.push(Effect::Answer { id, result: Ok(Answer::Marked { seq }) });
            }
        }
        if broken(Sabotage::HoldLate)
            && let Some(Hold { marked, .. }) = self.marks.hold
            && Seq::ZERO < marked
            && marked <= self.acked
        {
            self.pipeline.hold(self.acked);
        }
        if self.marks.confirming.is_empty() {
            return;
        }
        let followed = self.followed_until().unwrap_or(Tick(0));
        let acked = self.acked;
        self.marks.confirming.retain(|c| {
            let ours = followed >= c.since || broken(Sabotage::ReleaseUnconfirmed);
            let there = acked >= c.marked || broken(Sabotage::ReleaseUnacked);
            let result = if ours && there {
                Ok(Answer::Done)
            } else if now >= c.until {
                Err(hold_broken("no data quorum confirmed in time that the epoch is still ours"))
            } else {
                return true;
            };
            fx.push(Effect::Answer { id: c.command, result });
            false
        });
    }

    /// The epoch is over: nobody knows which marks are there, and holds are broken.
    pub(super) fn fence_marks(&mut self, reason: &str, fx: &mut Effects) {
        let Marks { waiting, sent, confirming, .. } = std::mem::take(&mut self.marks);
        let unknown = |what: &str| {
            let text = format!("the epoch ended before the mark {what}: {reason}");
            Refusal::new("mark-unknown", text, "list the volume's snapshots")
        };
        for Waiting { command: id, .. } in waiting {
            fx.push(Effect::Answer { id, result: Err(unknown("had its place; it was not made")) });
        }
        for (_, id) in sent {
            fx.push(Effect::Answer { id, result: Err(unknown("was acknowledged; it may be there")) });
        }
        for Confirming { command: id, .. } in confirming {
            fx.push(Effect::Answer { id, result: Err(hold_broken(reason)) });
        }
    }
}
