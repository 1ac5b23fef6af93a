//! Room for one more volume: where it may run, and in every site that has to hold a copy, by what the nodes say themselves.

use farshore_proto::csi;
use tonic::Status;

use super::cluster::Cluster;
use super::placement;
use crate::capability;
use crate::parameters::{self, Parameters, Place};
use crate::places::{NodeId, Wanted};
use crate::sizes::{SIZE_BYTES_MAX, SIZE_BYTES_MIN};

/// A node, and what its disk has left; `None`: it did not say.
pub type Disk = (NodeId, Option<u64>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Room {
    /// In all.
    bytes: u64,
    /// For one volume.
    largest: u64,
}

fn of_place<'a>(disks: &'a [Disk], place: &'a Place) -> impl Iterator<Item = &'a Disk> {
    let fits = |node: &NodeId| node.site == place.site && (place.node.is_empty() || place.node == node.node);
    disks.iter().filter(move |(node, _)| fits(node))
}

/// Volumes are thin: this is what could be filled, not what is promised. A node that does not answer has no room now.
fn room(parameters: &Parameters, wanted: &Wanted, disks: &[Disk]) -> Room {
    let Some((own, _)) = disks.first() else { return Room::default() };
    let most = |place: &Place| of_place(disks, place).filter_map(|(_, bytes)| *bytes).max().unwrap_or(0);
    let own_site = [Place { site: own.site.clone(), node: String::new() }];
    let places = if parameters.sites.is_empty() { &own_site[..] } else { &parameters.sites[..] };
    let (here, away): (Vec<&Place>, Vec<&Place>) = places.iter().partition(|place| place.site == own.site);
    let elsewhere = away.into_iter().map(most).min().unwrap_or(u64::MAX);
    // Where the class names several nodes of this site, each of them holds a copy.
    let each = if here.len() > 1 { here.iter().copied().map(most).min().unwrap_or(0) } else { u64::MAX };
    let mut found = Room::default();
    for (_, bytes) in here.iter().flat_map(|place| of_place(disks, place)).filter(|(node, _)| wanted.allows(node)) {
        let bytes = bytes.unwrap_or(0).min(elsewhere).min(each);
        found.bytes = found.bytes.saturating_add(bytes);
        found.largest = found.largest.max(bytes);
    }
    found.bytes = found.bytes.min(elsewhere).min(each);
    found
}

impl Cluster {
    pub(super) async fn capacity(&self, request: csi::GetCapacityRequest) -> Result<csi::GetCapacityResponse, Status> {
        if !request.volume_capabilities.is_empty() {
            capability::all(&request.volume_capabilities)?;
        }
        let parameters = parameters::read(&request.parameters)?;
        let disks = self.replicator.disks().await?;
        let nodes: Vec<(NodeId, bool)> = disks.iter().map(|(node, free)| (node.clone(), free.is_some())).collect();
        let mut wanted = request.accessible_topology.map(|t| Wanted::of(&t.segments)).unwrap_or_default();
        if parameters.any_node {
            // A node without room has that of its neighbours.
            wanted.node = None;
        }
        let possible = placement::members(&parameters, None, &nodes, None, "").is_ok();
        let room = if possible { room(&parameters, &wanted, &disks) } else { Room::default() };
        let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        Ok(csi::GetCapacityResponse {
            available_capacity: bytes(room.bytes),
            maximum_volume_size: Some(bytes(room.largest.min(SIZE_BYTES_MAX))),
            minimum_volume_size: Some(bytes(SIZE_BYTES_MIN)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disks() -> Vec<Disk> {
        [("east", "n1", Some(10)), ("east", "n2", Some(30)), ("west", "w1", Some(25)), ("north", "x1", None)]
            .map(|(site, node, free)| (NodeId::new(site, node), free))
            .into()
    }

    fn of(sites: &[(&str, &str)], site: Option<&str>, node: Option<&str>) -> (u64, u64) {
        let place = |(site, node): &(&str, &str)| Place { site: site.to_string(), node: node.to_string() };
        let parameters = Parameters { sites: sites.iter().map(place).collect(), ..Parameters::default() };
        let wanted = Wanted { site: site.map(String::from), node: node.map(String::from) };
        let found = room(&parameters, &wanted, &disks());
        (found.bytes, found.largest)
    }

    #[test]
    fn a_node_has_its_own_room_and_a_site_that_of_its_nodes() {
        assert_eq!(of(&[], Some("east"), Some("n1")), (10, 10));
        assert_eq!(of(&[], Some("east"), Some("n2")), (30, 30));
        assert_eq!(of(&[], Some("east"), None), (40, 30));
        assert_eq!(of(&[], None, None), (40, 30));
        assert_eq!(of(&[], Some("east"), Some("n9")), (0, 0));
    }

    #[test]
    fn every_copy_needs_room() {
        let metro = [("east", ""), ("west", "")];
        assert_eq!(of(&metro, Some("east"), Some("n2")), (25, 25), "west has no more");
        assert_eq!(of(&metro, Some("east"), None), (25, 25));
        assert_eq!(of(&metro, Some("west"), None), (0, 0), "this cluster's pods run in its own site");
        assert_eq!(of(&[("east", ""), ("north", "")], None, None), (0, 0), "north does not answer");
        assert_eq!(of(&[("east", "n1"), ("east", "n2")], Some("east"), Some("n2")), (10, 10), "a copy on each");
        assert_eq!(of(&[("east", "n1")], Some("east"), Some("n2")), (0, 0));
    }
}
