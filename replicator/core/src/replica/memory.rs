//! The log of a node without a copy: in memory, and only as much of it as members may still have to be sent.
//!
//! It is there while the node holds an epoch, or fetches what it must begin with. Nobody counts it, nothing of it is
//! reported, and whoever promises a higher epoch, or restarts, has forgotten it.

use std::collections::VecDeque;

use super::acceptor::Replica;
use crate::history::History;
use crate::ids::Seq;
use crate::message::MESSAGE_RECORDS_MAX;
use crate::record::{Record, RecordHash};
use crate::tail::Tail;

/// Records without gaps, up to the log's end.
#[derive(Debug, Default)]
pub struct Memory {
    records: VecDeque<Record>,
    bytes: usize,
}

impl Memory {
    pub fn push(&mut self, record: Record) {
        self.bytes += record.encoded_len();
        self.records.push_back(record);
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn first(&self) -> Option<Seq> {
        self.records.front().map(|r| r.seq)
    }

    /// What a member that lacks `from` is sent next. `None`: that record is not here.
    pub fn read(&self, from: Seq, max_bytes: usize) -> Option<Vec<Record>> {
        let skipped = from.0.checked_sub(self.first()?.0)?;
        let mut bytes = 0;
        let fits = |record: &&Record| {
            bytes += record.encoded_len();
            bytes <= max_bytes || record.seq == from
        };
        let records: Vec<Record> =
            self.records.iter().skip(skipped as usize).take(MESSAGE_RECORDS_MAX).take_while(fits).cloned().collect();
        (!records.is_empty()).then_some(records)
    }

    /// Lets go of the oldest: all up to `needless`, and of what is up to `dispensable` as much as is beyond `max_bytes`.
    pub fn let_go(&mut self, needless: Seq, dispensable: Seq, max_bytes: usize) {
        while let Some(first) = self.records.front()
            && (first.seq <= needless || (first.seq <= dispensable && self.bytes > max_bytes))
        {
            self.bytes -= first.encoded_len();
            self.records.pop_front();
        }
    }
}

impl Replica {
    /// What of the log is in memory, on a node without a copy.
    pub fn memory(&self) -> Option<&Memory> {
        self.memory.as_ref()
    }

    pub fn is_diskless(&self) -> bool {
        self.memory.is_some()
    }

    /// Whether this node has a copy never changes while it is a member.
    pub(super) fn learn_kind(&mut self) {
        if self.d.config.is_diskless(self.me()) && self.memory.is_none() {
            self.memory = Some(Memory::default());
        }
    }

    /// The epoch that the log in memory was of is over.
    pub fn forget_log(&mut self) {
        if self.memory.is_some() {
            self.begin_behind(Seq::ZERO, Some(RecordHash::default()), History::default());
            self.following = None;
        }
    }

    /// A candidate goes on behind `end`: of the log up to there it knows the history, and the last hash if it was told.
    pub fn begin_behind(&mut self, end: Seq, hash: Option<RecordHash>, mut history: History) {
        history.truncate(end);
        self.memory = Some(Memory::default());
        self.tail = Tail::starting_at(end, hash);
        self.history = history;
        (self.applied, self.acked, self.adopted_acked) = (Seq::ZERO, Seq::ZERO, Seq::ZERO);
        self.reorder.clear();
        self.reorder_bytes = 0;
    }

    /// The holder has counted: so much is acknowledged, and so much is in the stores of a data quorum. Of the log in memory
    /// may go what is up to `needless`, and when there is much of it, what is up to `dispensable`.
    pub fn counted(&mut self, acked: Seq, applied: Seq, needless: Seq, dispensable: Seq, max_bytes: usize) {
        self.acked = self.acked.max(acked);
        self.applied = self.applied.max(applied);
        if let Some(memory) = &mut self.memory {
            memory.let_go(needless, dispensable, max_bytes);
        }
    }
}
