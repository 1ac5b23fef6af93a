//! The relay between two sites: four sockets, two pipes, one thread.

use std::collections::BinaryHeap;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::conditions::Conditions;
use crate::lateness::Lateness;
use crate::pipe::{Fate, Pipe};
use crate::port::{Buffers, EcnCodepoint, Port, Train};

/// On their way in both directions; more are dropped. Four seconds at a gigabit.
const UNDER_WAY_BYTES_MAX: usize = 512 << 20;
/// How soon a relay that has nothing to do sees that it shall end.
const IDLE: Duration = Duration::from_millis(50);
/// Above whatever the sites run.
const NICENESS: i32 = -15;
/// What it takes to wake a sleeper on a virtual machine: it sleeps that much less, and looks again and again for the rest.
const WAKE_UP: Duration = Duration::from_micros(35);
/// Datagrams that fell due together leave together, up to this much.
const COALESCED_BYTES_MAX: usize = 60 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the first site to the second.
    There,
    Back,
}

/// What has passed in one direction since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// That the sender gave to the relay.
    pub datagrams: u64,
    pub bytes: u64,
    /// That came out at the other end.
    pub passed_datagrams: u64,
    pub passed_bytes: u64,
    /// At random, or because the link was cut.
    pub lost: u64,
    /// By the bottleneck's queue.
    pub dropped: u64,
    /// Larger than the path's MTU.
    pub too_long: u64,
}

#[derive(Default)]
struct Tally {
    datagrams: AtomicU64,
    bytes: AtomicU64,
    passed_datagrams: AtomicU64,
    passed_bytes: AtomicU64,
    lost: AtomicU64,
    dropped: AtomicU64,
    too_long: AtomicU64,
    late: Lateness,
}

#[derive(Default)]
struct Shared {
    conditions: Mutex<[Conditions; 2]>,
    tallies: [Tally; 2],
    ended: AtomicBool,
}

/// A running relay; it ends with the value.
pub struct Link {
    doors: [SocketAddr; 2],
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Link {
    /// Between sites that listen at these addresses. `seed` decides which datagrams are lost.
    pub fn start(sites: [SocketAddr; 2], conditions: Conditions, seed: u64) -> io::Result<Link> {
        let shared = Arc::new(Shared { conditions: Mutex::new([conditions; 2]), ..Shared::default() });
        let pairs = [Pair::open(sites[1])?, Pair::open(sites[0])?];
        let doors = [pairs[0].front.address, pairs[1].front.address];
        let mut relay = Relay {
            shared: shared.clone(),
            pairs,
            pipes: [Pipe::new(seed), Pipe::new(!seed)],
            under_way: BinaryHeap::new(),
            under_way_bytes: 0,
            order: 0,
        };
        let thread = std::thread::Builder::new().name("wan".into()).spawn(move || relay.run())?;
        Ok(Link { doors, shared, thread: Some(thread) })
    }

    /// Where the first (0) or the second (1) site finds the other one.
    pub fn door(&self, of: usize) -> SocketAddr {
        self.doors[of]
    }

    /// Both directions; for datagrams that come from now on.
    pub fn set(&self, conditions: Conditions) {
        *self.shared.conditions.lock().unwrap_or_else(PoisonError::into_inner) = [conditions; 2];
    }

    pub fn set_one(&self, direction: Direction, conditions: Conditions) {
        self.shared.conditions.lock().unwrap_or_else(PoisonError::into_inner)[direction as usize] = conditions;
    }

    /// What the path carries from now on, in both directions.
    pub fn set_mtu(&self, mtu_bytes: Option<u64>) {
        for conditions in self.shared.conditions.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
            conditions.mtu_bytes = mtu_bytes;
        }
    }

    /// Lets nothing pass, or everything again, in both directions.
    pub fn cut(&self, cut: bool) {
        for conditions in self.shared.conditions.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
            conditions.cut = cut;
        }
    }

    pub fn counts(&self, direction: Direction) -> Counts {
        let tally = &self.shared.tallies[direction as usize];
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            datagrams: read(&tally.datagrams),
            bytes: read(&tally.bytes),
            passed_datagrams: read(&tally.passed_datagrams),
            passed_bytes: read(&tally.passed_bytes),
            lost: read(&tally.lost),
            dropped: read(&tally.dropped),
            too_long: read(&tally.too_long),
        }
    }

    /// How late the half of all datagrams that was least late left, in microseconds after what the conditions said.
    /// `None` before the first. What a datagram waited before the relay saw it is not in it.
    pub fn late_p50_us(&self, direction: Direction) -> Option<u64> {
        self.shared.tallies[direction as usize].late.p50_us()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// For the connections that one of the sites dials: `front` is what it dials, `back` is whom the other one sees.
struct Pair {
    front: Port,
    back: Port,
    target: SocketAddr,
    /// Whom the target's answers are for: whoever spoke at the front last.
    dialler: Option<SocketAddr>,
}

impl Pair {
    fn open(target: SocketAddr) -> io::Result<Pair> {
        Ok(Pair { front: Port::bind()?, back: Port::bind()?, target, dialler: None })
    }

    fn send(&self, outward: bool, train: Train<'_>) {
        match self.dialler {
            _ if outward => self.back.send(self.target, train),
            Some(dialler) => self.front.send(dialler, train),
            None => {}
        }
    }
}

/// Which of the four ways a train goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    pair: usize,
    outward: bool,
}

impl Way {
    const ALL: [Way; 4] = [
        Way { pair: 0, outward: true },
        Way { pair: 0, outward: false },
        Way { pair: 1, outward: true },
        Way { pair: 1, outward: false },
    ];

    /// The first site's own dialling leads there; the answers to it come back.
    fn direction(self) -> Direction {
        if (self.pair == 0) == self.outward { Direction::There } else { Direction::Back }
    }
}

struct UnderWay {
    due: Instant,
    order: u64,
    way: Way,
    bytes: Vec<u8>,
    stride: usize,
    ecn: Option<EcnCodepoint>,
}

/// The heap gives the greatest first: the one that is due first.
impl Ord for UnderWay {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.due, other.order).cmp(&(self.due, self.order))
    }
}

impl PartialOrd for UnderWay {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for UnderWay {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for UnderWay {}

struct Relay {
    shared: Arc<Shared>,
    pairs: [Pair; 2],
    pipes: [Pipe; 2],
    under_way: BinaryHeap<UnderWay>,
    under_way_bytes: usize,
    order: u64,
}

impl Relay {
    fn run(&mut self) {
        // The kernel may wake a sleeper 50 µs late unless it is told not to.
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        // A network does not wait for the machines' processors; where that is not granted, it does.
        let _ = rustix::process::nice(NICENESS);
        let (mut buffers, mut coalesced) = (Buffers::new(), Vec::new());
        while !self.shared.ended.load(Ordering::Relaxed) {
            self.send_due(&mut coalesced);
            let come = self.wait();
            for (way, _) in Way::ALL.into_iter().zip(come).filter(|(_, come)| *come) {
                self.receive(way, &mut buffers);
            }
        }
    }

    /// Until a datagram has come, or one is due. Says for each way whether some have come.
    fn wait(&self) -> [bool; 4] {
        let now = Instant::now();
        let until_due = self.under_way.peek().map(|next| next.due.saturating_duration_since(now));
        let pause = until_due.map_or(IDLE, |until| until.saturating_sub(WAKE_UP).min(IDLE));
        let pause = Timespec { tv_sec: 0, tv_nsec: pause.subsec_nanos().into() };
        let mut fds = Way::ALL.map(|way| PollFd::from_borrowed_fd(self.port(way).fd(), PollFlags::IN));
        match poll(&mut fds, Some(&pause)) {
            Ok(n) if n > 0 => fds.map(|fd| !fd.revents().is_empty()),
            _ => [false; 4],
        }
    }

    /// Where datagrams that go this way come in.
    fn port(&self, way: Way) -> &Port {
        let pair = &self.pairs[way.pair];
        if way.outward { &pair.front } else { &pair.back }
    }

    fn receive(&mut self, way: Way, buffers: &mut Buffers) {
        let direction = way.direction() as usize;
        loop {
            let conditions = self.shared.conditions.lock().unwrap_or_else(PoisonError::into_inner)[direction];
            let count = self.port(way).receive(buffers);
            let now = Instant::now();
            for (source, train) in buffers.trains(count) {
                let pair = &mut self.pairs[way.pair];
                if way.outward {
                    pair.dialler = Some(source);
                } else if source != pair.target {
                    continue;
                }
                let tally = &self.shared.tallies[direction];
                tally.datagrams.fetch_add(train.count() as u64, Ordering::Relaxed);
                tally.bytes.fetch_add(train.bytes.len() as u64, Ordering::Relaxed);
                if conditions.is_even() && conditions.carries(train.largest()) {
                    self.pass(way, train, now, &conditions);
                } else {
                    train.datagrams().for_each(|datagram| self.pass(way, datagram, now, &conditions));
                }
            }
            if count < buffers.trains_max() {
                return;
            }
        }
    }

    fn pass(&mut self, way: Way, train: Train<'_>, now: Instant, conditions: &Conditions) {
        let direction = way.direction() as usize;
        let tally = &self.shared.tallies[direction];
        let count = train.count() as u64;
        if !conditions.carries(train.largest()) {
            tally.too_long.fetch_add(count, Ordering::Relaxed);
            return;
        }
        let fate = self.pipes[direction].take(now, train.bytes.len(), conditions);
        match fate {
            Fate::Lost => _ = tally.lost.fetch_add(count, Ordering::Relaxed),
            Fate::Due(due) if due <= now && self.under_way.peek().is_none_or(|next| next.due > due) => {
                self.send(way, train, due);
            }
            Fate::Due(due) if self.under_way_bytes + train.bytes.len() <= UNDER_WAY_BYTES_MAX => {
                self.under_way_bytes += train.bytes.len();
                self.order += 1;
                let Train { bytes, stride, ecn } = train;
                self.under_way.push(UnderWay { due, order: self.order, way, bytes: bytes.to_vec(), stride, ecn });
            }
            Fate::Dropped | Fate::Due(_) => _ = tally.dropped.fetch_add(count, Ordering::Relaxed),
        }
    }

    fn send(&self, way: Way, train: Train<'_>, due: Instant) {
        let tally = &self.shared.tallies[way.direction() as usize];
        tally.passed_datagrams.fetch_add(train.count() as u64, Ordering::Relaxed);
        tally.passed_bytes.fetch_add(train.bytes.len() as u64, Ordering::Relaxed);
        self.pairs[way.pair].send(way.outward, train);
        tally.late.add(due.elapsed());
    }

    /// Sends what is due; neighbours that go the same way leave as one train.
    fn send_due(&mut self, coalesced: &mut Vec<u8>) {
        let now = Instant::now();
        while let Some(first) = self.pop_if(|next| next.due <= now) {
            let stride = first.stride;
            coalesced.clear();
            coalesced.extend_from_slice(&first.bytes);
            let fits = |next: &UnderWay, length: usize| {
                let alike = next.way == first.way && next.ecn == first.ecn && next.stride <= stride;
                // A train of several needs the same stride; a shorter datagram may only be the last.
                let joins = next.stride == stride || next.bytes.len() <= next.stride;
                alike
                    && joins
                    && length.is_multiple_of(stride.max(1))
                    && length + next.bytes.len() <= COALESCED_BYTES_MAX
            };
            while let Some(next) = self.pop_if(|next| next.due <= now && fits(next, coalesced.len())) {
                coalesced.extend_from_slice(&next.bytes);
            }
            self.send(first.way, Train { bytes: coalesced, stride, ecn: first.ecn }, first.due);
        }
    }

    fn pop_if(&mut self, wanted: impl FnOnce(&UnderWay) -> bool) -> Option<UnderWay> {
        if !wanted(self.under_way.peek()?) {
            return None;
        }
        let popped = self.under_way.pop()?;
        self.under_way_bytes -= popped.bytes.len();
        Some(popped)
    }
}
