//! Carrying the core's effects out: journal, wire, store, device. Nothing here decides anything.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use farshore_core::api::{Effect, Effects, Event, JournalOp, RequestId, Token};
use farshore_core::ids::{MemberId, Seq};
use farshore_core::message::Message;
use farshore_core::overlay::{Content, Hit};

use super::driver::{DeviceState, Driver, lock};
use super::{clock, read_there, receive, repair, rpc, ship};
use crate::journal::{Entry, JournalError, LogEnd, ReadError};
use crate::store::ErrorClass;
use crate::transport::{Lane, PeerName, SendError};

/// Attempts at a record that the medium does not give back at once.
const READ_ATTEMPTS: usize = 3;
const READ_PAUSE: Duration = Duration::from_millis(200);

impl Driver {
    pub(super) fn carry_out(&mut self, effects: Effects) {
        for effect in effects {
            match effect {
                Effect::Journal { token, ops } => self.journal(token, ops),
                Effect::Send(message) => self.send(message),
                Effect::CatchUp(message) => self.send_behind_all_else(message),
                Effect::ReadLog { to, from, max_bytes } => self.read_log(to, from, max_bytes),
                Effect::Apply { upto } => self.applier.apply(upto),
                Effect::AskWaiting => {
                    let from = self.shared.journal.first_waiting(self.volume.id());
                    self.inbox.event(Event::Waiting { from });
                }
                Effect::Trim { checkpoint } => self.shared.journal.set_checkpoint(self.volume.id(), checkpoint),
                Effect::Read { id, offset, length, hits } => self.read(id, offset, length, hits),
                Effect::Complete { id, outcome } => {
                    if let Some(reply) = self.requests.remove(&id) {
                        let _ = reply.send(outcome);
                    }
                }
                Effect::Answer { id, result } => {
                    if let Some(reply) = self.commands.remove(&id) {
                        let _ = reply.send(result);
                    }
                }
                Effect::OpenDevice { session } => {
                    self.device.send_replace(DeviceState::Open { session });
                }
                Effect::CloseDevice { reason } => {
                    self.device.send_replace(DeviceState::Closed { reason });
                }
                Effect::Resized { size_bytes } => self.resized(size_bytes),
                Effect::Configured(config) => {
                    self.resized(config.volume.size_bytes);
                    self.config.send_replace(std::sync::Arc::new(*config));
                }
                Effect::Ship { to, base, lineage, history } => {
                    ship::send(
                        self.shared.clone(),
                        self.inbox.clone(),
                        self.copies(),
                        self.address(to),
                        to,
                        base,
                        (lineage, history),
                    );
                }
                Effect::DropImage => receive::drop_image(self.shared.clone(), self.volume.id()),
                Effect::InstallImage { seq } => {
                    receive::install(
                        self.shared.clone(),
                        self.inbox.clone(),
                        self.applier.clone(),
                        self.volume.id(),
                        seq,
                    );
                }
                Effect::Edge { rule, text } => {
                    let name = &self.volume.replica().d.config.volume.name;
                    tracing::info!(volume = %name, rule, "{text}");
                }
            }
        }
    }

    fn read(&self, id: RequestId, offset: u64, length: u32, hits: Vec<Hit>) {
        let (shared, inbox, volume) = (self.shared.clone(), self.inbox.clone(), self.volume.id());
        if covers(&hits, offset, length) {
            let data = overlaid(None, offset, length as usize, &hits);
            return inbox.event(Event::ReadDone { id, result: Ok(data) });
        }
        let (copies, len) = (self.copies(), length as usize);
        let told = inbox.clone();
        let answer = move |stored: Result<Bytes, String>| {
            let result = stored.map(|stored| overlaid(Some(stored), offset, len, &hits));
            told.event(Event::ReadDone { id, result });
        };
        if let Some(from) = self.volume.read_from(clock::now()) {
            tokio::spawn(async move {
                if let Some(read) = read_there::read(&shared, &inbox, copies, from, offset, len).await {
                    answer(read);
                }
            });
            return;
        }
        tokio::task::spawn_blocking(move || match shared.store.read(volume, offset, len) {
            Err(error) if error.class() == ErrorClass::Repair => {
                tokio::spawn(async move {
                    answer(repair::read(shared, copies, None, offset, len).await);
                });
            }
            read => answer(read.map_err(|error| error.to_string())),
        });
    }

    fn resized(&mut self, size_bytes: u64) {
        self.block.resized(size_bytes);
        // Each is a synced write; before the store is larger, no record beyond its end may be applied.
        if self.stored_bytes == size_bytes || !self.applier.has_store() {
            return;
        }
        self.stored_bytes = size_bytes;
        if let Err(error) = self.shared.store.resize(self.volume.id(), size_bytes) {
            tracing::warn!(volume = %self.volume.id(), %error, "the store could not take the volume's new size");
        }
    }

    fn journal(&self, token: Token, ops: Vec<JournalOp>) {
        let volume = self.volume.id();
        let entries = ops
            .into_iter()
            .map(|op| match op {
                JournalOp::Record(record) => Entry::Record(record),
                JournalOp::Truncate { after } => Entry::Truncate { volume, after },
                JournalOp::Restart { base, epoch } => {
                    Entry::Restart { volume, end: LogEnd { seq: base.seq, hash: base.hash, epoch } }
                }
                JournalOp::Meta(blob) => Entry::Meta { volume, blob },
            })
            .collect();
        let inbox = self.inbox.clone();
        self.shared.journal.append(
            entries,
            Box::new(move |result| {
                inbox.event(match result {
                    // A record that was truncated while it waited for space is as good as never asked for.
                    Ok(()) | Err(JournalError::Superseded { .. }) => Event::JournalDone { token },
                    Err(error) => Event::JournalFailed { reason: error.to_string() },
                });
            }),
        );
    }

    fn address(&self, member: MemberId) -> Option<PeerName> {
        let member = self.volume.newest_config().member(member)?;
        PeerName::new(&member.site, &member.node).ok()
    }

    fn send(&self, message: Message) {
        let to = message.to;
        let Some(peer) = self.address(to) else { return };
        let lane = if message.body.carries_records() { Lane::Records } else { Lane::Control };
        self.send_on(lane, peer, to, rpc::volume_message(message));
    }

    /// On the connection of bulk, which is paced by what the foreground needs; where there is none, with the foreground.
    fn send_behind_all_else(&self, message: Message) {
        let to = message.to;
        let Some(peer) = self.address(to) else { return };
        let parts = rpc::volume_message(message);
        match self.shared.transport.send(&peer, Lane::Bulk, parts.clone()) {
            Ok(()) => {}
            // A shipment fills the lane. Begun anew at each such message, a member would get nowhere.
            Err(SendError::Full) => {
                let Ok(place) = self.behind.clone().try_acquire_owned() else { return };
                let transport = self.shared.transport.clone();
                tokio::spawn(async move {
                    while transport.ready(&peer, Lane::Bulk).await.is_ok()
                        && transport.send(&peer, Lane::Bulk, parts.clone()) == Err(SendError::Full)
                    {
                    }
                    drop(place);
                });
            }
            Err(SendError::NotConnected | SendError::TooLong { .. }) => self.send_on(Lane::Records, peer, to, parts),
        }
    }

    fn send_on(&self, lane: Lane, peer: PeerName, to: MemberId, parts: Vec<Bytes>) {
        if let Err(SendError::Full) = self.shared.transport.send(&peer, lane, parts) {
            // What was not sent is asked for again as soon as the lane has room.
            if !lock(&self.blocked).insert(to) {
                return;
            }
            let (transport, inbox, blocked) = (self.shared.transport.clone(), self.inbox.clone(), self.blocked.clone());
            tokio::spawn(async move {
                let ready = transport.ready(&peer, lane).await;
                lock(&blocked).remove(&to);
                if ready.is_ok() {
                    inbox.event(Event::Link { member: to, up: true });
                }
            });
        }
    }

    fn read_log(&self, to: MemberId, from: Seq, max_bytes: usize) {
        let (shared, inbox, volume) = (self.shared.clone(), self.inbox.clone(), self.volume.id());
        tokio::task::spawn_blocking(move || {
            let mut attempts = 1;
            let (floor, records) = loop {
                break match shared.journal.read(volume, from, max_bytes) {
                    Ok(records) => (shared.journal.floor(volume).min(from), records),
                    Err(ReadError::BelowFloor { floor }) => (floor, Vec::new()),
                    Err(ReadError::Io { .. }) if attempts < READ_ATTEMPTS => {
                        attempts += 1;
                        std::thread::sleep(READ_PAUSE);
                        continue;
                    }
                    Err(error) => {
                        tracing::warn!(%volume, %from, %error, "a record could not be read from the journal");
                        (Seq(from.0 + 1), Vec::new())
                    }
                };
            };
            inbox.event(Event::LogRead { to, from, floor, records });
        });
    }
}

fn covers(hits: &[Hit], offset: u64, length: u32) -> bool {
    let mut at = offset;
    for hit in hits {
        if hit.offset != at {
            return false;
        }
        at += hit.length;
    }
    at == offset + u64::from(length)
}

/// Lays newer bytes over what the store holds.
fn overlaid(stored: Option<Bytes>, offset: u64, length: usize, hits: &[Hit]) -> Bytes {
    match (stored, hits) {
        (Some(stored), []) => stored,
        (None, [Hit { content: Content::Data(data), .. }]) => data.clone(),
        (stored, hits) => {
            let mut out = match stored {
                Some(stored) => BytesMut::from(&stored[..]),
                None => BytesMut::zeroed(length),
            };
            for hit in hits {
                let at = (hit.offset - offset) as usize;
                let target = &mut out[at..at + hit.length as usize];
                match &hit.content {
                    Content::Data(data) => target.copy_from_slice(data),
                    Content::Zeroes => target.fill(0),
                }
            }
            out.freeze()
        }
    }
}
