//! Ways to break the protocol, each by one decision. Every one must be caught.

macro_rules! bugs {
    ($($variant:ident $name:literal $what:literal)*) => {
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Bug { $($variant),* }

        pub const BUGS: &[Bug] = &[$(Bug::$variant),*];

        impl Bug {
            pub fn name(self) -> &'static str {
                match self { $(Bug::$variant => $name),* }
            }

            /// The rule that is broken.
            pub fn what(self) -> &'static str {
                match self { $(Bug::$variant => $what),* }
            }
        }
    };
}

bugs! {
    ServeEarly "serve-early" "the device opens before the epoch's first record is acked"
    LongestLog "longest-log" "the donor is the longest log, whatever the epoch of its last record"
    DonorByHistory "donor-by-history" "the donor is chosen by the epoch it was last told of, not by its last durable record"
    OwnSite "recovery-own-site" "the recovery rule is evaluated for the candidate's site, not for the recorded primary's"
    VotesSuffice "votes-suffice" "a majority of votes is taken as enough to recover from"
    ShrinkEarly "shrink-early" "a change is acked under before the control quorum has it"
    GrowOldSet "grow-old-set" "after the sync set has grown, the old set alone still acknowledges"
    ChangeUncopied "change-uncopied" "a change takes effect before what was acked is on its data quorum"
    SiteForgotten "site-forgotten" "the value that an epoch writes first keeps no terms of the old primary's site"
    NewMajorityOnly "new-majority-only" "a voter change takes effect by a majority of the new votes alone"
    PendingIgnored "pending-ignored" "a candidate asks only the newest terms, not the earlier ones that a pending change keeps"
    DropEarlier "drop-earlier" "a replacing change does not keep the earlier terms"
    FoundTrusted "found-trusted" "a candidate does not write the found configuration anew and takes it as in force"
    AckAfterPromise "ack-after-promise" "a journal write in flight is acked to a lower epoch after a promise"
    ConfigAfterPromise "config-after-promise" "a register value of a lower epoch is stored and answered after a promise"
    PromiseForgotten "promise-forgotten" "a restart forgets the promise"
    AckBeforeSync "ack-before-sync" "a record is acked when it is written, not when it is synced"
    EpochByNumber "epoch-by-number" "epochs are compared by their number, not by (number, writer)"
    LateElectCuts "late-elect-cuts" "a late copy of the first message of an epoch cuts records of that epoch"
    WitnessCounts "witness-counts" "a witness counts as a copy"
    RuleInForce "rule-in-force" "acks are counted by a number taken from the sync set in force, recovery by the one asked for"
    LifeIgnored "life-ignored" "a wiped member counts under the life that it lost"
    ForceUnanswered "force-unanswered" "a forced lineage opens before all members named have persisted it"
    ForceByQuorum "force-by-quorum" "a promotion in a forced lineage asks a quorum of the members named, not all of them"
    GenerationIgnored "generation-ignored" "a higher epoch of a lower generation is followed"
    GenerationEqual "generation-equal" "another lineage of the same generation is accepted"
    LeaseNotAwaited "lease-not-awaited" "an epoch opens while the old lease runs"
    LeaseForgotten "lease-forgotten" "a restart forgets the lease that is owed"
    MemoryCounted "memory-counted" "what a holder without a copy has in memory counts as a copy"
    MemoryVotes "memory-votes" "a member with neither vote nor copy has a vote"
    MemoryLeases "memory-leases" "a holder without a copy counts itself among those who owe it a lease"
    MemoryResumed "memory-resumed" "a holder that has lost its memory goes on in the epoch that it had"
    MemoryDonor "memory-donor" "a candidate without a copy begins with the log that it has itself"
    NearestDonor "nearest-donor" "a candidate without a copy takes the log of the copy in its site, not the best one"
    RelayUnchecked "relay-unchecked" "what a member reads for a holder without a copy is passed on whatever its epochs"
}

pub fn named(name: &str) -> Option<Bug> {
    BUGS.iter().copied().find(|b| b.name() == name)
}
