//! What goes into the core and what comes out: events and effects.
//!
//! The driver calls [`crate::volume::Volume::handle`] for each event, [`crate::volume::Volume::flush`] when no more
//! events wait, and carries the effects out in the order given. Journal effects must become durable in that order.

use bytes::Bytes;

use crate::durable::LogBase;
use crate::history::History;
use crate::ids::{Epoch, LineageId, MemberId, Seq, SessionId, VolumeId};
use crate::mark::Mark;
use crate::message::Message;
use crate::overlay::Hit;
use crate::record::{Origin, Record};
use crate::register::{Configuration, DataRule, Durability, Member, Mode, OnQuorumLoss, Vote};

/// Names a device request from submission to completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Names an operator's command from submission to its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId(pub u64);

/// Names a journal effect; [`Event::JournalDone`] brings it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token(pub u64);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Io {
    Read { offset: u64, length: u32 },
    Write { offset: u64, data: Bytes, fua: bool },
    Flush,
    Discard { offset: u64, length: u64 },
    WriteZeroes { offset: u64, length: u64, fua: bool },
}

/// A device request. Ranges are whole 4 KiB blocks within the volume; writes carry at most
/// [`crate::record::RECORD_PAYLOAD_MAX`] bytes, zeroing at most [`crate::record::RECORD_RANGE_MAX`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub id: RequestId,
    pub io: Io,
    pub origin: Origin,
}

/// Why a request failed. A single write never fails for lack of a quorum: it could commit later, and flip.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IoFault {
    #[error("the device is fenced: {0}; attach it anew")]
    Fenced(String),
    #[error("the request lies outside the volume or is not whole 4 KiB blocks")]
    Invalid,
    #[error("more than {WAITING} requests wait", WAITING = crate::limits::WAITING_REQUESTS_MAX)]
    Overload,
    #[error("the data can't be read: {0}")]
    Unreadable(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Data(Bytes),
    Fault(IoFault),
}

/// An operator's verb, or the attach of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Take the epoch. `writer` is 128 fresh random bits.
    Promote { writer: u128, why: Promotion },
    /// Open the device for `session` here; promotes first where that is needed. `writer` as above.
    Attach { writer: u128, session: SessionId },
    /// Close the device of `session` and free the volume for another node of the site.
    Detach { session: SessionId },
    /// Give the epoch up after everything appended is acked. The volume stays without primary.
    Demote,
    /// Like demote, but waits until everything is durable on `to`, which is to promote next.
    Handover { to: MemberId },
    /// Change members, votes, sync set, rule or size.
    Change(Change),
    /// Begin a new lineage whose voters and sync set are exactly these members, without a control quorum; then
    /// promote here. `writer` and `uuid` are 128 fresh random bits each.
    Force { writer: u128, uuid: u128, members: Vec<MemberId> },
    /// Put this mark into the order, behind all that is in it, whether or not a device is open. Answered
    /// [`Answer::Marked`] once it is acked; where the epoch ends before, an error, and the mark may be there or not.
    ///
    /// `under` a hold: refused if that is broken, and answered as soon as the mark has its seq: that it is acked is
    /// known only when the hold's [`Command::Release`] is answered well.
    Mark { mark: Mark, under: Option<HoldId> },
    /// One volume's part in a cut over several. From its mark on and until it is released, nothing above the mark
    /// completes, and no read shows it; requests are taken, and records sent and acked, as ever. Nothing needs to be
    /// waited for between a volume's hold and its mark. Ends by itself, broken, after [`crate::limits::HOLD_US_MAX`].
    Hold,
    /// Ends a hold, when all volumes of the cut have their marks. Completions go on at once; the answer comes when this node is known to have held the epoch until
    /// now, and all marks under the hold are acked. An error: the hold was broken, and no mark under it is of any use.
    Release { hold: HoldId },
}

/// Names a hold, of one epoch only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HoldId {
    pub epoch: Epoch,
    /// Counted within the epoch.
    pub n: u64,
}

/// What a command that was carried out says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Done,
    /// The mark's place in the order.
    Marked {
        seq: Seq,
    },
    Held {
        hold: HoldId,
    },
}

/// Why a promotion starts; decides what it is checked against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promotion {
    /// An operator's `promote`: refused while the present primary is heard by a voter.
    Verb,
    /// An operator's `failover`: takes over from a primary that may be alive.
    Takeover,
    /// A restarted daemon takes its own device back; refused unless the newest register names it.
    Restart { session: SessionId },
    /// The node that is named shall write no more: refused unless the newest register names it or nobody, in our site.
    Fence { member: MemberId },
    /// Attach what an orchestrator has published; refused unless the newest register names us and the session.
    Published { session: SessionId },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Grow the device. Never shrinks.
    Resize { size_bytes: u64 },
    /// Add a member; a data member enters the sync set once it is whole.
    Add { member: Member, incarnation: crate::ids::Incarnation, votes: u8 },
    /// Take a member out of votes and sync set. Refused when the rule could not be met without it.
    Remove { member: MemberId },
    /// A member came back with a new disk: its new incarnation gets the vote, and the copy is made anew.
    Readmit { member: MemberId, incarnation: crate::ids::Incarnation },
    /// Change the rule (and its name).
    Rule { policy: String, rule: DataRule },
    /// Change the class. To `flush` only while nobody is attached: a device that has no cache has promised that. To
    /// `write` at once; the register says so when all that was completed is acknowledged.
    Durability { durability: Durability },
    /// What happens to the device without a quorum.
    QuorumLoss { on_quorum_loss: OnQuorumLoss },
    /// Change the mode. `rule` is what the policy makes of the members that the mode wants in the sync set. `votes` is left
    /// empty: the holder of the epoch fills in those that get their vote back.
    Mode { mode: Mode, rule: DataRule, votes: Vec<Vote> },
    /// After how long without a data quorum those that are heard go on by themselves.
    Fallback { after_us: Option<u64> },
    /// After how long an observer stands in for a member that is lost. Who stands in for one now goes on.
    PromoteObserver { after_us: Option<u64> },
    /// Set a label of the volume, or take it away.
    Label { key: String, value: Option<String> },
    /// Name or clear the node and session that may do I/O.
    Attached { attached: Option<crate::register::Attachment> },
    /// Take back a change that has not taken effect, for instance because a member it names is gone.
    Withdraw,
    /// Put a member out of the sync set without touching its vote, with the rule reduced to `rule`. Also before the
    /// epoch opens, and in place of a change that is stuck.
    Reduce { without: Vec<MemberId>, rule: DataRule },
}

/// A refused or failed command: which rule said no, why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}; {remedy}")]
pub struct Refusal {
    pub rule: &'static str,
    pub text: String,
    pub remedy: String,
}

impl Refusal {
    pub fn new(rule: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Refusal {
        Refusal { rule, text: text.into(), remedy: remedy.into() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// From a member; the driver has checked that the sender is who `from` says.
    Message(Message),
    /// The link to a member came up or went down.
    Link {
        member: MemberId,
        up: bool,
    },
    /// This effect and all before it are durable.
    JournalDone {
        token: Token,
    },
    /// The journal can't be trusted any more; this incarnation is burnt.
    JournalFailed {
        reason: String,
    },
    /// Answer to [`Effect::ReadLog`]. Empty with `from < floor` when the journal no longer holds it.
    LogRead {
        to: MemberId,
        from: Seq,
        floor: Seq,
        records: Vec<Record>,
    },
    /// The store has applied everything up to `seq`.
    Applied {
        seq: Seq,
    },
    /// The store is durable up to `base`; the journal is needed only above it.
    Checkpointed {
        base: LogBase,
    },
    Io(Request),
    /// The bytes that [`Effect::Read`] asked for, overlay already laid over them.
    ReadDone {
        id: RequestId,
        result: Result<Bytes, String>,
    },
    Command {
        id: CommandId,
        command: Command,
    },
    /// A resync's image is staged completely; install it.
    Staged {
        /// Of the source, when it began.
        lineage: LineageId,
        base: LogBase,
        history: History,
    },
    /// The store shows the staged image now.
    ImageVisible,
    /// The staged image is gone (a crash before it was made visible); the old one stands.
    ImageLost,
    /// What the journal here holds for this volume, whatever its other volumes do: the volume must not have more un-acked
    /// than that, since nothing but a new epoch frees it, and an epoch begins with a record of its own.
    JournalShare {
        bytes: u64,
    },
    /// Answer to [`Effect::AskWaiting`]: where the records begin that the journal has not begun to write.
    Waiting {
        from: Option<Seq>,
    },
    /// [`Effect::Ship`] ended; the peer says where it stands when it is asked again.
    Shipped {
        to: MemberId,
    },
    Timer,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JournalOp {
    Record(Record),
    /// Hide every earlier record above `after`.
    Truncate {
        after: Seq,
    },
    /// Hide every earlier record; the log goes on after `base`, whose record has `epoch`.
    Restart {
        base: LogBase,
        epoch: Epoch,
    },
    /// The newest [`crate::durable::Durable`] blob.
    Meta(Bytes),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    Journal {
        token: Token,
        ops: Vec<JournalOp>,
    },
    Send(Message),
    /// As [`Effect::Send`], of records for a member that is far behind: whatever else there is to send goes first. They
    /// may be overtaken by later ones.
    CatchUp(Message),
    /// Read records for `to` from the local journal, contiguous from `from`.
    ReadLog {
        to: MemberId,
        from: Seq,
        max_bytes: usize,
    },
    /// Apply journalled records up to `upto` to the store, in order.
    Apply {
        upto: Seq,
    },
    /// Which records of this volume wait, for their turn or for space? [`Event::Waiting`] answers.
    AskWaiting,
    /// The journal need not keep records at or below this for redo.
    Trim {
        checkpoint: Seq,
    },
    /// Read from the store, lay `hits` over it, and bring it back as [`Event::ReadDone`]. Where
    /// [`crate::volume::Volume::read_from`] says so, from the store of one of those.
    Read {
        id: RequestId,
        offset: u64,
        length: u32,
        hits: Vec<Hit>,
    },
    Complete {
        id: RequestId,
        outcome: Outcome,
    },
    OpenDevice {
        session: SessionId,
    },
    CloseDevice {
        reason: String,
    },
    Resized {
        size_bytes: u64,
    },
    Answer {
        id: CommandId,
        result: Result<Answer, Refusal>,
    },
    /// Send this member everything changed since `base` (its applied seq), as of the store's applied position.
    Ship {
        to: MemberId,
        base: Seq,
        lineage: LineageId,
        history: History,
    },
    /// The staged image comes too late (our log has gone past it), or is of another lineage.
    DropImage,
    /// Make the staged image visible, then say [`Event::ImageVisible`].
    InstallImage {
        seq: Seq,
    },
    /// The configuration changed: who may speak, and where members live.
    Configured(Box<Configuration>),
    /// A state edge for the log: the rule's name and what happened.
    Edge {
        rule: &'static str,
        text: String,
    },
}

/// Where a holder without a copy has its reads answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadFrom {
    /// Only a copy whose store shows all of this may answer, by its own word: less is not what was acknowledged. More does
    /// no harm.
    pub applied: Seq,
    /// Members of the sync set, the nearest first.
    pub members: Vec<MemberId>,
}

/// What every part of the core writes its effects to.
pub type Effects = Vec<Effect>;

/// Where a volume stands, for `status` and metrics. Derived, never stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub volume: VolumeId,
    /// Whose status it is.
    pub me: MemberId,
    pub role: &'static str,
    pub state: String,
    pub epoch: Epoch,
    pub lineage: crate::ids::LineageId,
    /// This life of the replica's disk.
    pub incarnation: crate::ids::Incarnation,
    /// No resync under way, no hole in the log: the image is the volume's at `applied`.
    pub whole: bool,
    /// The lineages that it forked from, with the last seq kept of each.
    pub parents: Vec<(crate::ids::LineageId, Seq)>,
    /// Which epoch each stretch of the log here belongs to.
    pub history: History,
    pub config: Configuration,
    /// `config` is on this node's disk.
    pub config_stored: bool,
    /// This node holds the epoch, all that an earlier lease allowed is over, and `config` is in effect.
    pub settled: bool,
    pub appended: Seq,
    pub durable: Seq,
    /// The highest that is known here to be acknowledged, held here or not.
    pub acked: Seq,
    /// What may have completed, as far as it is known here: more than that in class `flush`.
    pub completed: Seq,
    pub applied: Seq,
    pub checkpointed: Seq,
    pub lease_left_us: Option<u64>,
    /// Of what was acknowledged since, this node may not know: when the last that it heard of the epoch's holder was said, or
    /// when, as holder, a data quorum last followed it. `None`: not in this life of the daemon.
    pub known_us_ago: Option<u64>,
    pub attached_here: bool,
    /// The holder of the epoch that this node follows, if it does.
    pub leader: Option<MemberId>,
    pub members: Vec<MemberStatus>,
    /// How often the mode, or a fallback, has put members out of the sync set in this epoch.
    pub departures: u64,
    pub conditions: Vec<Condition>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    pub id: MemberId,
    pub in_sync_set: bool,
    /// Why the mode put it out of the sync set, and since when, for people.
    pub left: Option<String>,
    pub state: &'static str,
    pub durable: Seq,
    pub applied: Seq,
    pub heard_us_ago: Option<u64>,
    pub lag_records: u64,
    pub lag_bytes: u64,
    pub lag_us: u64,
    /// It has said where it stands, and bytes and time are of all that it lacks; else they may be too small.
    pub lag_known: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    pub name: &'static str,
    pub text: String,
    pub remedy: String,
}
