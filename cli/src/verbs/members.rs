//! `farshore member …`

use farshore_proto::v1 as api;

use crate::args::{Format, KindArg, MemberVerb};
use crate::client::{Replicator, present};
use crate::failure::Failure;
use crate::views::VolumeView;
use crate::{output, wait};

pub async fn run(format: Format, replicator: &Replicator, verb: MemberVerb) -> Result<(), Failure> {
    let mut members = replicator.members();
    let (volume, waited_for) = match verb {
        MemberVerb::Add { volume, place, kind, wait } => {
            let kind = match kind {
                KindArg::Data => api::MemberKind::Data,
                KindArg::Witness => api::MemberKind::Witness,
                KindArg::Observer => api::MemberKind::Observer,
            };
            let request = api::AddMemberRequest { volume, member: Some(place.spec(kind)) };
            (members.add(request).await?.into_inner().volume, wait.then_some(place))
        }
        MemberVerb::Remove { volume, place } => {
            let request = api::RemoveMemberRequest { volume, site: place.site, node: place.node };
            (members.remove(request).await?.into_inner().volume, None)
        }
        MemberVerb::Replace { volume, place, with, wait } => {
            let with = with.unwrap_or_else(|| place.clone());
            let request = api::ReplaceMemberRequest {
                volume,
                site: place.site,
                node: place.node,
                // The newcomer takes over kind and votes.
                with: Some(with.spec(api::MemberKind::Unspecified)),
            };
            (members.replace(request).await?.into_inner().volume, wait.then_some(with))
        }
    };
    let mut volume = present(volume)?;
    if let Some(place) = waited_for {
        volume = wait::until_in_sync(replicator, &volume.id, Some(&place)).await?;
    }
    output::print(format, &VolumeView::from(volume))
}
