//! The queue in front of a volume's owner task. Taken as a whole, so that what came meanwhile is handled as one
//! batch: group commit and message coalescing without added delay.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use farshore_core::api::{Answer, Command, Event, Io, Outcome, ReadFrom, Refusal, Status};
use farshore_core::ids::{LineageId, Seq};
use tokio::sync::{Notify, oneshot};

use super::repair::Copies;

/// Messages of peers that wait for the owner; more are dropped, as if the network had lost them.
const MESSAGES_MAX: usize = 8192;

/// Of a replica: the image that its store shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shows {
    pub lineage: LineageId,
    /// No resync under way, and its disk is trusted.
    pub whole: bool,
    pub applied: Seq,
}

/// What the owner task takes off its inbox.
pub enum Input {
    /// Completions of effects; bounded by what the core has outstanding.
    Event(Event),
    Io {
        io: Io,
        reply: oneshot::Sender<Outcome>,
    },
    Command {
        command: Command,
        reply: oneshot::Sender<Result<Answer, Refusal>>,
    },
    Status {
        reply: oneshot::Sender<Status>,
    },
    /// What [`farshore_core::volume::Volume::span`] tells of records.
    Span {
        after: Seq,
        upto: Seq,
        reply: oneshot::Sender<Option<(u64, u64)>>,
    },
    /// What this node's store shows.
    Shows {
        reply: oneshot::Sender<Shows>,
    },
    /// [`farshore_core::volume::Volume::read_from`].
    ReadFrom {
        reply: oneshot::Sender<Option<(ReadFrom, Copies)>>,
    },
    Stop {
        reply: oneshot::Sender<()>,
    },
}

#[derive(Default)]
struct Queue {
    inputs: VecDeque<Input>,
    messages: usize,
    closed: bool,
}

#[derive(Default)]
pub struct Inbox {
    queue: Mutex<Queue>,
    wake: Notify,
}

impl Inbox {
    /// Accepts an input unless the owner is gone or a peer sends more than can be handled.
    pub fn push(&self, input: Input) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let message = matches!(input, Input::Event(Event::Message(_)));
        if queue.closed || (message && queue.messages >= MESSAGES_MAX) {
            return;
        }
        queue.messages += usize::from(message);
        queue.inputs.push_back(input);
        drop(queue);
        self.wake.notify_one();
    }

    pub fn event(&self, event: Event) {
        self.push(Input::Event(event));
    }

    /// Everything that waits, in order; waits until there is something.
    pub async fn take(&self) -> VecDeque<Input> {
        loop {
            {
                let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
                if !queue.inputs.is_empty() {
                    queue.messages = 0;
                    return std::mem::take(&mut queue.inputs);
                }
            }
            self.wake.notified().await;
        }
    }

    /// Nothing more is accepted; what waits is dropped, which its senders see.
    pub fn close(&self) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.closed = true;
        queue.inputs.clear();
    }
}
