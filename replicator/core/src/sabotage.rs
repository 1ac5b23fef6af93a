//! Named ways to break the protocol, for the suite that shows that the simulator's checkers would notice.
//!
//! Each is one decision of this crate, taken wrongly. In this package [`broken`] is a constant `false`, of which the
//! compiler leaves nothing. The suite builds a package of its own from these same sources, and that one alone has the
//! feature `sabotage`: no package that ships can turn it on.

/// What may be broken. Said is what is done instead of the right thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sabotage {
    // Promises.
    /// A restart forgets what was promised.
    PromiseForgotten,
    /// A promise is answered before it is durable.
    PromiseUnsynced,
    /// Whom one followed is followed on, with acks, after a higher epoch was promised.
    AckAfterPromise,
    /// An epoch below the promised one is accepted.
    LowerEpochAccepted,
    /// An epoch is its number alone: two attempts may have the same.
    EpochByNumber,

    // Winning an epoch.
    /// The longest log is adopted.
    DonorByLength,
    /// The log of whoever heard of the highest epoch is adopted, though it has no record of it.
    DonorByHeardEpoch,
    /// A majority of votes suffices, whatever the silent may have acknowledged.
    RecoverySkipped,
    /// Of the configuration found only the newest terms count, not those that a change has still to leave.
    PendingIgnored,
    /// A member counts whatever life of its disk answers.
    AmnesiacCounts,
    /// A replica whose log has a gap counts like a whole one.
    GapCounts,
    /// Records that cannot be read are taken for records that never were.
    CorruptAsAbsent,
    /// The configuration found is in effect before it is written anew.
    FoundNotRewritten,

    // Opening, reads and leases.
    /// The epoch opens before its first record is acknowledged and shown.
    ServeBeforeStart,
    /// Records of earlier epochs are acknowledged by counting copies.
    OldEpochsCounted,
    /// The successor does not wait for the lease of the last holder.
    OldLeaseIgnored,
    /// The holder serves reads after its lease.
    LeaseOutlived,
    /// The holder tells of writes after its lease.
    ToldAfterLease,
    /// The lease counts from the receipt of an answer, not from the sending of what it answers.
    LeaseFromReceipt,
    /// A voter owes a lease from the holder's first message alone, not from every one.
    LeaseNotRenewed,
    /// A restarted voter owes no lease.
    OwedForgotten,
    /// Reads show what is not acknowledged.
    UnackedRead,
    /// Memory lets go of bytes that the store does not show yet.
    OverlayForgotten,

    // Acknowledging.
    /// A replica acknowledges what it has appended, synced or not.
    AckBeforeSync,
    /// A write completes as soon as one replica of the primary's site has it.
    CompletedByOne,
    /// The requests that wait when an epoch is lost are never answered.
    RequestsDropped,
    /// A flush completes when the writes before it have.
    FlushBeforeQuorum,
    /// A witness counts for an acknowledgement.
    WitnessCounted,
    /// The store gets what is durable here, acknowledged or not.
    UnackedApplied,

    // Changing the configuration.
    /// The register says class `write` while what completed in class `flush` is not acknowledged.
    ClassBeforeAcked,
    /// New terms hold as soon as they are proposed.
    ShrinkEarly,
    /// New terms take effect before their members have what was acknowledged.
    GrowWhileLagging,
    /// While a change is joint the lease counts under the new terms alone.
    LeaseByNewTerms,
    /// The policy's numbers shrink with the sync set.
    RuleShrinksWithSet,
    /// A register value does not hold the terms that it replaces.
    EarlierNotKept,
    /// The new voters alone decide that there are new voters.
    NewVotersAlone,
    /// Who is put out of the sync set by itself is not waited for from that moment on, whatever the control quorum says.
    LeftOutUnasked,
    /// Who was put out of the sync set still counts for acknowledgements.
    LeftStillCounts,
    /// A copy that follows behind counts for acknowledgements.
    ObserverCounted,
    /// A copy that follows behind has a vote.
    ObserverVotes,
    /// Without a data quorum the others are left out at once, however long they were to be waited for.
    FallbackEarly,
    /// An observer is in the place of a lost member from the moment it is named, whatever the control quorum says.
    StandInUnasked,
    /// Its place takes effect before it has what was acknowledged.
    StandInWhileLagging,
    /// Who had the vote before is forgotten.
    StandInVotesForgotten,
    /// A change of the mode forgets who had votes before.
    ModeVotesForgotten,
    /// The site that was primary before is forgotten when another takes over.
    OldSiteForgotten,

    // Logs and images.
    /// The journal is told to forget what the store has not made durable.
    TrimEarly,
    /// A shipment that arrives late replaces a log that has gone on.
    LateShipmentInstalled,
    /// A shipment that arrives when the volume goes on in another lineage is shown there.
    ForeignShipmentInstalled,
    /// An image is shown before the mark is durable that says so.
    InstallUnmarked,
    /// A late copy of an Elect cuts records of its own epoch.
    LateElectCuts,

    /// A store shows of a shipment what has arrived.
    ShownInPart,
    /// What has arrived of one shipment is gone on with by another.
    PartsMixed,

    // Force and lineages.
    /// A forced promotion begins another lineage of the same generation.
    GenerationKept,
    /// A fenced copy that is forced takes the generation after its own, whatever it knows of others.
    FencedGenerationTaken,
    /// A forced promotion goes on from the log of the node that it was asked of, whatever the others named hold.
    ForkFromAnyLog,
    /// A member enters the new lineage whatever it has applied since it answered.
    ForkFollowedBlindly,
    /// A fork drops what is being written, since it is not known to be durable.
    ForkDropsWritten,
    /// A quorum of the members named can open the new lineage.
    ForkByQuorum,
    /// A copy that hears of a higher generation goes on.
    LoserNotFenced,
    /// A restart forgets that the volume goes on in a higher generation.
    FenceForgotten,
    /// A copy that has heard of a higher generation still promises and acknowledges in its own.
    FencedStillSpeaks,
    /// What is said in another lineage is taken as if it were said in ours.
    LineageNotCompared,

    // Snapshots and cuts over several volumes.
    /// A mark is answered as soon as it has its seq.
    MarkUnacked,
    /// Requests complete while they are held.
    HoldIgnored,
    /// Requests are held only once the mark is acknowledged.
    HoldLate,
    /// Reads show what is held back.
    HeldShown,
    /// A hold that has run out still counts.
    HoldBreakForgotten,
    /// A hold of an epoch that is over counts as unbroken.
    HoldOfAnyEpoch,
    /// A hold counts as unbroken though nobody has confirmed that the epoch is still ours.
    ReleaseUnconfirmed,
    /// A hold counts as unbroken before its marks are acknowledged.
    ReleaseUnacked,

    // The journal.
    /// A segment is used anew though the store has not got all of its records.
    SegmentReusedEarly,
    /// The next group begins in the last block of the one before.
    BlockRewritten,
    /// A group counts by its header alone, whatever became of its body.
    BodyUnchecked,
    /// What a segment still holds of a former life counts too.
    FormerLifeCounts,
    /// The last group found is taken for durable without having been written once more.
    TailNotRewritten,
    /// A group that cannot be read is taken for the end of the log.
    DamageAsEnd,
    /// What was lost with groups that cannot be read is not looked for in the group that follows.
    LossUnnoticed,
    /// A replica's older state is taken where the newest cannot be read.
    OlderStateTaken,

    // What a loss would cost.
    /// A word that comes late, or once more, is taken for one that was said just now.
    StaleWordTaken,
    /// What is acknowledged and has not arrived is taken to be here.
    UnwrittenForgotten,
    /// What was sent to a member is taken to be there.
    SentTakenForHeld,
    /// A member that has not said in this epoch where it stands is taken to lack nothing.
    SilenceTakenForAll,
    /// Of other sites a member claims to know as much as of its own.
    OthersGuessed,
    /// What was told in the lineage that was left is told on in the new one.
    OldLineageTold,
    /// The figures are called exact by a holder that nobody may follow any more.
    ExactWithoutLease,
    /// A forced promotion is told to cost what an ordinary one does, which is given by the others what it lacks.
    ForcedAsPromoted,
    /// A forced promotion is told to keep what another copy of the donor's site holds.
    SitesBestForced,

    // A holder without a copy.
    /// What it has in memory counts as a copy.
    MemoryCounted,
    /// What it has in memory completes.
    MemoryCompletes,
    /// Restarted, it goes on in the epoch that it promised last.
    MemoryResumed,
    /// It begins an epoch with the log that it has itself: none, after a restart.
    MemoryDonor,
    /// Whatever store is asked answers its reads, however little that shows.
    ReadAnywhere,

    // Attaching and handing over.
    /// A volume is attached in another site than the one that was promoted.
    AttachAnywhere,
    /// A node takes the epoch to fence another one, wherever the volume is now.
    FenceAnywhere,
    /// A restarted daemon takes its device back though another session was named since.
    RestartUnnamed,
    /// A restarted daemon takes its device back though completed writes are gone.
    RestartWithLoss,
    /// The release leaves before the end of the epoch is durable.
    ReleaseUnsynced,
}

/// Is this decision to be taken wrongly? Never, in whatever ships.
#[cfg(not(feature = "sabotage"))]
#[inline(always)]
pub const fn broken(_: Sabotage) -> bool {
    false
}

/// Do the core's own asserts hold their tongue? The suite wants to know what the outside would see.
#[cfg(not(feature = "sabotage"))]
#[inline(always)]
pub const fn asserts_off() -> bool {
    false
}

#[cfg(feature = "sabotage")]
pub use self::chosen::{asserts_off, broken, choose};

#[cfg(feature = "sabotage")]
mod chosen {
    use super::Sabotage;
    use std::cell::Cell;

    thread_local! {
        static CHOSEN: Cell<Option<Sabotage>> = const { Cell::new(None) };
    }

    /// Breaks this, and nothing else, on this thread from now on.
    pub fn choose(sabotage: Option<Sabotage>) {
        CHOSEN.set(sabotage);
    }

    pub fn broken(sabotage: Sabotage) -> bool {
        CHOSEN.get() == Some(sabotage)
    }

    pub fn asserts_off() -> bool {
        CHOSEN.get().is_some()
    }
}
