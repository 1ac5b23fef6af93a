//! `farshore volume …`

use farshore_proto::v1 as api;

use crate::args::{AttachArgs, CreateArgs, DeviceArg, DurabilityArg, Format, VolumeVerb};
use crate::client::{Replicator, present};
use crate::failure::{Exit, Failure};
use crate::loss_views::LossesView;
use crate::output;
use crate::values::{OnQuorumLoss, Quorum, Votes};
use crate::views::{AttachView, DeletedView, VolumeListView, VolumeView};

pub async fn run(format: Format, replicator: &Replicator, verb: VolumeVerb) -> Result<(), Failure> {
    let mut volumes = replicator.volumes();
    let volume = match verb {
        VolumeVerb::Create(args) => volumes.create(create_request(*args)?).await?.into_inner().volume,
        VolumeVerb::List => {
            let listed = volumes.list(api::ListVolumesRequest {}).await?.into_inner().volumes;
            return output::print(format, &VolumeListView { volumes: listed.into_iter().map(Into::into).collect() });
        }
        VolumeVerb::Show { volume } => volumes.get(api::GetVolumeRequest { volume }).await?.into_inner().volume,
        VolumeVerb::Losses { volume } => {
            let past = volumes.losses(api::LossesRequest { volume }).await?.into_inner();
            return output::print(format, &LossesView::from(past));
        }
        VolumeVerb::Delete { volume, yes } => {
            if !yes {
                let known = present(volumes.get(api::GetVolumeRequest { volume }).await?.into_inner().volume)?;
                return Err(refuse_delete(&known));
            }
            volumes.delete(api::DeleteVolumeRequest { volume: volume.clone() }).await?;
            return output::print(format, &DeletedView { deleted: volume });
        }
        VolumeVerb::Attach(args) => return attach(format, replicator, args).await,
        VolumeVerb::Detach { volume, session, keep_published, force, node } => {
            let (session, node) = (session.unwrap_or_default(), node.unwrap_or_default());
            let request = api::DetachVolumeRequest { volume, session, keep_published, force, node };
            volumes.detach(request).await?.into_inner().volume
        }
        VolumeVerb::Set { volume, quorum, durability, on_quorum_loss, iops, bandwidth, distance } => {
            let request = distance.request(set_request(volume, quorum, durability, on_quorum_loss));
            let request = api::SetVolumeRequest { iops, bytes_per_second: bandwidth, ..request };
            volumes.set(request).await?.into_inner().volume
        }
        VolumeVerb::Resize { volume, size } => {
            volumes.resize(api::ResizeVolumeRequest { volume, size_bytes: size }).await?.into_inner().volume
        }
    };
    output::print(format, &VolumeView::from(present(volume)?))
}

fn refuse_delete(volume: &api::VolumeStatus) -> Failure {
    let sites: Vec<_> = volume.members.iter().map(|m| m.site.as_str()).collect();
    let but = match volume.snapshots {
        0 => String::new(),
        n => format!(" but its {n} snapshots"),
    };
    let message = format!("volume {:?} would be deleted in {}, with all its data{but}", volume.name, sites.join(", "));
    Failure::new(Exit::Refused, message, format!("if that is meant: farshore volume delete {} --yes", volume.name))
}

fn durability_of(argument: DurabilityArg) -> api::Durability {
    match argument {
        DurabilityArg::Write => api::Durability::Write,
        DurabilityArg::Flush => api::Durability::Flush,
    }
}

fn ms(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn set_request(
    volume: String,
    quorum: Option<Quorum>,
    durability: Option<DurabilityArg>,
    on_quorum_loss: Option<OnQuorumLoss>,
) -> api::SetVolumeRequest {
    let mut request = api::SetVolumeRequest { volume, ..api::SetVolumeRequest::default() };
    if let Some(quorum) = quorum {
        (request.quorum, request.w) = (quorum.name, quorum.w);
        (request.min_remote, request.local_required) = (quorum.min_remote, quorum.local_required);
    }
    request.set_durability(durability.map_or(api::Durability::Unspecified, durability_of));
    if let Some(loss) = on_quorum_loss {
        request.set_on_quorum_loss(loss.kind);
        request.fence_after_ms = ms(loss.after);
    }
    request
}

fn create_request(args: CreateArgs) -> Result<api::CreateVolumeRequest, Failure> {
    use api::MemberKind::{Data, Observer, Witness};
    let mut members: Vec<api::MemberSpec> = args
        .members
        .iter()
        .map(|place| place.spec(Data))
        .chain(args.witness.iter().map(|place| place.spec(Witness)))
        .chain(args.observer.iter().map(|place| place.spec(Observer)))
        .collect();
    for Votes { place, votes } in &args.votes {
        let member = members.iter_mut().find(|m| m.site == place.site && m.node == place.node);
        let member = member.ok_or_else(|| {
            Failure::usage(
                format!("--votes names {place}, which is no member of the new volume"),
                "name it as in --members or --witness",
            )
        })?;
        member.votes = (*votes).into();
    }
    let durability = durability_of(args.durability);
    Ok(api::CreateVolumeRequest {
        name: args.name,
        size_bytes: args.size,
        members,
        policy: Some(args.distance.policy(api::Policy {
            quorum: args.quorum.name,
            w: args.quorum.w,
            min_remote: args.quorum.min_remote,
            local_required: args.quorum.local_required,
            durability: durability.into(),
            lease_ms: ms(args.lease),
            on_quorum_loss: args.on_quorum_loss.kind.into(),
            fence_after_ms: ms(args.on_quorum_loss.after),
            iops: args.iops,
            bytes_per_second: args.bandwidth,
            ..api::Policy::default()
        })),
        // clap admits two values only.
        block_size_bytes: args.block_size.parse().unwrap_or_default(),
        labels: args.labels.into_iter().collect(),
        ..Default::default()
    })
}

pub fn device_kind(argument: DeviceArg) -> api::DeviceKind {
    match argument {
        DeviceArg::Auto => api::DeviceKind::Unspecified,
        DeviceArg::Ublk => api::DeviceKind::Ublk,
        DeviceArg::Nbd => api::DeviceKind::Nbd,
        DeviceArg::Fuse => api::DeviceKind::Fuse,
    }
}

async fn attach(format: Format, replicator: &Replicator, args: AttachArgs) -> Result<(), Failure> {
    let request = api::AttachVolumeRequest {
        volume: args.volume,
        node: args.node,
        session: args.session,
        device: device_kind(args.device).into(),
        read_only: args.read_only,
        publish_only: args.publish_only,
        published: args.published,
    };
    let attached = replicator.volumes().attach(request).await?.into_inner();
    let volume = present(attached.volume)?.name;
    let device = present(attached.device)?.into();
    output::print(format, &AttachView { volume, session: attached.session, device })
}
