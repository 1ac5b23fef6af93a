//! What is to happen, and when: one heap in virtual microseconds, first come first served within one of them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

use bytes::Bytes;
use farshore_core::api::{Event, RequestId};
use farshore_core::ids::{MemberId, Seq, SessionId};
use farshore_core::message::Message;

use crate::shipments::Shipment;

/// A message on its way. Most travel as they are, since encoding each costs a third of a run's time.
#[derive(Debug, Clone)]
pub enum Letter {
    Said(Box<Message>),
    Encoded(Bytes),
}

pub enum Happening {
    Deliver {
        to: MemberId,
        letter: Letter,
    },
    Synced {
        node: MemberId,
        life: u32,
    },
    Applied {
        node: MemberId,
        life: u32,
        upto: Seq,
    },
    Checkpoint {
        node: MemberId,
        life: u32,
    },
    StoreRead {
        node: MemberId,
        life: u32,
        id: RequestId,
        blocks: std::ops::Range<usize>,
        over: Vec<(usize, u64)>,
    },
    Feed {
        node: MemberId,
        life: u32,
        event: Box<Event>,
    },
    Flush {
        node: MemberId,
        life: u32,
    },
    Timer {
        node: MemberId,
        life: u32,
        at: u64,
    },
    Shipment {
        shipment: Box<Shipment>,
        /// The piece of it that arrives.
        blocks: Range<usize>,
        /// It has come before.
        copy: bool,
    },
    Installed {
        node: MemberId,
        life: u32,
        seq: Seq,
    },
    Restart {
        node: MemberId,
    },
    Client {
        node: MemberId,
        life: u32,
        session: SessionId,
    },
    Neighbour {
        node: MemberId,
        life: u32,
    },
    Operator,
    /// Somebody asks for a snapshot, or does something with one.
    Snapshot,
    /// Somebody forces a promotion, or discards a copy that one has left out.
    Fork,
    Fault,
    Order {
        node: MemberId,
        order: Order,
    },
    /// A flapping link goes down or comes up.
    Line {
        between: (MemberId, MemberId),
        up: bool,
    },
}

/// What a drama's later scenes ask for.
#[derive(Debug, Clone, Copy)]
pub enum Order {
    TakeOver,
    Attach,
    Crash,
    Heal,
    /// A node whose journal failed is restarted, a burnt disk exchanged.
    Replace,
    /// The node falls and the links heal in one moment: who was cut off meets who was left.
    Relieve,
    /// The node alone is cut off.
    Isolate,
}

impl Happening {
    pub fn name(&self) -> &'static str {
        match self {
            Happening::Deliver { .. } => "deliver",
            Happening::Synced { .. } => "synced",
            Happening::Applied { .. } => "applied",
            Happening::Checkpoint { .. } => "checkpoint",
            Happening::StoreRead { .. } => "store-read",
            Happening::Feed { .. } => "feed",
            Happening::Flush { .. } => "flush",
            Happening::Timer { .. } => "timer",
            Happening::Shipment { .. } => "shipment",
            Happening::Installed { .. } => "installed",
            Happening::Restart { .. } => "restart",
            Happening::Client { .. } => "client",
            Happening::Neighbour { .. } => "neighbour",
            Happening::Line { .. } => "line",
            Happening::Operator => "operator",
            Happening::Snapshot => "snapshot",
            Happening::Fork => "fork",
            Happening::Fault => "fault",
            Happening::Order { .. } => "order",
        }
    }
}

struct Entry {
    at: u64,
    order: u64,
    what: Happening,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.order == other.order
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

#[derive(Default)]
pub struct Schedule {
    heap: BinaryHeap<Reverse<Entry>>,
    order: u64,
}

impl Schedule {
    pub fn push(&mut self, at: u64, what: Happening) {
        self.order += 1;
        self.heap.push(Reverse(Entry { at, order: self.order, what }));
    }

    pub fn next_at(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse(entry)| entry.at)
    }

    /// The next happening, unless it is later than `until`.
    pub fn pop(&mut self, until: u64) -> Option<(u64, Happening)> {
        if self.heap.peek().is_none_or(|Reverse(e)| e.at > until) {
            return None;
        }
        self.heap.pop().map(|Reverse(e)| (e.at, e.what))
    }
}
