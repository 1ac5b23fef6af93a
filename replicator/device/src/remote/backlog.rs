//! The requests that have no answer yet, and which of them may be on their way. No I/O in here.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};

use crate::nbd::wire;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    Read { offset: u64, length: u32 },
    Write { offset: u64, data: Bytes, fua: bool },
    Flush,
    Trim { offset: u64, length: u32 },
    Zero { offset: u64, length: u32, unmap: bool, fua: bool },
}

impl Request {
    /// What it changes; nothing for the others.
    fn changes(&self) -> Option<Range<u64>> {
        match self {
            Request::Read { .. } | Request::Flush => None,
            Request::Write { offset, data, .. } => Some(*offset..offset.saturating_add(data.len() as u64)),
            Request::Trim { offset, length } | Request::Zero { offset, length, .. } => {
                Some(*offset..offset.saturating_add(u64::from(*length)))
            }
        }
    }

    /// Its header on the wire, and the payload behind it.
    pub fn encode(&self, cookie: u64) -> (Bytes, Bytes) {
        let fua_flag = |fua: bool| if fua { wire::CMD_FLAG_FUA } else { 0 };
        let (flags, command, offset, length, payload) = match self {
            Request::Read { offset, length } => (0, wire::CMD_READ, *offset, *length, Bytes::new()),
            Request::Write { offset, data, fua } => {
                (fua_flag(*fua), wire::CMD_WRITE, *offset, data.len() as u32, data.clone())
            }
            Request::Flush => (0, wire::CMD_FLUSH, 0, 0, Bytes::new()),
            Request::Trim { offset, length } => (0, wire::CMD_TRIM, *offset, *length, Bytes::new()),
            Request::Zero { offset, length, unmap, fua } => {
                let hole = if *unmap { 0 } else { wire::CMD_FLAG_NO_HOLE };
                (fua_flag(*fua) | hole, wire::CMD_WRITE_ZEROES, *offset, *length, Bytes::new())
            }
        };
        let mut header = BytesMut::with_capacity(wire::REQUEST_BYTES);
        header.put_u32(wire::REQUEST_MAGIC);
        header.put_u16(flags);
        header.put_u16(command);
        header.put_u64(cookie);
        header.put_u64(offset);
        header.put_u32(length);
        (header.freeze(), payload)
    }
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

/// One request, and whoever waits for its answer.
#[derive(Debug)]
pub struct Entry<R> {
    pub request: Request,
    pub reply: R,
    /// Earlier changes that overlap and have no answer yet. While there are any it is not sent.
    behind: usize,
}

/// Entries by their cookie, which is their place in the order and is never used again.
#[derive(Debug)]
pub struct Backlog<R> {
    next: u64,
    entries: BTreeMap<u64, Entry<R>>,
}

impl<R> Default for Backlog<R> {
    fn default() -> Self {
        Backlog { next: 1, entries: BTreeMap::new() }
    }
}

impl<R> Backlog<R> {
    /// Takes a request in; its cookie, and whether it may be sent now.
    pub fn push(&mut self, request: Request, reply: R) -> (u64, bool) {
        let behind = match request.changes() {
            None => 0,
            Some(range) => self.changes().filter(|(_, earlier)| overlap(earlier, &range)).count(),
        };
        let cookie = self.next;
        self.next += 1;
        self.entries.insert(cookie, Entry { request, reply, behind });
        (cookie, behind == 0)
    }

    /// A request that was sent, by the cookie of an answer.
    pub fn sent(&self, cookie: u64) -> Option<&Request> {
        self.entries.get(&cookie).filter(|entry| entry.behind == 0).map(|entry| &entry.request)
    }

    /// Takes an answered request out, with the cookies of those that may be sent now, in order.
    pub fn answered(&mut self, cookie: u64) -> Option<(Entry<R>, Vec<u64>)> {
        self.sent(cookie)?;
        let entry = self.entries.remove(&cookie)?;
        let mut freed = Vec::new();
        if let Some(range) = entry.request.changes() {
            for (later, waiting) in self.entries.range_mut(cookie..) {
                if waiting.request.changes().is_some_and(|its| overlap(&its, &range)) {
                    waiting.behind -= 1;
                    if waiting.behind == 0 {
                        freed.push(*later);
                    }
                }
            }
        }
        Some((entry, freed))
    }

    /// All that may be sent, in order: what a new connection begins with.
    pub fn sendable(&self) -> impl Iterator<Item = u64> {
        self.entries.iter().filter(|(_, entry)| entry.behind == 0).map(|(cookie, _)| *cookie)
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Everything, when there will be no answer any more.
    pub fn give_up(&mut self) -> impl Iterator<Item = Entry<R>> {
        std::mem::take(&mut self.entries).into_values()
    }

    fn changes(&self) -> impl Iterator<Item = (u64, Range<u64>)> {
        self.entries.iter().filter_map(|(cookie, entry)| Some((*cookie, entry.request.changes()?)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn write(block: u64, blocks: u64) -> Request {
        Request::Write { offset: block * 4096, data: vec![0; (blocks * 4096) as usize].into(), fua: false }
    }

    #[test]
    fn a_change_waits_for_earlier_ones_that_overlap_and_for_nothing_else() {
        let mut backlog = Backlog::default();
        let (first, sent) = backlog.push(write(0, 2), ());
        assert!(sent);
        assert!(backlog.push(write(2, 1), ()).1, "beside it");
        let (over, sent) = backlog.push(write(1, 1), ());
        assert!(!sent, "over it");
        assert!(backlog.push(Request::Read { offset: 0, length: 4096 }, ()).1, "a read of it");
        assert!(backlog.push(Request::Flush, ()).1);
        let (last, sent) = backlog.push(Request::Trim { offset: 4096, length: 4096 }, ());
        assert!(!sent, "over one that waits itself");
        assert!(backlog.answered(over).is_none(), "what was not sent can't be answered");
        assert_eq!(backlog.answered(first).unwrap().1, [over]);
        assert_eq!(backlog.answered(over).unwrap().1, [last]);
        assert!(backlog.answered(first).is_none(), "an answer comes once");
        assert_eq!(backlog.sendable().collect::<Vec<_>>(), [2, 4, 5, last]);
    }

    proptest! {
        /// Whatever is answered when: no two changes that overlap may be sent at the same time, and all are sent in the end.
        #[test]
        fn overlapping_changes_are_never_under_way_together(
            ops in prop::collection::vec((0..24u64, 1..6u64, any::<bool>(), 0..4usize), 1..64)
        ) {
            let mut backlog = Backlog::default();
            let mut under_way: Vec<u64> = Vec::new();
            let mut pushed = 0;
            let mut done = 0;
            let answer = |backlog: &mut Backlog<()>, under_way: &mut Vec<u64>, which: usize| {
                let cookie = under_way.remove(which % under_way.len());
                let (_, freed) = backlog.answered(cookie).expect("it was sent");
                assert!(freed.is_sorted());
                under_way.extend(freed);
            };
            for (block, blocks, reads, answers) in ops {
                let request = match reads {
                    true => Request::Read { offset: block * 4096, length: 4096 },
                    false => write(block, blocks),
                };
                let (cookie, sent) = backlog.push(request, ());
                pushed += 1;
                if sent {
                    under_way.push(cookie);
                }
                for round in 0..answers.min(under_way.len()) {
                    answer(&mut backlog, &mut under_way, round * 7 + answers);
                    done += 1;
                }
                let mut sorted = under_way.clone();
                sorted.sort_unstable();
                prop_assert_eq!(&sorted, &backlog.sendable().collect::<Vec<_>>());
                let ranges: Vec<_> = sorted.iter().filter_map(|c| backlog.sent(*c)?.changes()).collect();
                for (i, a) in ranges.iter().enumerate() {
                    prop_assert!(ranges[i + 1..].iter().all(|b| !overlap(a, b)));
                }
            }
            while !under_way.is_empty() {
                answer(&mut backlog, &mut under_way, done);
                done += 1;
            }
            prop_assert_eq!(done, pushed);
            prop_assert_eq!(backlog.len(), 0);
        }
    }
}
