//! The words for states in statuses. The API carries them as text so that later versions may add some; whoever writes
//! or compares one takes it from here.

/// `VolumeStatus.state`
pub mod volume {
    pub const HEALTHY: &str = "healthy";
    /// Writes go on, but not every member is in the sync set or reached.
    pub const DEGRADED: &str = "degraded";
    /// I/O waits for the data quorum.
    pub const FROZEN: &str = "frozen";
    /// The device failed after `on_quorum_loss`' limit.
    pub const FENCED: &str = "fenced";
    pub const PROMOTING: &str = "promoting";
    pub const DEMOTING: &str = "demoting";
    /// A switchover is under way.
    pub const MOVING: &str = "moving";
    /// The local replica is being made whole.
    pub const RESYNCING: &str = "resyncing";
    /// The local replica has a history of its own.
    pub const DIVERGED: &str = "diverged";
    /// The local replica can't be used: a failed sync, damage that nobody can repair.
    pub const FAILED: &str = "failed";
    pub const DELETING: &str = "deleting";
    pub const UNKNOWN: &str = "unknown";
}

/// `MemberStatus.state`
pub mod member {
    pub const REPLICATING: &str = "replicating";
    /// It follows behind, on a schedule: what changed is shipped at its times.
    pub const RESTING: &str = "resting";
    /// From the journal.
    pub const CATCHING_UP: &str = "catching-up";
    /// From what changed.
    pub const RESYNCING: &str = "resyncing";
    /// From nothing.
    pub const FULL_COPY: &str = "full-copy";
    /// A resync that can't go on by itself; the reason says why.
    pub const PAUSED: &str = "paused";
    pub const DIVERGED: &str = "diverged";
    pub const DAMAGED: &str = "damaged";
    /// Back under another incarnation than the one that counts; `member replace` readmits it.
    pub const NOT_READMITTED: &str = "not-readmitted";
    pub const UNREACHABLE: &str = "unreachable";
    /// A witness that is reached.
    pub const VOTING: &str = "voting";
    pub const UNKNOWN: &str = "unknown";

    /// Waiting alone does not bring a member out of these.
    pub const STUCK: [&str; 3] = [PAUSED, DIVERGED, DAMAGED];
}

/// `Snapshot.state`
pub mod snapshot {
    /// It can be read here.
    pub const READY: &str = "ready";
    /// This copy has not come to it yet.
    pub const APPLYING: &str = "applying";
    /// This copy is younger than the snapshot; others have it.
    pub const MISSING: &str = "missing";
    /// One of a cut over several volumes that did not come to its end: good for nothing but being deleted.
    pub const UNCONFIRMED: &str = "unconfirmed";
}

/// `Schedule.state`
pub mod schedule {
    /// For the next run.
    pub const WAITING: &str = "waiting";
    /// The last run made nothing; it is tried again.
    pub const FAILING: &str = "failing";
    /// No node leads the volume, so nothing changes in it.
    pub const IDLE: &str = "idle";
    /// Whoever leads the volume is not reached.
    pub const UNKNOWN: &str = "unknown";
    /// Written by a later version.
    pub const UNREADABLE: &str = "unreadable";
}
