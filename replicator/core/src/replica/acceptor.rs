//! What a replica is made of, how it comes back from its disk, and what it tells of itself.

use std::collections::{BTreeMap, VecDeque};

use crate::api::{CommandId, Effect, Effects, JournalOp, Token};
use crate::contact::Contact;
use crate::durable::{Durable, LogBase};
use crate::history::History;
use crate::ids::{Epoch, LineageId, MemberId, Seq, Tick, VolumeId};
use crate::limits::DRIFT_DIVISOR;
use crate::message::{Body, Message, Report};
use crate::record::Record;
use crate::register::ConfigVersion;
use crate::sabotage::{Sabotage, broken};
use crate::tail::Tail;

use super::memory::Memory;

/// What recovery found: the durable blob, and where the readable log ends.
#[derive(Debug, Clone)]
pub struct Recovered {
    pub durable: Durable,
    /// Last readable record above the base, or the base itself.
    pub last: LogBase,
    /// Epochs of the retained records, as the journal scan saw them.
    pub epochs: Vec<(Epoch, Seq)>,
    /// First seq that the journal still holds.
    pub floor: Seq,
    /// Where the journal says that a record was lost in the middle: the last seq this replica once had.
    pub lost_upto: Option<Seq>,
    /// What the store shows.
    pub applied: Seq,
}

/// Whom this replica follows in the promised epoch, once it has been told where their logs part.
#[derive(Debug)]
pub(super) struct Following {
    pub(super) epoch: Epoch,
    pub(super) leader: MemberId,
    /// The cut is durable; acks may leave.
    pub(super) synced: bool,
    pub(super) leader_acked: Seq,
    /// Newest of the leader's own clock readings that has reached us.
    pub(super) echo: Tick,
}

/// What a journal effect's completion allows us to do.
#[derive(Debug)]
pub(super) enum Then {
    Appended { upto: Seq, bytes: u64 },
    Truncated { to: Seq },
    Promised { epoch: Epoch, to: MemberId },
    ConfigStored { epoch: Epoch, version: ConfigVersion, to: MemberId },
    Elected { epoch: Epoch },
    Based { seq: Seq },
    Forked { lineage: LineageId, to: MemberId },
    Installing { seq: Seq },
    Ended { epoch: Epoch, tell: Vec<MemberId>, command: CommandId },
}

#[derive(Debug)]
pub(super) struct Pending {
    pub(super) token: Token,
    pub(super) durable: bool,
    pub(super) then: Vec<Then>,
}

pub struct Replica {
    pub volume: VolumeId,
    pub d: Durable,
    pub(super) tail: Tail,
    pub(super) history: History,
    /// On a node without a copy: the records that others would have in their journals.
    pub(super) memory: Option<Memory>,
    pub durable: Seq,
    pub applied: Seq,
    pub(super) applying: Option<Seq>,
    /// Highest acked seq that is known to be so and that we hold.
    pub acked: Seq,
    /// What is acked of the log that we adopt as a candidate, by those who promised.
    pub(super) adopted_acked: Seq,
    /// The newest version of the configuration that is known to be on the disk.
    pub config_stored: ConfigVersion,
    /// Cuts that the journal does not know yet, oldest first: what is durable above them is not our log any more.
    pub(super) cuts: VecDeque<Seq>,
    pub floor: Seq,
    /// Bytes that the journal holds for this volume for sure.
    pub journal_share: u64,
    pub(super) following: Option<Following>,
    pub(super) reorder: BTreeMap<Seq, Record>,
    pub(super) reorder_bytes: usize,
    pub(super) undurable_bytes: u64,
    pub(super) owed_until: Tick,
    /// What holders have said, in this life of the daemon.
    pub contact: Contact,
    pub(super) owed_to: Epoch,
    /// Another fork of the same generation was heard of: neither may win by itself.
    pub rival: Option<LineageId>,
    /// The highest epoch whose holder said that it has ended it.
    pub released: Epoch,
    pub(super) batch: Vec<JournalOp>,
    /// What is allowed once so many ops of the batch are durable.
    pub(super) batch_then: Vec<(usize, Then)>,
    /// The base moved up to here and the journal does not know yet.
    pub(super) rebased: Option<Seq>,
    /// Journal effects under way, oldest first. One may be durable before an earlier one (state passes records that wait
    /// for space); what it allows is done only after what came before it.
    pub(super) pending: VecDeque<Pending>,
    pub(super) next_token: u64,
    pub failed: Option<String>,
    /// The epoch promised when a hole was found: what was acked up to then may lie in it.
    pub(super) holed_under: Epoch,
}

impl Replica {
    pub fn recover(volume: VolumeId, recovered: Recovered, now: Tick, fx: &mut Effects) -> Replica {
        let Recovered { durable: mut d, last, epochs, floor, lost_upto, applied } = recovered;
        let mut history = d.history.clone();
        // Up to its base the state knows the epochs; the journal may have lost records there, and does not know theirs. What
        // the journal has given up was in the state before it went.
        let known = d.base.seq.max(floor.prev());
        history.truncate(known);
        for (epoch, seq) in epochs.into_iter().filter(|(_, seq)| *seq > known) {
            history.note(epoch, seq);
        }
        history.truncate(last.seq);
        let acked = d.acked.min(last.seq).max(applied);
        if broken(Sabotage::PromiseForgotten) {
            d.promised = history.last_epoch();
        }
        let lease_us = d.config.volume.lease_us;
        let ever_led = d.promised > Epoch::ZERO;
        let mut replica = Replica {
            volume,
            tail: Tail::starting_at(last.seq, Some(last.hash)),
            history,
            memory: None,
            durable: last.seq,
            applied,
            applying: None,
            acked,
            adopted_acked: Seq::ZERO,
            config_stored: d.config.version,
            cuts: VecDeque::new(),
            floor,
            journal_share: u64::MAX,
            following: None,
            reorder: BTreeMap::new(),
            reorder_bytes: 0,
            undurable_bytes: 0,
            // A restart has forgotten what was owed: owe a full lease.
            owed_until: if ever_led && !broken(Sabotage::OwedForgotten) { now.plus(lease_us) } else { now },
            contact: Contact::default(),
            owed_to: d.promised,
            rival: None,
            released: d.ended,
            batch: Vec::new(),
            batch_then: Vec::new(),
            rebased: None,
            pending: VecDeque::new(),
            next_token: 0,
            failed: None,
            holed_under: d.promised,
            d,
        };
        replica.learn_kind();
        if let Some(lost) = lost_upto.filter(|_| !broken(Sabotage::CorruptAsAbsent)) {
            replica.d.holed = replica.d.holed.max(Some(lost));
            replica.batch.push(JournalOp::Truncate { after: last.seq });
            replica.persist_meta();
            fx.push(Effect::Edge {
                rule: "journal-hole",
                text: format!(
                    "records above {} up to {lost} are unreadable; waiting to be repaired by a peer",
                    last.seq
                ),
            });
        }
        if let Some(installing) = &replica.d.installing {
            // The crash fell between "about to show the staged image" and "shown".
            fx.push(Effect::InstallImage { seq: installing.base.seq });
        }
        replica.maybe_apply(fx);
        replica
    }

    pub fn me(&self) -> MemberId {
        self.d.me
    }

    pub fn end(&self) -> Seq {
        self.tail.end()
    }

    pub fn history(&self) -> &History {
        &self.history
    }

    pub fn tail(&self) -> &Tail {
        &self.tail
    }

    /// The holder whose log this one follows, if any.
    pub fn leader(&self) -> Option<(Epoch, MemberId)> {
        self.following.as_ref().map(|f| (f.epoch, f.leader))
    }

    pub fn whole(&self) -> bool {
        self.d.installing.is_none() && self.d.holed.is_none()
    }

    pub fn lease_owed_us(&self, now: Tick) -> u64 {
        self.owed_until.since(now)
    }

    pub fn report(&self, now: Tick) -> Report {
        // Records on their way to the journal are not reported; a promise waits for them first.
        let durable = self.durable.min(self.end());
        let mut history = self.history.clone();
        history.truncate(durable);
        Report {
            incarnation: self.d.incarnation,
            promised: self.d.promised,
            config: self.d.config.clone(),
            history,
            durable,
            applied: self.applied,
            base: self.d.base,
            floor: self.floor,
            acked: self.acked,
            whole: self.whole() || broken(Sabotage::GapCounts),
            lease_left_us: self.lease_owed_us(now),
            owed_to: self.owed_to,
        }
    }

    pub(super) fn send(&self, to: MemberId, body: Body, fx: &mut Effects) {
        fx.push(Effect::Send(Message { volume: self.volume, lineage: self.d.lineage, from: self.me(), to, body }));
    }

    /// How much longer than its nominal length a lease must be waited for, since clocks drift.
    pub fn with_drift(us: u64) -> u64 {
        us.saturating_add(us / DRIFT_DIVISOR)
    }
}
