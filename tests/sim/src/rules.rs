//! The names of what the core can do and answer, so that a sum can say what was never reached. A test holds these
//! lists against the core's sources.

use farshore_core::api::{Change, Command, Promotion};
use farshore_core::mark::Mark;

/// Edges: what the core tells its log of.
pub const EDGES: &[&str] = &[
    "config-settled",
    "diverged-below-acked",
    "epoch-open",
    "epoch-released",
    "epoch-won",
    "fork-gives-up-waiting",
    "fork-refused",
    "hold-broken",
    "install-begin",
    "install-end",
    "install-lost",
    "journal-hole",
    "journal-hole-given-up",
    "journal-poisoned",
    "ack-impossible",
    "lineage-fork",
    "lineage-rival",
    "lineage-superseded",
    "primary-fenced",
    "promote-donor",
    "record-refused",
    "resync-begin",
    "sync-set-grow",
    "truncate-divergence",
];

/// Rules by which a journal is opened again after a crash.
pub const RECOVERY: &[&str] =
    &["journal-clean", "journal-torn-tail", "journal-torn-head", "journal-damaged-middle", "journal-damaged-start"];

/// Refusals: why the core says no to a command.
pub const REFUSALS: &[&str] = &[
    "attach-busy",
    "attach-elsewhere",
    "attach-other-site",
    "change-none",
    "change-pending",
    "change-withdrawn",
    "fenced",
    "force-diverged",
    "force-donor",
    "force-elsewhere",
    "force-overtaken",
    "force-primary",
    "force-silent",
    "force-unknown-member",
    "handover-not-in-sync",
    "handover-running",
    "handover-timeout",
    "hold-broken",
    "hold-running",
    "journal-poisoned",
    "mark-invalid",
    "mark-unknown",
    "marks-many",
    "member-attached",
    "member-exists",
    "member-primary",
    "member-unknown",
    "not-primary",
    "promote-diverged",
    "promote-donor-floor",
    "promote-no-donor",
    "promote-no-quorum",
    "promote-not-in-sync",
    "promote-overtaken",
    "promote-primary-alive",
    "promote-running",
    "promote-superseded",
    "quorum-impossible",
    "quorum-unheard",
    "resize-shrinks",
    "restart-lost-writes",
    "restart-not-named",
    "votes-none",
];

/// Commands that change the configuration.
pub const CHANGES: &[&str] = &[
    "change-add",
    "change-attached",
    "change-readmit",
    "change-reduce",
    "change-remove",
    "change-resize",
    "change-rule",
    "change-withdraw",
    "force",
];

pub fn name_of(command: &Command) -> &'static str {
    match command {
        Command::Promote { why: Promotion::Verb, .. } => "promote",
        Command::Promote { why: Promotion::Takeover, .. } => "failover",
        Command::Promote { why: Promotion::Restart { .. }, .. } => "take-back",
        Command::Attach { .. } => "attach",
        Command::Detach { .. } => "detach",
        Command::Demote => "demote",
        Command::Handover { .. } => "handover",
        Command::Force { .. } => "force",
        Command::Mark { mark: Mark::Create(_), .. } => "mark-create",
        Command::Mark { mark: Mark::Delete { .. }, .. } => "mark-delete",
        Command::Mark { mark: Mark::Update { .. }, .. } => "mark-update",
        Command::Hold => "hold",
        Command::Release { .. } => "release",
        Command::Change(Change::Resize { .. }) => "change-resize",
        Command::Change(Change::Add { .. }) => "change-add",
        Command::Change(Change::Remove { .. }) => "change-remove",
        Command::Change(Change::Readmit { .. }) => "change-readmit",
        Command::Change(Change::Rule { .. }) => "change-rule",
        Command::Change(Change::Label { .. }) => "change-label",
        Command::Change(Change::Attached { .. }) => "change-attached",
        Command::Change(Change::Reduce { .. }) => "change-reduce",
        Command::Change(Change::Withdraw) => "change-withdraw",
    }
}
