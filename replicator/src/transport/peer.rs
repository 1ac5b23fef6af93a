//! One peer's task: dials it, takes what it dials, and keeps exactly one connection per purpose.
//!
//! ```text
//!              dial, or be dialled
//!   ┌────────┐  and be chosen (adoption)   ┌────┐  bulk dialled by whoever dialled main  ┌───────────┐
//!   │  Down  │────────────────────────────▶│ Up │───────────────────────────────────────▶│ Up + bulk │
//!   └────────┘◀────────────────────────────└────┘◀───────────────────────────────────────└───────────┘
//!              main lost (takes bulk along)        bulk lost
//! ```
//! The task is the only one that opens and closes the peer's lanes and reports the peer up or down, so reports pair.
//! A connection that takes another's place waits until the other's messages have ended.

use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::{Connection, RecvStream, SendStream};
use time::OffsetDateTime;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::adoption::{Adoption, Rule};
use super::config::CANDIDATES_MAX;
use super::dial::{Backoff, DialledConnection, dial};
use super::explain::explain;
use super::frame::Lane;
use super::hello::{Generation, Purpose, Start, Welcome};
use super::hello_stream::{HelloError, read_message, write_message};
use super::node::{Link, Node, Peer, TransportEvent, close};
use super::refusal::{Refusal, RefusalCode};
use super::session;
use super::status::Dialled;

/// A connection that lasted this long was a good one: after its loss the peer is dialled at once, without backoff.
const GOOD_AFTER: Duration = Duration::from_secs(1);

/// Who dialled us, proven and of an agreed version.
pub(super) struct Caller {
    pub connection: Connection,
    pub boot: u128,
    pub version: u16,
    pub certificate_not_after: OffsetDateTime,
}

/// A connection that the peer dialled.
pub(super) enum Candidate {
    /// It said Hello and waits for our Welcome.
    Main {
        caller: Caller,
        known: Generation,
        send: SendStream,
        receive: RecvStream,
    },
    /// It chose this connection, which we had welcomed.
    Started {
        caller: Caller,
        generation: Generation,
    },
    Bulk {
        caller: Caller,
        known: Generation,
        send: SendStream,
    },
}

/// What the configuration wants of the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// A higher `round` than before: the connections in use are to be made anew.
    Peer {
        address: Option<String>,
        round: u64,
    },
    Removed,
}

impl Wanted {
    pub fn address(&self) -> Option<&String> {
        match self {
            Wanted::Peer { address, .. } => address.as_ref(),
            Wanted::Removed => None,
        }
    }
}

/// A connection in use.
struct Running {
    connection: Connection,
    task: JoinHandle<Refusal>,
    peer_boot: u128,
    /// The address as configured, where we dialled it.
    dialled_address: Option<String>,
    since: Instant,
}

type Dial = Pin<Box<dyn Future<Output = Result<DialledConnection, Refusal>> + Send>>;

/// The dialling side of one purpose.
struct Dialling {
    attempt: Option<(String, Dial)>,
    backoff: Backoff,
    attempts: u64,
}

impl Dialling {
    fn new(node: &Node) -> Dialling {
        let limits = &node.config.limits;
        Dialling { attempt: None, backoff: Backoff::new(limits.redial_min_ms, limits.redial_max_ms), attempts: 0 }
    }

    /// Begins an attempt, after the backoff's delay, unless one is under way.
    fn begin(&mut self, node: &Arc<Node>, peer: &Peer, address: &str, purpose: Purpose, known: Generation) {
        if self.attempt.is_some() {
            return;
        }
        let (delay, attempt) = (self.backoff.delay(), self.attempts);
        self.attempts += 1;
        let (node, name, dialled) = (node.clone(), peer.name.clone(), address.to_owned());
        let attempt = async move {
            sleep(delay).await;
            dial(node, name, dialled, attempt, purpose, known).await
        };
        self.attempt = Some((address.to_owned(), Box::pin(attempt)));
    }

    /// The result of the attempt under way, and the address dialled; waits for ever where there is none.
    async fn done(&mut self) -> (String, Result<DialledConnection, Refusal>) {
        let Some((_, attempt)) = &mut self.attempt else { return pending().await };
        let result = attempt.await;
        let (address, _) = self.attempt.take().expect("the attempt that was just awaited");
        (address, result)
    }
}

pub(super) struct PeerTask {
    node: Arc<Node>,
    peer: Arc<Peer>,
    candidates: mpsc::Receiver<Candidate>,
    /// For connections that we welcomed and the peer has yet to choose; so many may wait for that.
    offers: mpsc::WeakSender<Candidate>,
    unchosen: Arc<Semaphore>,
    wanted: watch::Receiver<Wanted>,
    adoption: Adoption,
    main: Option<Running>,
    bulk: Option<Running>,
    main_dial: Dialling,
    bulk_dial: Dialling,
    /// The round of [`Wanted`] that has been seen to.
    round: u64,
}

enum Step {
    Stop,
    Reconsider,
    Candidate(Candidate),
    MainEnded(Refusal),
    BulkEnded(Refusal),
    MainDialled(String, Result<DialledConnection, Refusal>),
    BulkDialled(String, Result<DialledConnection, Refusal>),
}

impl PeerTask {
    pub fn new(
        node: Arc<Node>,
        peer: Arc<Peer>,
        candidates: mpsc::Receiver<Candidate>,
        offers: mpsc::WeakSender<Candidate>,
        wanted: watch::Receiver<Wanted>,
    ) -> PeerTask {
        let adoption = Adoption::new(node.name(), &peer.name, node.boot);
        let (main_dial, bulk_dial) = (Dialling::new(&node), Dialling::new(&node));
        let (main, bulk, unchosen) = (None, None, Arc::new(Semaphore::new(CANDIDATES_MAX)));
        PeerTask {
            node,
            peer,
            candidates,
            offers,
            unchosen,
            wanted,
            adoption,
            main,
            bulk,
            main_dial,
            bulk_dial,
            round: 0,
        }
    }

    /// Runs until the peer is removed from the configuration or the transport stops.
    pub async fn run(mut self) {
        let mut stopping = self.node.stopping.subscribe();
        loop {
            self.begin_dials();
            let step = tokio::select! {
                _ = stopping.wait_for(|&stopping| stopping) => Step::Stop,
                changed = self.wanted.changed() => if changed.is_ok() { Step::Reconsider } else { Step::Stop },
                Some(candidate) = self.candidates.recv() => Step::Candidate(candidate),
                end = ended(&mut self.main) => Step::MainEnded(end),
                end = ended(&mut self.bulk) => Step::BulkEnded(end),
                (address, result) = self.main_dial.done() => Step::MainDialled(address, result),
                (address, result) = self.bulk_dial.done() => Step::BulkDialled(address, result),
            };
            match step {
                Step::Stop => break,
                Step::Reconsider if *self.wanted.borrow() == Wanted::Removed => break,
                Step::Reconsider => self.reconsider().await,
                Step::Candidate(candidate) => self.consider(candidate).await,
                Step::MainEnded(reason) => self.main_ended(&reason).await,
                Step::BulkEnded(reason) => self.bulk_ended(&reason).await,
                Step::MainDialled(address, Ok(dialled)) => self.main_dialled(address, dialled).await,
                Step::BulkDialled(address, Ok(dialled)) => self.bulk_dialled(address, dialled).await,
                Step::MainDialled(_, Err(refusal)) | Step::BulkDialled(_, Err(refusal)) => {
                    self.node.refused(&self.peer, &refusal);
                }
            }
        }
        let stopped = *self.node.stopping.borrow();
        let reason = if stopped {
            Refusal::new(RefusalCode::Shutdown, format!("{} is going down", self.node.name()))
        } else {
            Refusal::new(RefusalCode::UnknownPeer, format!("{} removed the peer {}", self.node.name(), self.peer.name))
        };
        self.end_main(&reason).await;
    }

    fn address(&self) -> Option<String> {
        self.wanted.borrow().address().cloned()
    }

    /// Main is dialled while there is none; bulk by the side that dialled main, since it is the one that can.
    fn begin_dials(&mut self) {
        match (&self.main, &self.bulk) {
            (None, _) => {
                if let Some(address) = self.address() {
                    self.main_dial.begin(&self.node, &self.peer, &address, Purpose::Main, self.adoption.known());
                }
            }
            (Some(Running { dialled_address: Some(address), .. }), None) => {
                self.bulk_dial.begin(&self.node, &self.peer, address, Purpose::Bulk, self.adoption.known());
            }
            _ => {}
        }
    }

    /// The configured address may be another one: what is under way to the old one is given up; a connection in use
    /// stays, it proves that it leads to the peer.
    async fn reconsider(&mut self) {
        let Wanted::Peer { address, round } = self.wanted.borrow_and_update().clone() else { return };
        if round != self.round {
            self.round = round;
            self.main_dial.backoff.reset();
            let text = format!("{} makes the connection anew", self.node.name());
            self.end_main(&Refusal::new(RefusalCode::Replaced, text)).await;
        }
        if self.main_dial.attempt.as_ref().is_some_and(|(dialled, _)| Some(dialled) != address.as_ref()) {
            self.main_dial.attempt = None;
            self.main_dial.backoff.reset();
        }
    }

    async fn consider(&mut self, candidate: Candidate) {
        match candidate {
            Candidate::Main { caller, known, send, receive } if self.adoption.is_chooser() => {
                drop(receive);
                self.choose(caller, known, send).await;
            }
            Candidate::Main { caller, send, receive, .. } => self.await_start(caller, send, receive),
            Candidate::Started { caller, generation } => {
                let rule = self.adoption.follow(caller.boot, generation);
                if rule.takes() {
                    self.adopt_main(rule, caller, generation, None).await;
                } else {
                    turn_away(&caller.connection, rule);
                }
            }
            Candidate::Bulk { caller, known, send } => self.consider_bulk(caller, known, send).await,
        }
    }

    /// The peer dialled and we are the one to choose: our Welcome is the choice.
    async fn choose(&mut self, caller: Caller, known: Generation, mut send: SendStream) {
        let rule = self.adoption.choose(caller.boot, known);
        if !rule.takes() {
            return turn_away(&caller.connection, rule);
        }
        let generation = self.adoption.next_generation();
        if self.say_welcome(&mut send, &caller, Some(generation)).await {
            self.adopt_main(rule, caller, generation, None).await;
        }
    }

    /// The peer dialled and it chooses: welcome it, and wait for its choice beside the task.
    fn await_start(&self, caller: Caller, mut send: SendStream, mut receive: RecvStream) {
        let Some(offers) = self.offers.upgrade() else { return };
        let Ok(place) = self.unchosen.clone().try_acquire_owned() else {
            let text = "too many connections wait to be chosen";
            return close(&caller.connection, &Refusal::new(RefusalCode::Busy, text));
        };
        let welcome = self.welcome(&caller, None);
        let limit = self.node.handshake_timeout();
        let peer = self.peer.name.clone();
        tokio::spawn(async move {
            let start = async {
                write_message(&mut send, welcome.encode()).await?;
                Ok::<_, HelloError>(Start::decode(read_message(&mut receive).await?)?)
            };
            match timeout(limit, start).await {
                Ok(Ok(Start { generation })) => {
                    // Bounded by the handshake timeout of the other side, and by the number of strangers.
                    let _ = offers.send(Candidate::Started { caller, generation }).await;
                }
                Ok(Err(error)) => tracing::debug!(%peer, "the peer did not choose this connection: {error}"),
                Err(_) => close(&caller.connection, &Refusal::new(RefusalCode::Timeout, "no start came")),
            }
            drop(place);
        });
    }

    fn welcome(&self, caller: &Caller, generation: Option<Generation>) -> Welcome {
        Welcome { version: caller.version, name: self.node.name().clone(), boot: self.node.boot, generation }
    }

    /// False: the connection is gone already.
    async fn say_welcome(&mut self, send: &mut SendStream, caller: &Caller, generation: Option<Generation>) -> bool {
        // The first bytes of a fresh stream always have room; the timeout is for a peer that grants none.
        let said = write_message(send, self.welcome(caller, generation).encode());
        matches!(timeout(self.node.handshake_timeout(), said).await, Ok(Ok(())))
    }

    async fn main_dialled(&mut self, address: String, dialled: DialledConnection) {
        let DialledConnection { connection, mut send, welcome, certificate_not_after } = dialled;
        let caller = Caller { connection, boot: welcome.boot, version: welcome.version, certificate_not_after };
        if self.main.is_some() {
            return turn_away(&caller.connection, Rule::Duplicate);
        }
        let (rule, generation) = match (self.adoption.is_chooser(), welcome.generation) {
            (true, None) => (self.adoption.choose(caller.boot, self.adoption.known()), self.adoption.next_generation()),
            (false, Some(generation)) => (self.adoption.follow(caller.boot, generation), generation),
            _ => {
                let text = format!("{} and this node disagree on who chooses connections", self.peer.name);
                let refusal = Refusal::new(RefusalCode::Protocol, text);
                close(&caller.connection, &refusal);
                return self.node.refused(&self.peer, &refusal);
            }
        };
        if !rule.takes() {
            return turn_away(&caller.connection, rule);
        }
        if self.adoption.is_chooser() {
            let said = write_message(&mut send, Start { generation }.encode());
            if !matches!(timeout(self.node.handshake_timeout(), said).await, Ok(Ok(()))) {
                return;
            }
        }
        self.adopt_main(rule, caller, generation, Some(address)).await;
    }

    /// Puts a connection into use; the one in use before, if any, ends first.
    async fn adopt_main(&mut self, rule: Rule, caller: Caller, generation: Generation, dialled: Option<String>) {
        let replaced = format!("a newer connection took its place: {}", rule.text());
        self.end_main(&Refusal::new(RefusalCode::Replaced, replaced)).await;
        self.main_dial.attempt = None;
        self.bulk_dial.backoff.reset();
        self.adoption.take(caller.boot, generation);
        self.peer.control.open();
        self.peer.records.open();
        let link = link(&caller, dialled.is_some());
        tracing::info!(
            peer = %self.peer.name, address = %caller.connection.remote_address(), version = caller.version,
            dialled_by_us = dialled.is_some(), "peer up: {}", rule.text()
        );
        self.peer.main_up(link);
        self.node.accepted(&self.peer);
        let peer = self.peer.name.clone();
        self.node.emit(TransportEvent::PeerUp { peer, protocol_version: caller.version }).await;
        self.main = Some(self.running(caller, Purpose::Main, dialled));
    }

    fn running(&self, caller: Caller, purpose: Purpose, dialled_address: Option<String>) -> Running {
        let session = session::run(self.node.clone(), self.peer.clone(), caller.connection.clone(), purpose);
        let (connection, peer_boot) = (caller.connection, caller.boot);
        Running { connection, task: tokio::spawn(session), peer_boot, dialled_address, since: Instant::now() }
    }

    /// Ends the main connection, if there is one, for a reason of ours.
    async fn end_main(&mut self, reason: &Refusal) {
        if let Some(running) = self.main.take() {
            close(&running.connection, reason);
            let _ = running.task.await;
            self.main_gone(reason).await;
        }
    }

    async fn main_ended(&mut self, reason: &Refusal) {
        if self.main.take().is_some_and(|running| running.since.elapsed() >= GOOD_AFTER) {
            self.main_dial.backoff.reset();
        }
        self.main_gone(reason).await;
    }

    async fn main_gone(&mut self, reason: &Refusal) {
        let bulk_reason = Refusal::new(RefusalCode::Replaced, "the main connection it belongs to is gone");
        self.end_bulk(&bulk_reason).await;
        self.bulk_dial.attempt = None;
        self.peer.main_down();
        self.peer.control.close();
        self.peer.records.close();
        self.adoption.lose();
        self.node.refused(&self.peer, reason);
        tracing::info!(peer = %self.peer.name, reason = reason.code.word(), "peer down: {}", reason.text);
        let event = TransportEvent::PeerDown { peer: self.peer.name.clone(), reason: reason.to_string() };
        self.node.emit(event).await;
    }

    /// The peer dialled for bulk: good if it belongs to the main connection in use.
    async fn consider_bulk(&mut self, caller: Caller, known: Generation, mut send: SendStream) {
        let belongs =
            self.main.as_ref().is_some_and(|main| main.peer_boot == caller.boot && known == self.adoption.known());
        if !belongs {
            let text = "the main connection that it belongs to is not in use here";
            return close(&caller.connection, &Refusal::new(RefusalCode::Replaced, text));
        }
        if self.say_welcome(&mut send, &caller, Some(known)).await {
            self.adopt_bulk(caller, None).await;
        }
    }

    async fn bulk_dialled(&mut self, address: String, dialled: DialledConnection) {
        let DialledConnection { connection, welcome, certificate_not_after, .. } = dialled;
        let caller = Caller { connection, boot: welcome.boot, version: welcome.version, certificate_not_after };
        let belongs = self.main.as_ref().is_some_and(|main| main.peer_boot == caller.boot)
            && welcome.generation == Some(self.adoption.known());
        if !belongs {
            let text = "the main connection that it belongs to is not in use any more";
            return close(&caller.connection, &Refusal::new(RefusalCode::Replaced, text));
        }
        self.adopt_bulk(caller, Some(address)).await;
    }

    async fn adopt_bulk(&mut self, caller: Caller, dialled: Option<String>) {
        self.end_bulk(&Refusal::new(RefusalCode::Replaced, "a newer bulk connection took its place")).await;
        self.bulk_dial.attempt = None;
        self.peer.bulk.open();
        self.peer.bulk_up(link(&caller, dialled.is_some()));
        self.node.emit(TransportEvent::BulkUp { peer: self.peer.name.clone() }).await;
        self.bulk = Some(self.running(caller, Purpose::Bulk, dialled));
    }

    async fn end_bulk(&mut self, reason: &Refusal) {
        if let Some(running) = self.bulk.take() {
            close(&running.connection, reason);
            let _ = running.task.await;
            self.bulk_gone(reason).await;
        }
    }

    async fn bulk_ended(&mut self, reason: &Refusal) {
        if self.bulk.take().is_some_and(|running| running.since.elapsed() >= GOOD_AFTER) {
            self.bulk_dial.backoff.reset();
        }
        self.bulk_gone(reason).await;
    }

    async fn bulk_gone(&mut self, reason: &Refusal) {
        self.peer.bulk_down();
        self.peer.lane(Lane::Bulk).close();
        tracing::debug!(peer = %self.peer.name, reason = reason.code.word(), "bulk connection down: {}", reason.text);
        let event = TransportEvent::BulkDown { peer: self.peer.name.clone(), reason: reason.to_string() };
        self.node.emit(event).await;
    }
}

fn link(caller: &Caller, dialled_by_us: bool) -> Link {
    Link {
        connection: caller.connection.clone(),
        dialled: if dialled_by_us { Dialled::Ours } else { Dialled::Theirs },
        version: caller.version,
        certificate_not_after: caller.certificate_not_after,
    }
}

/// A process that was replaced and still dials is alive: then there are two of them under one name.
fn turn_away(connection: &Connection, rule: Rule) {
    let refusal = match rule {
        Rule::Retired => Refusal::new(
            RefusalCode::WrongName,
            format!("{}; if both are running, two nodes share one certificate: issue each its own", rule.text()),
        ),
        _ => Refusal::new(RefusalCode::Duplicate, rule.text()),
    };
    close(connection, &refusal);
}

/// Why the connection in use has ended; waits for ever where there is none.
async fn ended(running: &mut Option<Running>) -> Refusal {
    let Some(running) = running else { return pending().await };
    match (&mut running.task).await {
        Ok(reason) => reason,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => match running.connection.close_reason() {
            Some(reason) => explain(&reason, "the peer"),
            None => Refusal::new(RefusalCode::Shutdown, "the runtime is going down"),
        },
    }
}
