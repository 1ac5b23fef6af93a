//! The list: what is broken, and the stories in which it is looked for first.

use farshore_core::sabotage::Sabotage;

pub struct Case {
    pub sabotage: Sabotage,
    pub stories: &'static [&'static str],
}

const fn case(sabotage: Sabotage, stories: &'static [&'static str]) -> Case {
    Case { sabotage, stories }
}

use Sabotage::*;

pub const CASES: &[Case] = &[
    case(PromiseForgotten, &["between", "duel"]),
    case(PromiseUnsynced, &["between", "duel"]),
    case(AckAfterPromise, &["duel", "between"]),
    case(LowerEpochAccepted, &["between", "relay"]),
    case(EpochByNumber, &["duel"]),
    case(DonorByLength, &["long-tail", "relay"]),
    case(DonorByHeardEpoch, &["hearsay", "relay"]),
    case(RecoverySkipped, &["shrink"]),
    case(PendingIgnored, &["grow"]),
    case(AmnesiacCounts, &["amnesia"]),
    case(GapCounts, &["amnesia"]),
    case(CorruptAsAbsent, &["amnesia"]),
    case(FoundNotRewritten, &["stuck"]),
    case(ServeBeforeStart, &["slow-store", "handover"]),
    case(OldEpochsCounted, &["figure-eight", "relay"]),
    case(OldLeaseIgnored, &["split"]),
    case(LeaseOutlived, &["split", "sleep"]),
    case(ToldAfterLease, &["split", "sleep"]),
    case(LeaseFromReceipt, &["sleep"]),
    case(LeaseNotRenewed, &["split"]),
    case(OwedForgotten, &["split"]),
    case(UnackedRead, &["split", "relay"]),
    case(OverlayForgotten, &["slow-store", "handover"]),
    case(AckBeforeSync, &["blackout", "duel"]),
    case(CompletedByOne, &["split", "relay"]),
    case(RequestsDropped, &["relay", "split"]),
    case(FlushBeforeQuorum, &["split"]),
    case(WitnessCounted, &["witness"]),
    case(UnackedApplied, &["split", "relay"]),
    case(ClassBeforeAcked, &["class"]),
    case(ShrinkEarly, &["shrink"]),
    case(GrowWhileLagging, &["grow"]),
    case(LeaseByNewTerms, &["alone"]),
    case(RuleShrinksWithSet, &["taken-out"]),
    case(EarlierNotKept, &["grow", "shrink"]),
    case(NewVotersAlone, &["heavy-joiner"]),
    case(LeftOutUnasked, &["left-alone"]),
    case(LeftStillCounts, &["left-behind"]),
    case(StandInUnasked, &["stand-in-unasked"]),
    case(StandInWhileLagging, &["stand-in-behind"]),
    case(StandInVotesForgotten, &["stand-in-split"]),
    case(ModeVotesForgotten, &["mode-unheard"]),
    case(ObserverCounted, &["bystander"]),
    case(ObserverVotes, &["bystander"]),
    case(FallbackEarly, &["fallback", "left-alone"]),
    case(OldSiteForgotten, &["move"]),
    case(TrimEarly, &["blackout", "duel"]),
    case(LateShipmentInstalled, &["late-shipment"]),
    case(ForeignShipmentInstalled, &["fork-shipment"]),
    case(InstallUnmarked, &["resync"]),
    case(LateElectCuts, &["echo"]),
    case(ShownInPart, &["cut-shipments", "resync"]),
    case(PartsMixed, &["cut-shipments", "resync"]),
    case(GenerationKept, &["old-site-returns"]),
    case(FencedGenerationTaken, &["fork-of-fenced"]),
    case(ForkFromAnyLog, &["fork-behind"]),
    case(ForkFollowedBlindly, &["fork-late"]),
    case(ForkDropsWritten, &["fork-written"]),
    case(ForkByQuorum, &["fork-cut-short"]),
    case(LoserNotFenced, &["old-site-returns"]),
    case(FenceForgotten, &["old-site-returns"]),
    case(FencedStillSpeaks, &["old-site-returns"]),
    case(LineageNotCompared, &["old-site-returns"]),
    case(MarkUnacked, &["mark"]),
    case(HoldIgnored, &["cut"]),
    case(HoldLate, &["cut"]),
    case(HeldShown, &["cut"]),
    case(HoldBreakForgotten, &["cut-late"]),
    case(HoldOfAnyEpoch, &["cut-late"]),
    case(ReleaseUnconfirmed, &["cut-split"]),
    case(ReleaseUnacked, &["cut-unsynced"]),
    case(SegmentReusedEarly, &["tight", "blackout"]),
    case(BlockRewritten, &["blackout"]),
    case(BodyUnchecked, &["blackout", "duel"]),
    case(FormerLifeCounts, &["blackout"]),
    case(TailNotRewritten, &["bad-sync"]),
    case(DamageAsEnd, &["amnesia"]),
    case(LossUnnoticed, &["rotten-promise"]),
    case(OlderStateTaken, &["rotten-promise"]),
    case(StaleWordTaken, &["late-words"]),
    case(UnwrittenForgotten, &["cost"]),
    case(SentTakenForHeld, &["cost"]),
    case(SilenceTakenForAll, &["cost"]),
    case(OthersGuessed, &["cost"]),
    case(OldLineageTold, &["cost"]),
    case(ExactWithoutLease, &["cost"]),
    case(ForcedAsPromoted, &["cost", "fork-late"]),
    case(SitesBestForced, &["cost"]),
    case(MemoryCounted, &["memory-alone"]),
    case(MemoryCompletes, &["memory-alone", "memory-split"]),
    case(MemoryResumed, &["memory-lost"]),
    case(MemoryDonor, &["memory-lost"]),
    case(ReadAnywhere, &["memory-read"]),
    case(AttachAnywhere, &["handover"]),
    case(FenceAnywhere, &["late-fence"]),
    case(RestartUnnamed, &["farewell", "handover"]),
    case(RestartWithLoss, &["neighbour"]),
    case(ReleaseUnsynced, &["farewell", "handover"]),
];

/// `PromiseForgotten` is called `promise-forgotten`.
pub fn name(sabotage: Sabotage) -> String {
    let mut name = String::new();
    for c in format!("{sabotage:?}").chars() {
        if c.is_uppercase() && !name.is_empty() {
            name.push('-');
        }
        name.push(c.to_ascii_lowercase());
    }
    name
}
