//! What is printed: one serialisable view per object of the API. Field names are an interface; they only ever gain.
//!
//! Enums become words, ids become text; how a table looks is in `report`.

use std::collections::BTreeMap;

use farshore_proto::v1 as api;
use serde::Serialize;

use crate::failure::Failure;

#[derive(Debug, Clone, Serialize)]
pub struct VolumeView {
    pub name: String,
    pub id: String,
    pub size_bytes: u64,
    pub block_size_bytes: u32,
    pub allocated_bytes: u64,
    pub role: &'static str,
    pub state: String,
    pub reason: String,
    pub epoch: String,
    pub lineage: String,
    pub config_version: String,
    pub primary: PlaceView,
    pub policy: PolicyView,
    pub members: Vec<MemberView>,
    pub appended_seq: u64,
    pub durable_seq: u64,
    pub acked_seq: u64,
    pub applied_seq: u64,
    pub checkpointed_seq: u64,
    pub lease: LeaseView,
    pub loss: Vec<LossView>,
    pub conditions: Vec<ConditionView>,
    pub attached: Option<AttachmentView>,
    /// Made to be read: nobody ever writes it.
    pub read_only: bool,
    /// Of such a volume: where it is attached.
    pub readers: Vec<AttachmentView>,
    pub labels: BTreeMap<String, String>,
    pub reporter: PlaceView,
    /// Of the reporter's copy.
    pub scrub: Option<ScrubView>,
    /// What it was made from; empty: nothing.
    pub source: String,
    pub snapshots: u32,
    /// Space beside what the replica shows.
    pub snapshot_held_bytes: u64,
    /// 0: as much as there is.
    pub snapshot_limit_bytes: u64,
    /// That may not be the primary's.
    pub fenced_sites: Vec<String>,
}

/// The figures are of the pass that runs, else of the last one.
#[derive(Debug, Clone, Serialize)]
pub struct ScrubView {
    pub running: bool,
    pub progress: f64,
    pub checked_bytes: u64,
    pub damaged_blocks: u64,
    pub repaired_blocks: u64,
    pub lost_blocks: u64,
    pub started_unix_s: i64,
    pub finished_unix_s: i64,
}

/// One step of a verb that has several.
#[derive(Debug, Clone, Serialize)]
pub struct StepView {
    pub name: &'static str,
    pub seconds: f64,
}

#[derive(Debug, Clone, Serialize)]
pub struct FailbackView {
    pub volume: String,
    pub ok: bool,
    /// What had to be done; empty where the primary was there already.
    pub steps: Vec<StepView>,
    pub error: String,
    pub remedy: String,
}

#[derive(Debug, Clone, Serialize)]
pub struct FailbacksView {
    pub to: String,
    pub volumes: Vec<FailbackView>,
}

#[derive(Debug, Clone, Serialize)]
pub struct PlaceView {
    pub site: String,
    pub node: String,
}

#[derive(Debug, Clone, Serialize)]
pub struct PolicyView {
    pub quorum: String,
    pub w: u32,
    pub min_remote: u32,
    pub local_required: bool,
    pub durability: &'static str,
    /// From the next attach on; none: as it is.
    pub next_durability: Option<&'static str>,
    pub lease_ms: u64,
    pub on_quorum_loss: &'static str,
    pub fence_after_ms: u64,
    /// In a second; 0: no limit.
    pub iops: u64,
    pub bytes_per_second: u64,
    pub mode: &'static str,
    pub rpo_ms: u64,
    pub max_commit_latency_ms: u64,
    pub max_lag_bytes: u64,
    /// 0: never.
    pub fallback_after_ms: u64,
    pub promote_observer_after_ms: u64,
}

#[derive(Debug, Clone, Serialize)]
pub struct MemberView {
    pub id: u32,
    pub site: String,
    pub node: String,
    pub kind: &'static str,
    pub votes: u32,
    pub in_sync_set: bool,
    pub connected: bool,
    pub here: bool,
    pub state: String,
    pub reason: String,
    pub durable_seq: u64,
    pub applied_seq: u64,
    pub lag_records: u64,
    pub lag_bytes: u64,
    pub lag_ms: u64,
    pub progress: f64,
    /// Of an image that is shipped to it; 0 to ship while that is being counted.
    pub shipped_bytes: u64,
    pub to_ship_bytes: u64,
    pub rtt_us: u64,
    pub silent_ms: u64,
    /// Of an observer in the place of a member that is lost: that one's site.
    pub stands_in_for: String,
}

#[derive(Debug, Clone, Serialize)]
pub struct LeaseView {
    pub valid: bool,
    pub remaining_ms: u64,
}

#[derive(Debug, Clone, Serialize)]
pub struct LossView {
    pub site: String,
    pub records: u64,
    pub bytes: u64,
    pub ms: u64,
    pub exact: bool,
    pub unknown_ms: u64,
    pub can_continue: bool,
    pub text: String,
    pub promote_records: u64,
    /// Absent: nobody in reach knows.
    pub promote_bytes: Option<u64>,
    pub promote_ms: Option<u64>,
    /// What would be left ends with this record; 0: nothing, or that can't be told.
    pub last_seq: u64,
    pub promote_last_seq: u64,
    /// Of the cost of losing, as `unknown_ms` is of promoting.
    pub lost_unknown_ms: u64,
    /// It is not above the figure, and may be less.
    pub lost_at_most: bool,
}

#[derive(Debug, Clone, Serialize)]
pub struct ConditionView {
    pub name: String,
    pub text: String,
    pub remedy: String,
}

#[derive(Debug, Clone, Serialize)]
pub struct AttachmentView {
    pub site: String,
    pub node: String,
    pub session: String,
    pub device: DeviceView,
    /// Absent where the node of the device holds a copy itself.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub served_by_node: String,
}

#[derive(Debug, Clone, Serialize)]
pub struct DeviceView {
    pub kind: &'static str,
    pub path: String,
    pub socket: String,
    pub export: String,
    pub read_only: bool,
}

#[derive(Debug, Serialize)]
pub struct StatusView {
    pub site: String,
    pub node: String,
    pub volumes: Vec<VolumeView>,
    pub conditions: Vec<ConditionView>,
}

#[derive(Debug, Serialize)]
pub struct VolumeListView {
    pub volumes: Vec<VolumeView>,
}

#[derive(Debug, Serialize)]
pub struct AttachView {
    pub volume: String,
    pub session: String,
    pub device: DeviceView,
}

#[derive(Debug, Serialize)]
pub struct DeletedView {
    pub deleted: String,
}

/// What a forced promotion would give up.
#[derive(Debug, Serialize)]
pub struct ForcePlanView {
    pub volume: String,
    pub donor: PlaceView,
    pub new_generation: u64,
    pub fork_seq: u64,
    pub lost_records: u64,
    /// Absent: nobody in reach knows.
    pub lost_bytes: Option<u64>,
    pub lost_ms: Option<u64>,
    pub exact: bool,
    /// Where it is not exact: so much time's acknowledged writes come on top.
    pub unknown_ms: u64,
    pub warnings: Vec<String>,
    /// Whether it was carried out.
    pub done: bool,
}

#[derive(Debug, Serialize)]
pub struct ResultsView {
    pub results: Vec<ResultView>,
}

#[derive(Debug, Serialize)]
pub struct ResultView {
    pub volume: String,
    pub ok: bool,
    pub error: Option<ErrorView>,
    pub status: Option<VolumeView>,
}

#[derive(Debug, Serialize)]
pub struct ErrorView {
    pub kind: String,
    pub message: String,
    pub why: String,
    pub remedy: String,
}

#[derive(Debug, Serialize)]
pub struct SitesView {
    /// This node's.
    pub site: String,
    pub node: String,
    pub peers: Vec<PeerView>,
}

#[derive(Debug, Serialize)]
pub struct PeerView {
    pub site: String,
    pub node: String,
    pub address: String,
    pub connected: bool,
    pub reason: String,
    pub rtt_us: u64,
    pub silent_ms: u64,
    pub protocol: u32,
    pub version: String,
    pub certificate_expires_unix_s: i64,
    pub clock_skew_ms: i64,
    pub sent_bytes: u64,
    pub received_bytes: u64,
    pub lost_packets: u64,
    pub sent_packets: u64,
    pub mtu_bytes: u32,
    pub window_bytes: u64,
}

pub fn role(role: api::Role) -> &'static str {
    match role {
        api::Role::Primary => "primary",
        api::Role::Secondary => "secondary",
        api::Role::Candidate => "candidate",
        api::Role::Witness => "witness",
        api::Role::Observer => "observer",
        api::Role::Diskless => "diskless",
        api::Role::Unspecified => "unknown",
    }
}

fn member_kind(kind: api::MemberKind) -> &'static str {
    match kind {
        api::MemberKind::Data => "data",
        api::MemberKind::Witness => "witness",
        api::MemberKind::Observer => "observer",
        api::MemberKind::Diskless => "diskless",
        api::MemberKind::Unspecified => "unknown",
    }
}

fn device_kind(kind: api::DeviceKind) -> &'static str {
    match kind {
        api::DeviceKind::Unspecified | api::DeviceKind::None => "none",
        api::DeviceKind::Nbd => "nbd",
        api::DeviceKind::Fuse => "fuse",
        api::DeviceKind::Ublk => "ublk",
    }
}

impl From<api::VolumeStatus> for VolumeView {
    fn from(v: api::VolumeStatus) -> Self {
        let lease = v.lease.unwrap_or_default();
        VolumeView {
            role: role(v.role()),
            name: v.name,
            id: v.id,
            size_bytes: v.size_bytes,
            block_size_bytes: v.block_size_bytes,
            allocated_bytes: v.allocated_bytes,
            state: v.state,
            reason: v.reason,
            epoch: v.epoch,
            lineage: v.lineage,
            config_version: v.config_version,
            primary: PlaceView { site: v.primary_site, node: v.primary_node },
            policy: v.policy.unwrap_or_default().into(),
            members: v.members.into_iter().map(Into::into).collect(),
            appended_seq: v.appended_seq,
            durable_seq: v.durable_seq,
            acked_seq: v.acked_seq,
            applied_seq: v.applied_seq,
            checkpointed_seq: v.checkpointed_seq,
            lease: LeaseView { valid: lease.valid, remaining_ms: lease.remaining_ms },
            loss: v.loss.into_iter().map(Into::into).collect(),
            conditions: v.conditions.into_iter().map(Into::into).collect(),
            attached: v.attached.map(Into::into),
            read_only: v.read_only,
            readers: v.readers.into_iter().map(Into::into).collect(),
            labels: v.labels,
            reporter: PlaceView { site: v.reporter_site, node: v.reporter_node },
            scrub: v.scrub.map(Into::into),
            source: v.source,
            snapshots: v.snapshots,
            snapshot_held_bytes: v.snapshot_held_bytes,
            snapshot_limit_bytes: v.snapshot_limit_bytes,
            fenced_sites: v.fenced_sites,
        }
    }
}

impl From<api::ScrubStatus> for ScrubView {
    fn from(s: api::ScrubStatus) -> Self {
        ScrubView {
            running: s.running,
            progress: s.progress,
            checked_bytes: s.checked_bytes,
            damaged_blocks: s.damaged_blocks,
            repaired_blocks: s.repaired_blocks,
            lost_blocks: s.lost_blocks,
            started_unix_s: s.started_unix_s,
            finished_unix_s: s.finished_unix_s,
        }
    }
}

impl From<api::Policy> for PolicyView {
    fn from(p: api::Policy) -> Self {
        let durability = match p.durability() {
            api::Durability::Flush => "flush",
            api::Durability::Write | api::Durability::Unspecified => "write",
        };
        let on_quorum_loss = match p.on_quorum_loss() {
            api::QuorumLoss::Fence => "fence",
            api::QuorumLoss::Freeze | api::QuorumLoss::Unspecified => "freeze",
        };
        let next_durability = (p.next_durability() == api::Durability::Flush).then_some("flush");
        let mode = match p.mode() {
            api::Mode::Async => "async",
            api::Mode::Adaptive => "adaptive",
            api::Mode::Sync | api::Mode::Unspecified => "sync",
        };
        PolicyView {
            mode,
            rpo_ms: p.rpo_ms,
            max_commit_latency_ms: p.max_commit_latency_ms,
            max_lag_bytes: p.max_lag_bytes,
            fallback_after_ms: p.fallback_after_ms,
            promote_observer_after_ms: p.promote_observer_after_ms,
            durability,
            next_durability,
            on_quorum_loss,
            quorum: p.quorum,
            w: p.w,
            min_remote: p.min_remote,
            local_required: p.local_required,
            lease_ms: p.lease_ms,
            fence_after_ms: p.fence_after_ms,
            iops: p.iops,
            bytes_per_second: p.bytes_per_second,
        }
    }
}

impl From<api::MemberStatus> for MemberView {
    fn from(m: api::MemberStatus) -> Self {
        MemberView {
            kind: member_kind(m.kind()),
            id: m.id,
            site: m.site,
            node: m.node,
            votes: m.votes,
            in_sync_set: m.in_sync_set,
            connected: m.connected,
            here: m.here,
            state: m.state,
            reason: m.reason,
            durable_seq: m.durable_seq,
            applied_seq: m.applied_seq,
            lag_records: m.lag_records,
            lag_bytes: m.lag_bytes,
            lag_ms: m.lag_ms,
            progress: m.progress,
            shipped_bytes: m.shipped_bytes,
            to_ship_bytes: m.to_ship_bytes,
            rtt_us: m.rtt_us,
            silent_ms: m.silent_ms,
            stands_in_for: m.stands_in_for,
        }
    }
}

impl From<api::SiteLoss> for LossView {
    fn from(l: api::SiteLoss) -> Self {
        let sized = l.exact || l.promote_sized;
        LossView {
            site: l.site,
            records: l.records,
            bytes: l.bytes,
            ms: l.ms,
            exact: l.exact,
            unknown_ms: l.unknown_ms,
            can_continue: l.can_continue,
            text: l.text,
            promote_records: l.promote_records,
            promote_bytes: sized.then_some(l.promote_bytes),
            promote_ms: sized.then_some(l.promote_ms),
            last_seq: l.last_seq,
            promote_last_seq: l.promote_last_seq,
            lost_unknown_ms: l.lost_unknown_ms,
            lost_at_most: l.lost_at_most,
        }
    }
}

impl From<api::Condition> for ConditionView {
    fn from(c: api::Condition) -> Self {
        ConditionView { name: c.name, text: c.text, remedy: c.remedy }
    }
}

impl From<api::Attachment> for AttachmentView {
    fn from(a: api::Attachment) -> Self {
        let device = a.device.unwrap_or_default().into();
        let served_by_node = a.served_by_node;
        AttachmentView { site: a.site, node: a.node, session: a.session, device, served_by_node }
    }
}

impl From<api::DeviceStatus> for DeviceView {
    fn from(d: api::DeviceStatus) -> Self {
        let kind = device_kind(d.kind());
        DeviceView { kind, path: d.path, socket: d.socket, export: d.export, read_only: d.read_only }
    }
}

impl From<api::StatusResponse> for StatusView {
    fn from(s: api::StatusResponse) -> Self {
        StatusView {
            site: s.site,
            node: s.node,
            volumes: s.volumes.into_iter().map(Into::into).collect(),
            conditions: s.conditions.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<api::VolumeResult> for ResultView {
    fn from(r: api::VolumeResult) -> Self {
        ResultView { volume: r.volume, ok: r.ok, error: r.error.map(Into::into), status: r.status.map(Into::into) }
    }
}

impl From<api::ErrorDetail> for ErrorView {
    fn from(e: api::ErrorDetail) -> Self {
        ErrorView { kind: e.kind, message: e.message, why: e.why, remedy: e.remedy }
    }
}

impl From<Failure> for ErrorView {
    fn from(e: Failure) -> Self {
        ErrorView { kind: e.exit.kind().as_str().into(), message: e.message, why: e.why, remedy: e.remedy }
    }
}

impl From<api::PeersResponse> for SitesView {
    fn from(p: api::PeersResponse) -> Self {
        let mut peers: Vec<PeerView> = p.peers.into_iter().map(Into::into).collect();
        peers.sort_by(|a, b| (&a.site, &a.node).cmp(&(&b.site, &b.node)));
        SitesView { site: p.site, node: p.node, peers }
    }
}

impl From<api::Peer> for PeerView {
    fn from(p: api::Peer) -> Self {
        PeerView {
            site: p.site,
            node: p.node,
            address: p.address,
            connected: p.connected,
            reason: p.reason,
            rtt_us: p.rtt_us,
            silent_ms: p.silent_ms,
            protocol: p.protocol,
            version: p.version,
            certificate_expires_unix_s: p.certificate_expires_unix_s,
            clock_skew_ms: p.clock_skew_ms,
            sent_bytes: p.sent_bytes,
            received_bytes: p.received_bytes,
            lost_packets: p.lost_packets,
            sent_packets: p.sent_packets,
            mtu_bytes: p.mtu_bytes,
            window_bytes: p.window_bytes,
        }
    }
}

impl ForcePlanView {
    pub fn new(volume: &str, plan: api::ForcePlan, done: bool) -> Self {
        let sized = plan.exact || plan.lost_sized;
        ForcePlanView {
            volume: volume.into(),
            donor: PlaceView { site: plan.donor_site, node: plan.donor_node },
            new_generation: plan.new_generation,
            fork_seq: plan.fork_seq,
            lost_records: plan.lost_records,
            lost_bytes: sized.then_some(plan.lost_bytes),
            lost_ms: sized.then_some(plan.lost_ms),
            unknown_ms: plan.unknown_ms,
            exact: plan.exact,
            warnings: plan.warnings,
            done,
        }
    }
}
