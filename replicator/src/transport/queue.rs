//! The bounded queue in front of one lane of one peer.
//!
//! `send` never waits: it takes the whole message or says that the lane is full. Writers (one per stream) take from
//! the front, so a stream that waits for a lost packet holds back nothing but what it already took. A message counts
//! against the bound until quinn has taken all of it.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use super::config::LANE_MESSAGES_MAX;
use super::cutter::MESSAGE_BYTES_MAX;

/// Why a message was not taken. It is then as if it had never been offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    #[error("the peer is not connected")]
    NotConnected,
    #[error("the lane to the peer is full; wait for it to be ready")]
    Full,
    #[error("the message is {bytes} bytes long; the transport carries at most {MESSAGE_BYTES_MAX}")]
    TooLong { bytes: usize },
}

struct State {
    /// Nothing is taken while the lane has no connection: what was meant for one session never reaches the next.
    open: bool,
    waiting: VecDeque<Vec<Bytes>>,
    /// Waiting and taken but not yet written.
    held_bytes: usize,
}

pub(super) struct LaneQueue {
    capacity_bytes: usize,
    state: Mutex<State>,
    /// For writers: there is something to take.
    work: Notify,
    /// For `ready`: there is room, or the lane has closed.
    room: Notify,
}

impl LaneQueue {
    pub fn new(capacity_bytes: usize) -> LaneQueue {
        let state = State { open: false, waiting: VecDeque::new(), held_bytes: 0 };
        LaneQueue { capacity_bytes, state: Mutex::new(state), work: Notify::new(), room: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn open(&self) {
        let mut state = self.state();
        assert!(state.waiting.is_empty() && state.held_bytes == 0, "a lane opens empty");
        state.open = true;
        drop(state);
        self.room.notify_waiters();
    }

    /// Drops what waits. Called when every writer has ended.
    pub fn close(&self) {
        let mut state = self.state();
        state.open = false;
        state.waiting.clear();
        state.held_bytes = 0;
        drop(state);
        self.room.notify_waiters();
    }

    pub fn send(&self, message: Vec<Bytes>) -> Result<(), SendError> {
        let bytes = message_bytes(&message);
        if bytes > MESSAGE_BYTES_MAX {
            return Err(SendError::TooLong { bytes });
        }
        let mut state = self.state();
        if !state.open {
            return Err(SendError::NotConnected);
        }
        // An empty lane takes any message, or one larger than the bound could never leave.
        let fits = state.held_bytes == 0 || state.held_bytes + bytes <= self.capacity_bytes;
        if !fits || state.waiting.len() >= LANE_MESSAGES_MAX {
            return Err(SendError::Full);
        }
        state.held_bytes += bytes;
        state.waiting.push_back(message);
        drop(state);
        self.work.notify_one();
        Ok(())
    }

    /// Waits until there is something to send, then takes up to `batch_bytes` of it, but at least one message.
    pub async fn take(&self, batch_bytes: usize, batch: &mut Vec<Vec<Bytes>>) {
        loop {
            let work = self.work.notified();
            {
                let mut state = self.state();
                let mut taken = 0;
                while let Some(message) = state.waiting.front() {
                    let bytes = message_bytes(message);
                    if taken > 0 && taken + bytes > batch_bytes {
                        break;
                    }
                    taken += bytes.max(1);
                    batch.extend(state.waiting.pop_front());
                }
                if !batch.is_empty() {
                    // Several sends may have left one wake-up only: pass it on to the next writer.
                    if !state.waiting.is_empty() {
                        self.work.notify_one();
                    }
                    return;
                }
            }
            work.await;
        }
    }

    /// What was taken has been written: its bytes no longer count.
    pub fn written(&self, bytes: usize) {
        let mut state = self.state();
        state.held_bytes = state.held_bytes.saturating_sub(bytes);
        let roomy = self.has_room(&state);
        drop(state);
        if roomy {
            self.room.notify_waiters();
        }
    }

    /// Waits until a good part of the lane is free again, so that a sender does not wake for every packet.
    pub async fn ready(&self) -> Result<(), SendError> {
        self.when(|state| self.has_room(state)).await
    }

    /// Waits until no more than so many bytes are before whoever sends next; half of the lane at most.
    pub async fn drained(&self, upto_bytes: usize) -> Result<(), SendError> {
        self.when(|state| state.held_bytes <= upto_bytes.min(self.capacity_bytes / 2)).await
    }

    async fn when(&self, good: impl Fn(&State) -> bool) -> Result<(), SendError> {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            {
                let state = self.state();
                if !state.open {
                    return Err(SendError::NotConnected);
                }
                if good(&state) {
                    return Ok(());
                }
            }
            room.await;
        }
    }

    fn has_room(&self, state: &State) -> bool {
        state.held_bytes <= self.capacity_bytes / 2 && state.waiting.len() <= LANE_MESSAGES_MAX / 2
    }

    pub fn held_bytes(&self) -> usize {
        self.state().held_bytes
    }
}

pub(super) fn message_bytes(message: &[Bytes]) -> usize {
    message.iter().map(Bytes::len).sum()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    fn message(bytes: usize) -> Vec<Bytes> {
        vec![Bytes::from(vec![7; bytes])]
    }

    #[tokio::test]
    async fn a_full_lane_refuses_and_becomes_ready_again() {
        let queue = Arc::new(LaneQueue::new(1000));
        assert_eq!(queue.send(message(1)), Err(SendError::NotConnected));
        queue.open();
        queue.send(message(600)).unwrap();
        queue.send(message(400)).unwrap();
        assert_eq!(queue.send(message(1)), Err(SendError::Full));
        let waiter = tokio::spawn({
            let queue = queue.clone();
            async move { queue.ready().await }
        });
        let mut batch = Vec::new();
        queue.take(600, &mut batch).await;
        assert_eq!(batch.len(), 1);
        assert_eq!(queue.send(message(1)), Err(SendError::Full), "taken is not yet written");
        assert!(!waiter.is_finished());
        queue.written(600);
        tokio::time::timeout(Duration::from_secs(20), waiter).await.unwrap().unwrap().unwrap();
        queue.send(message(1)).unwrap();
    }

    #[tokio::test]
    async fn an_oversized_message_is_refused_and_one_above_the_bound_still_leaves() {
        let queue = LaneQueue::new(10);
        queue.open();
        assert!(matches!(queue.send(message(MESSAGE_BYTES_MAX + 1)), Err(SendError::TooLong { .. })));
        queue.send(message(1000)).unwrap();
        assert_eq!(queue.send(message(1)), Err(SendError::Full));
    }

    #[tokio::test]
    async fn closing_wakes_those_who_wait_and_drops_what_waits() {
        let queue = Arc::new(LaneQueue::new(10));
        queue.open();
        queue.send(message(10)).unwrap();
        let waiter = tokio::spawn({
            let queue = queue.clone();
            async move { queue.ready().await }
        });
        tokio::task::yield_now().await;
        queue.close();
        let woken = tokio::time::timeout(Duration::from_secs(20), waiter).await.unwrap().unwrap();
        assert_eq!(woken, Err(SendError::NotConnected));
        assert_eq!(queue.held_bytes(), 0);
    }

    #[tokio::test]
    async fn small_messages_are_bounded_by_number() {
        let queue = LaneQueue::new(usize::MAX / 2);
        queue.open();
        for _ in 0..LANE_MESSAGES_MAX {
            queue.send(Vec::new()).unwrap();
        }
        assert_eq!(queue.send(Vec::new()), Err(SendError::Full));
    }

    #[tokio::test]
    async fn two_writers_share_the_work() {
        let queue = Arc::new(LaneQueue::new(1 << 20));
        queue.open();
        let total = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let writers: Vec<_> = (0..2)
            .map(|_| {
                let (queue, total) = (queue.clone(), total.clone());
                tokio::spawn(async move {
                    loop {
                        let mut batch = Vec::new();
                        queue.take(1, &mut batch).await;
                        assert_eq!(batch.len(), 1);
                        total.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        queue.written(1);
                    }
                })
            })
            .collect();
        for _ in 0..1000 {
            queue.send(message(1)).unwrap();
        }
        let all = async {
            while total.load(std::sync::atomic::Ordering::Relaxed) < 1000 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), all).await.unwrap();
        writers.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
