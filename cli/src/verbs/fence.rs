//! `fence` and `unfence`: whether a site may be the primary's.

use farshore_proto::v1 as api;

use super::many;
use crate::args::{FenceArgs, Format};
use crate::client::Replicator;
use crate::failure::{Exit, Failure};
use crate::selection::{self, Which};
use crate::views::VolumeView;
use crate::{client, output};

pub async fn fence(format: Format, replicator: &Replicator, args: FenceArgs, lift: bool) -> Result<(), Failure> {
    let FenceArgs { site: place, volumes, labels } = args;
    if !place.node.is_empty() {
        return Err(Failure::usage(
            format!("{place} is a node, and a fence is for a site"),
            format!("name the site alone: {}", place.site),
        ));
    }
    let set = |volume: String| {
        let (replicator, site) = (replicator.clone(), place.site.clone());
        async move {
            let request = api::FenceRequest { volume, site, lift };
            Ok(replicator.replication().fence(request).await?.into_inner().volume)
        }
    };
    if let [volume] = volumes.as_slice() {
        let volume = client::present(set(volume.clone()).await?)?;
        return output::print(format, &VolumeView::from(volume));
    }
    let names = match volumes.is_empty() {
        true => with_a_member_in(replicator, &place.site, labels).await?,
        false => volumes,
    };
    many::all(format, names, set).await
}

async fn with_a_member_in(
    replicator: &Replicator,
    site: &str,
    labels: selection::Labels,
) -> Result<Vec<String>, Failure> {
    let which = Which { labels, site: None };
    let listed = match which.is_given() {
        true => selection::chosen(replicator, &which).await?,
        false => replicator.volumes().list(api::ListVolumesRequest {}).await?.into_inner().volumes,
    };
    let there = listed.into_iter().filter(|v| v.members.iter().any(|m| m.site == site));
    let names: Vec<String> = there.map(|v| v.name).collect();
    if names.is_empty() {
        return Err(Failure::new(
            Exit::NotFound,
            format!("no such volume has a member in site {site:?}"),
            "see the sites of each with: farshore volume list",
        ));
    }
    Ok(names)
}
