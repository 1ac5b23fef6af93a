//! From a device's request to its completion: the queue of un-acked records, the overlay, parked reads.
//!
//! Completions reach the device in seq order. Not here: who counts for an acknowledgement (primary).

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::api::{Effect, Effects, Io, IoFault, Outcome, Request, RequestId};
use crate::ids::{BLOCK_BYTES, Seq};
use crate::limits::{SHARE_RESERVE_BYTES, UNACKED_BYTES_MAX, UNAPPLIED_BYTES_MAX, WAITING_REQUESTS_MAX};
use crate::overlay::{Content, Overlay};
use crate::record::{Kind, Origin, RECORD_PAYLOAD_MAX, RECORD_RANGE_MAX};
use crate::register::Durability;
use crate::sabotage::{Sabotage, broken};

/// A record to be made of a request.
#[derive(Debug)]
pub struct Draft {
    pub id: RequestId,
    pub kind: Kind,
    pub offset: u64,
    pub length: u64,
    pub payload: Bytes,
    pub origin: Origin,
    pub fua: bool,
}

/// What a record with this payload counts: more than its header takes in the journal.
fn held_bytes(payload: &Bytes) -> u64 {
    payload.len() as u64 + BLOCK_BYTES
}

#[derive(Debug)]
struct InFlight {
    seq: Seq,
    id: RequestId,
    /// Completes only when the data quorum has it, whatever the durability class.
    quorum: bool,
}

/// Bytes of records, oldest first, until a position has passed them.
#[derive(Debug, Default)]
struct Counted {
    /// Whether only the data quorum will do.
    records: VecDeque<(Seq, u64, bool)>,
    bytes: u64,
}

impl Counted {
    fn add(&mut self, seq: Seq, bytes: u64, quorum: bool) {
        self.records.push_back((seq, bytes, quorum));
        self.bytes += bytes;
    }

    fn drop_until(&mut self, completed: Seq, acked: Seq) {
        while let Some((seq, bytes, quorum)) = self.records.front()
            && *seq <= if *quorum { acked } else { completed }
        {
            self.bytes -= bytes;
            self.records.pop_front();
        }
    }
}

/// How far the volume has come, by which completions are judged.
#[derive(Debug, Clone, Copy)]
pub struct Reached {
    /// Durable on the data quorum.
    pub acked: Seq,
    /// What a plain write needs: `acked` in class write, durable in the primary's site in class flush.
    pub completed: Seq,
    pub lease_valid: bool,
}

/// How much may be on its way before the device waits.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Appended and not completed.
    pub unacked: u64,
    /// Appended and not applied.
    pub unapplied: u64,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { unacked: UNACKED_BYTES_MAX, unapplied: UNAPPLIED_BYTES_MAX }
    }
}

impl Bounds {
    /// Those of a volume for which the journal holds so much. In class `flush` what is completed may be un-acked still.
    pub fn within(share_bytes: u64, durability: Durability) -> Bounds {
        let room = share_bytes.saturating_sub(SHARE_RESERVE_BYTES);
        let unapplied = match durability {
            Durability::Write => UNAPPLIED_BYTES_MAX,
            Durability::Flush => UNAPPLIED_BYTES_MAX.min(room),
        };
        Bounds { unacked: UNACKED_BYTES_MAX.min(room), unapplied }
    }
}

#[derive(Debug, Default)]
pub struct Pipeline {
    pub bounds: Bounds,
    waiting: VecDeque<Request>,
    in_flight: VecDeque<InFlight>,
    /// Appended and not completed, but for a hold; also when their requests are gone with the device.
    unacked: Counted,
    unapplied: Counted,
    flushes: VecDeque<(RequestId, Seq)>,
    overlay: Overlay,
    /// What the overlay holds, in seq order, so that applied records can be dropped from it.
    overlaid: VecDeque<(Seq, u64, u64)>,
    applied: Seq,
    /// Reads that overlap a write that has not completed, by the seq they wait for.
    parked: Vec<(Seq, RequestId, u64, u32)>,
    /// Reads at the store.
    reading: BTreeMap<RequestId, (u64, u32)>,
    /// Reads whose bytes are here, waiting for a valid lease, or for the end of a hold.
    held: Vec<(RequestId, (u64, u32), Bytes)>,
    /// Nothing above this completes or is shown, acked or not: other volumes are getting their marks.
    held_above: Option<Seq>,
    /// The highest seq whose completion has been told.
    completed: Seq,
}

impl Pipeline {
    pub fn starting_at(seq: Seq) -> Pipeline {
        Pipeline { completed: seq, ..Pipeline::default() }
    }

    fn valid(io: &Io, size_bytes: u64) -> bool {
        let range = |offset: u64, length: u64, max: u64| {
            length > 0
                && length <= max
                && offset.is_multiple_of(BLOCK_BYTES)
                && length.is_multiple_of(BLOCK_BYTES)
                && offset.checked_add(length).is_some_and(|end| end <= size_bytes)
        };
        match io {
            Io::Read { offset, length } => range(*offset, u64::from(*length), u64::from(u32::MAX)),
            Io::Write { offset, data, .. } => range(*offset, data.len() as u64, RECORD_PAYLOAD_MAX as u64),
            Io::Discard { offset, length } | Io::WriteZeroes { offset, length, .. } => {
                range(*offset, *length, RECORD_RANGE_MAX)
            }
            Io::Flush => true,
        }
    }

    /// Accepts a request into the queue, or fails it at once.
    pub fn submit(&mut self, request: Request, size_bytes: u64, fx: &mut Effects) {
        let fault = if !Self::valid(&request.io, size_bytes) {
            Some(IoFault::Invalid)
        } else if self.waiting.len() >= WAITING_REQUESTS_MAX {
            Some(IoFault::Overload)
        } else {
            None
        };
        match fault {
            Some(fault) => fx.push(Effect::Complete { id: request.id, outcome: Outcome::Fault(fault) }),
            None => self.waiting.push_back(request),
        }
    }

    /// A single record always has room.
    fn has_room(&self, bytes: u64) -> bool {
        let fits = |held: u64, bound: u64| held == 0 || held + bytes <= bound;
        fits(self.unacked.bytes, self.bounds.unacked) && fits(self.unapplied.bytes, self.bounds.unapplied)
    }

    pub fn has_room_for(&self, payload: &Bytes) -> bool {
        self.has_room(held_bytes(payload))
    }

    /// A record that nobody waits for here takes its room all the same.
    pub fn marked(&mut self, seq: Seq, payload: &Bytes) {
        self.count(seq, payload, true);
    }

    fn count(&mut self, seq: Seq, payload: &Bytes, quorum: bool) {
        self.unacked.add(seq, held_bytes(payload), quorum);
        self.unapplied.add(seq, held_bytes(payload), true);
    }

    pub fn hold(&mut self, end: Seq) {
        self.held_above = Some(end);
    }

    pub fn release(&mut self) {
        if self.held_above.take().is_some() {
            self.on_applied(self.applied);
        }
    }

    /// How far reads may see.
    fn shown(&self, reached: Reached) -> Reached {
        if broken(Sabotage::HeldShown) { reached } else { self.within_hold(reached) }
    }

    fn within_hold(&self, reached: Reached) -> Reached {
        let upto = self.held_above.unwrap_or(Seq(u64::MAX));
        Reached { acked: reached.acked.min(upto), completed: reached.completed.min(upto), ..reached }
    }

    /// Would a read of this range show what is held back? Also one that began before and has been to the store since.
    fn is_held(&self, (offset, length): (u64, u32)) -> bool {
        self.held_above.is_some_and(|upto| self.overlay.newest(offset, u64::from(length)) > Some(upto))
            && !broken(Sabotage::HeldShown)
    }

    /// Takes the next request off the queue: reads and flushes are started here, a mutation comes back as a draft
    /// for which the caller assigns the seq. `None` when nothing may start now.
    pub fn next(&mut self, reached: Reached, fx: &mut Effects) -> Option<Draft> {
        let reached = self.shown(reached);
        while let Some(front) = self.waiting.front() {
            let bytes = match &front.io {
                Io::Read { .. } | Io::Flush => None,
                Io::Write { data, .. } => Some(held_bytes(data)),
                Io::Discard { .. } | Io::WriteZeroes { .. } => Some(held_bytes(&Bytes::new())),
            };
            if bytes.is_some_and(|bytes| !self.has_room(bytes)) {
                return None;
            }
            let Request { id, io, origin } = self.waiting.pop_front()?;
            let draft = |kind, offset, length, payload, fua| Draft { id, kind, offset, length, payload, origin, fua };
            match io {
                Io::Read { offset, length } => self.start_read(id, offset, length, reached, fx),
                Io::Flush => self.flushes.push_back((id, self.completed)),
                Io::Write { offset, data, fua } => {
                    let length = data.len() as u64;
                    return Some(draft(Kind::Write, offset, length, data, fua));
                }
                Io::Discard { offset, length } => {
                    return Some(draft(Kind::Discard, offset, length, Bytes::new(), false));
                }
                Io::WriteZeroes { offset, length, fua } => {
                    return Some(draft(Kind::WriteZeroes, offset, length, Bytes::new(), fua));
                }
            }
        }
        None
    }

    /// The draft became the record at `seq`.
    pub fn appended(&mut self, seq: Seq, draft: &Draft) {
        self.in_flight.push_back(InFlight { seq, id: draft.id, quorum: draft.fua });
        self.count(seq, &draft.payload, draft.fua);
        let content = match draft.kind {
            Kind::Write => Content::Data(draft.payload.clone()),
            _ => Content::Zeroes,
        };
        self.overlay.insert(draft.offset, draft.length, seq, content);
        self.overlaid.push_back((seq, draft.offset, draft.length));
    }

    fn start_read(&mut self, id: RequestId, offset: u64, length: u32, reached: Reached, fx: &mut Effects) {
        match self.overlay.newest(offset, u64::from(length)) {
            // An un-acked write must not be seen before it is irrevocable (P5).
            Some(newest) if newest > reached.completed && !broken(Sabotage::UnackedRead) => {
                self.parked.push((newest, id, offset, length))
            }
            _ => {
                let hits = self.overlay.hits(offset, u64::from(length));
                self.reading.insert(id, (offset, length));
                fx.push(Effect::Read { id, offset, length, hits });
            }
        }
    }

    pub fn on_read_done(&mut self, id: RequestId, result: Result<Bytes, String>, reached: Reached, fx: &mut Effects) {
        let Some(range) = self.reading.remove(&id) else { return };
        match result {
            Err(text) => {
                fx.push(Effect::Complete { id, outcome: Outcome::Fault(IoFault::Unreadable(text)) });
            }
            Ok(data) if reached.lease_valid && !self.is_held(range) => {
                fx.push(Effect::Complete { id, outcome: Outcome::Data(data) });
            }
            Ok(data) => self.held.push((id, range, data)),
        }
    }

    /// Completes whatever may complete now.
    pub fn advance(&mut self, reached: Reached, fx: &mut Effects) {
        self.unacked.drop_until(reached.completed, reached.acked);
        let shown = self.shown(reached);
        let reached = self.within_hold(reached);
        self.tell(reached, fx);
        if reached.lease_valid {
            for (id, range, data) in std::mem::take(&mut self.held) {
                match self.is_held(range) {
                    true => self.held.push((id, range, data)),
                    false => fx.push(Effect::Complete { id, outcome: Outcome::Data(data) }),
                }
            }
        }
        let (ready, parked) = self.parked.drain(..).partition(|(seq, ..)| *seq <= shown.completed);
        self.parked = parked;
        let ready: Vec<(Seq, RequestId, u64, u32)> = ready;
        for (_, id, offset, length) in ready {
            self.start_read(id, offset, length, shown, fx);
        }
    }

    /// Writes and flushes are told under a valid lease only. What was acked before it ran out is in every later log; but
    /// whoever took the volume over, and was told that nobody else has it any more, must not hear of it from here.
    fn tell(&mut self, reached: Reached, fx: &mut Effects) {
        if !reached.lease_valid && !broken(Sabotage::ToldAfterLease) {
            return;
        }
        while let Some(front) = self.in_flight.front() {
            let limit = if front.quorum { reached.acked } else { reached.completed };
            if front.seq > limit {
                break;
            }
            let done = self.in_flight.pop_front().expect("looked at");
            self.completed = done.seq;
            fx.push(Effect::Complete { id: done.id, outcome: Outcome::Done });
        }
        let flushed = if broken(Sabotage::FlushBeforeQuorum) { reached.completed } else { reached.acked };
        while self.flushes.front().is_some_and(|(_, upto)| *upto <= flushed) {
            let (id, _) = self.flushes.pop_front().expect("looked at");
            fx.push(Effect::Complete { id, outcome: Outcome::Done });
        }
    }

    /// The store holds everything up to `seq`: the overlay need not, but for what a hold must know of. That can't be
    /// more than a device has on its way.
    pub fn on_applied(&mut self, applied: Seq) {
        self.applied = self.applied.max(applied);
        self.unapplied.drop_until(applied, applied);
        let upto = applied.min(self.held_above.unwrap_or(applied));
        while self.overlaid.front().is_some_and(|(seq, ..)| *seq <= upto) {
            if let Some((_, offset, length)) = self.overlaid.pop_front() {
                self.overlay.forget(offset, length, upto);
            }
        }
    }

    /// Nothing waits and nothing is on its way.
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty() && self.reading.is_empty() && self.held.is_empty() && self.parked.is_empty()
    }

    /// Nothing takes room or memory.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.overlay.is_empty() && self.overlaid.is_empty() && (self.unacked.bytes, self.unapplied.bytes) == (0, 0)
    }

    /// Fails everything that has not completed: the whole device is gone, never a single write.
    pub fn fence(&mut self, reason: &str, fx: &mut Effects) {
        let mut ids: Vec<RequestId> = self.waiting.drain(..).map(|r| r.id).collect();
        ids.extend(self.in_flight.drain(..).map(|f| f.id).filter(|_| !broken(Sabotage::RequestsDropped)));
        ids.extend(self.flushes.drain(..).map(|f| f.0));
        ids.extend(self.parked.drain(..).map(|p| p.1));
        ids.extend(std::mem::take(&mut self.reading).into_keys());
        ids.extend(self.held.drain(..).map(|h| h.0));
        for id in ids {
            let outcome = Outcome::Fault(IoFault::Fenced(reason.to_string()));
            fx.push(Effect::Complete { id, outcome });
        }
    }
}
