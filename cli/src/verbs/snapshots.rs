//! `farshore snapshot …`, but for export and import.

use farshore_proto::v1 as api;

use crate::args::Format;
use crate::client::{Replicator, present};
use crate::failure::{Exit, Failure};
use crate::output;
use crate::snapshot_args::{CloneArgs, LayoutArgs, SnapshotVerb};
use crate::snapshot_views::{
    DiffView, RangeView, RestoredView, SnapshotListView, SnapshotView, SnapshotsDeletedView, TakenView,
};
use crate::verbs::{exports, schedules};
use crate::views::VolumeView;

pub async fn run(format: Format, replicator: &Replicator, verb: SnapshotVerb) -> Result<(), Failure> {
    let mut snapshots = replicator.snapshots();
    match verb {
        SnapshotVerb::Create { volumes, name, labels } => {
            let labels = labels.into_iter().collect();
            let request = api::CreateSnapshotRequest { volumes, name: name.unwrap_or_default(), labels };
            let taken = snapshots.create(request).await?.into_inner();
            let snapshots = taken.snapshots.into_iter().map(Into::into).collect();
            output::print(format, &TakenView { snapshots, held_us: taken.held_us })
        }
        SnapshotVerb::List { volumes } => {
            let listed =
                snapshots.list(api::ListSnapshotsRequest { volumes, with_space: true }).await?.into_inner().snapshots;
            output::print(format, &SnapshotListView { snapshots: listed.into_iter().map(Into::into).collect() })
        }
        SnapshotVerb::Show { snapshot } => {
            let request = api::GetSnapshotRequest { snapshot, with_space: true };
            let shown = present(snapshots.get(request).await?.into_inner().snapshot)?;
            output::print(format, &SnapshotView::from(shown))
        }
        SnapshotVerb::Delete { snapshots, yes } => delete(format, replicator, snapshots, yes).await,
        SnapshotVerb::Restore { snapshot, yes } => restore(format, replicator, snapshot, yes).await,
        SnapshotVerb::Clone(args) => clone(format, replicator, args).await,
        SnapshotVerb::Diff { snapshot, since } => diff(format, replicator, snapshot, since).await,
        SnapshotVerb::Export(args) => exports::export(format, replicator, args).await,
        SnapshotVerb::Import(args) => exports::import(format, replicator, args).await,
        SnapshotVerb::Limit { volume, bytes, percent, none: _ } => {
            let (bytes, percent) = (bytes.unwrap_or(0), percent.unwrap_or(0));
            let request = api::LimitSnapshotsRequest { volume, bytes, percent };
            let limited = present(snapshots.limit(request).await?.into_inner().volume)?;
            output::print(format, &VolumeView::from(limited))
        }
        SnapshotVerb::Schedule(verb) => schedules::run(format, replicator, verb).await,
        SnapshotVerb::Update { snapshot, labels, unlabels, hold, release } => {
            let mut labels: std::collections::BTreeMap<_, _> = labels.into_iter().collect();
            labels.extend(unlabels.into_iter().map(|key| (key, String::new())));
            let (hold, release) = (hold.unwrap_or_default(), release.unwrap_or_default());
            if labels.is_empty() && hold.is_empty() && release.is_empty() {
                return Err(Failure::usage(
                    "nothing to change was named",
                    "give --label, --unlabel, --hold or --release",
                ));
            }
            let request = api::UpdateSnapshotRequest { snapshot, labels, hold, release };
            let changed = present(snapshots.update(request).await?.into_inner().snapshot)?;
            output::print(format, &SnapshotView::from(changed))
        }
    }
}

pub async fn get(replicator: &Replicator, snapshot: &str) -> Result<api::Snapshot, Failure> {
    let request = api::GetSnapshotRequest { snapshot: snapshot.into(), with_space: false };
    present(replicator.snapshots().get(request).await?.into_inner().snapshot)
}

/// `--since` may be a bare name: of the same volume.
pub fn since_of(snapshot: &api::Snapshot, since: &str) -> String {
    let id = since.len() == 32 && since.bytes().all(|b| b.is_ascii_hexdigit());
    if since.contains('@') || id { since.into() } else { format!("{}@{since}", snapshot.volume) }
}

pub fn unless_yes(yes: bool, message: String, verb: &str) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    Err(Failure::new(Exit::Refused, message, format!("if that is meant: farshore snapshot {verb} --yes")))
}

async fn delete(format: Format, replicator: &Replicator, named: Vec<String>, yes: bool) -> Result<(), Failure> {
    let mut found = Vec::new();
    for snapshot in &named {
        match get(replicator, snapshot).await {
            Ok(snapshot) => found.push(SnapshotView::from(snapshot).title()),
            // To be sure of that is the deletion's.
            Err(failure) if yes && failure.exit == Exit::NotFound => found.push(snapshot.clone()),
            Err(failure) => return Err(failure),
        }
    }
    unless_yes(yes, format!("{} would be deleted", found.join(", ")), &format!("delete {}", named.join(" ")))?;
    for snapshot in named {
        replicator.snapshots().delete(api::DeleteSnapshotRequest { snapshot }).await?;
    }
    output::print(format, &SnapshotsDeletedView { deleted: found })
}

async fn restore(format: Format, replicator: &Replicator, snapshot: String, yes: bool) -> Result<(), Failure> {
    let found = get(replicator, &snapshot).await?;
    let title = format!("{}@{}", found.volume, found.name);
    let message = format!("volume {:?} would hold what {title} holds, and no longer what it holds now", found.volume);
    unless_yes(yes, message, &format!("restore {snapshot}"))?;
    let request = api::RestoreSnapshotRequest { snapshot: found.id };
    let restored = replicator.patient_snapshots().restore(request).await?.into_inner();
    let volume = VolumeView::from(present(restored.volume)?);
    output::print(format, &RestoredView { snapshot: title, changed_bytes: restored.changed_bytes, volume })
}

async fn clone(format: Format, replicator: &Replicator, args: CloneArgs) -> Result<(), Failure> {
    let snapshot = args.source.contains('@') || is_snapshot_id(replicator, &args.source).await?;
    let parent = if snapshot { get(replicator, &args.source).await?.volume_id } else { args.source.clone() };
    let (source_snapshot, source_volume) =
        if snapshot { (args.source, String::new()) } else { (String::new(), args.source) };
    let request = api::CreateVolumeRequest {
        name: args.name,
        size_bytes: args.size.unwrap_or(0),
        labels: args.labels.into_iter().collect(),
        source_snapshot,
        source_volume,
        read_only: args.read_only,
        ..layout(replicator, args.layout, Some(&parent)).await?
    };
    let made = replicator.patient_volumes().create(request).await?.into_inner().volume;
    output::print(format, &VolumeView::from(present(made)?))
}

/// 32 hex digits may be a volume's id, too.
async fn is_snapshot_id(replicator: &Replicator, source: &str) -> Result<bool, Failure> {
    if source.len() != 32 {
        return Ok(false);
    }
    match get(replicator, source).await {
        Ok(_) => Ok(true),
        Err(failure) if matches!(failure.exit, Exit::NotFound | Exit::Usage) => Ok(false),
        Err(failure) => Err(failure),
    }
}

/// Members and policy of a new volume: those named, else those of `like`.
pub async fn layout(
    replicator: &Replicator,
    args: LayoutArgs,
    like: Option<&str>,
) -> Result<api::CreateVolumeRequest, Failure> {
    use api::MemberKind::{Data, Diskless, Witness};
    let named = args.quorum.map(|quorum| api::Policy {
        quorum: quorum.name,
        w: quorum.w,
        min_remote: quorum.min_remote,
        local_required: quorum.local_required,
        ..Default::default()
    });
    if args.members.is_empty()
        && let Some(like) = like
    {
        let found = replicator.volumes().get(api::GetVolumeRequest { volume: like.into() }).await;
        let like = match found {
            // Deleted: the replicator knows where its snapshots are.
            Err(status) if status.code() == tonic::Code::NotFound => {
                return Ok(api::CreateVolumeRequest { policy: named, ..Default::default() });
            }
            found => present(found?.into_inner().volume)?,
        };
        // The first one's site is the first primary's: where it can be attached at once.
        let mut members: Vec<&api::MemberStatus> = like.members.iter().filter(|m| m.kind() != Diskless).collect();
        members.sort_by_key(|m| (m.kind() != Data || m.site != like.primary_site, m.id));
        let spec = |m: &&api::MemberStatus| api::MemberSpec {
            site: m.site.clone(),
            node: m.node.clone(),
            kind: m.kind,
            votes: m.votes,
        };
        return Ok(api::CreateVolumeRequest {
            members: members.iter().map(spec).collect(),
            policy: named.or(like.policy),
            block_size_bytes: like.block_size_bytes,
            ..Default::default()
        });
    }
    let data = args.members.iter().map(|place| place.spec(Data));
    Ok(api::CreateVolumeRequest {
        members: data.chain(args.witness.iter().map(|place| place.spec(Witness))).collect(),
        policy: named,
        ..Default::default()
    })
}

async fn diff(format: Format, replicator: &Replicator, snapshot: String, since: Option<String>) -> Result<(), Failure> {
    let found = get(replicator, &snapshot).await?;
    let since = since.map(|since| since_of(&found, &since)).unwrap_or_default();
    let request = api::DiffRequest { since: since.clone(), snapshot: found.id, offset_bytes: 0, max_ranges: 0 };
    let mut pages = replicator.snapshots().diff(request).await?.into_inner();
    let mut view = DiffView {
        snapshot: format!("{}@{}", found.volume, found.name),
        since,
        size_bytes: found.size_bytes,
        data_bytes: 0,
        hole_bytes: 0,
        ranges: Vec::new(),
    };
    while let Some(page) = pages.message().await? {
        for range in page.ranges {
            let sum = if range.hole { &mut view.hole_bytes } else { &mut view.data_bytes };
            *sum += range.length_bytes;
            let api::ChangedRange { offset_bytes, length_bytes, hole } = range;
            view.ranges.push(RangeView { offset_bytes, length_bytes, hole });
        }
    }
    output::print(format, &view)
}
