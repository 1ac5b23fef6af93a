//! Where the copies of a new volume go: the StorageClass names sites, the scheduler may name a node.

use std::collections::BTreeSet;

use farshore_proto::csi::TopologyRequirement;
use farshore_proto::v1 as api;
use tonic::Status;

use crate::parameters::{Parameters, Place};
use crate::places::{NodeId, Wanted};

/// Chooses a node for every site that only has a name, the own site first: its member is the first primary.
///
/// `nodes` are all that are known, the own node first, each with whether it answers now.
pub fn members(
    parameters: &Parameters,
    topology: Option<&TopologyRequirement>,
    nodes: &[(NodeId, bool)],
    volume: &str,
) -> Result<Vec<api::MemberSpec>, Status> {
    let here = nodes.first().map(|(own, _)| own.site.clone()).unwrap_or_default();
    let mut sites = parameters.sites.clone();
    if sites.is_empty() {
        sites.push(Place { site: here.clone(), node: String::new() });
    }
    for place in sites.iter().chain(&parameters.witnesses) {
        known(place, nodes)?;
    }
    if !sites.iter().any(|place| place.site == here) {
        return Err(Status::invalid_argument(format!(
            "parameter \"sites\" does not name {here}, and that is the site of this cluster: a volume needs a copy where \
             its pods run; add it"
        )));
    }
    // The order of the class stays as it is but for the own site, so that one class serves every cluster.
    sites.sort_by_key(|place| place.site != here);
    let mut taken = BTreeSet::new();
    let mut out = Vec::new();
    for (place, kind) in sites
        .iter()
        .map(|place| (place, api::MemberKind::Data))
        .chain(parameters.witnesses.iter().map(|place| (place, api::MemberKind::Witness)))
    {
        let wanted = if place.site == here && kind == api::MemberKind::Data { topology } else { None };
        let node = choose(place, wanted, nodes, volume)?;
        if !taken.insert(node.clone()) {
            return Err(Status::invalid_argument(format!("parameters name {node} twice: each node holds one member")));
        }
        out.push(api::MemberSpec { site: node.site, node: node.node, kind: kind.into(), votes: 1 });
    }
    Ok(out)
}

fn known(place: &Place, nodes: &[(NodeId, bool)]) -> Result<(), Status> {
    let of_site: Vec<&str> =
        nodes.iter().filter(|(node, _)| node.site == place.site).map(|(node, _)| node.node.as_str()).collect();
    if of_site.is_empty() {
        let sites: BTreeSet<&str> = nodes.iter().map(|(node, _)| node.site.as_str()).collect();
        let sites: Vec<&str> = sites.into_iter().collect();
        let (site, known) = (&place.site, sites.join(", "));
        return Err(Status::invalid_argument(format!(
            "site {site:?} is not known to this node's replicator; the known sites are: {known}"
        )));
    }
    if !place.node.is_empty() && !of_site.contains(&place.node.as_str()) {
        let (site, node, known) = (&place.site, &place.node, of_site.join(", "));
        return Err(Status::invalid_argument(format!("site {site} has no node {node:?}; its nodes are: {known}")));
    }
    Ok(())
}

/// The scheduler's favourite, or else one that answers; spread by the volume's name, the same for the same name.
fn choose(
    place: &Place,
    topology: Option<&TopologyRequirement>,
    nodes: &[(NodeId, bool)],
    volume: &str,
) -> Result<NodeId, Status> {
    let fits =
        |node: &&(NodeId, bool)| node.0.site == place.site && (place.node.is_empty() || node.0.node == place.node);
    let mut candidates: Vec<&(NodeId, bool)> = nodes.iter().filter(fits).collect();
    let allowed: Vec<Wanted> =
        topology.into_iter().flat_map(|t| &t.requisite).map(|t| Wanted::of(&t.segments)).collect();
    if !allowed.is_empty() {
        candidates.retain(|(node, _)| allowed.iter().any(|wanted| wanted.allows(node)));
    }
    if candidates.is_empty() {
        return Err(Status::resource_exhausted(format!(
            "no node of site {} that may hold the volume is within the topology that was asked for",
            place.site
        )));
    }
    let preferred = topology.into_iter().flat_map(|t| &t.preferred).map(|t| Wanted::of(&t.segments));
    for wanted in preferred.filter(|wanted| wanted.node.is_some()) {
        if let Some((node, _)) = candidates.iter().find(|(node, _)| wanted.allows(node)) {
            return Ok(node.clone());
        }
    }
    if candidates.iter().any(|(_, answers)| *answers) {
        candidates.retain(|(_, answers)| *answers);
    }
    candidates.sort();
    let spread = blake3::hash(volume.as_bytes()).as_bytes()[0] as usize;
    Ok(candidates[spread % candidates.len()].0.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use farshore_proto::csi::Topology;
    use tonic::Code;

    fn nodes() -> Vec<(NodeId, bool)> {
        [("east", "n1", true), ("east", "n2", true), ("west", "w1", true), ("north", "x1", false)]
            .map(|(site, node, answers)| (NodeId::new(site, node), answers))
            .into()
    }

    fn class(sites: &[(&str, &str)]) -> Parameters {
        let sites = sites.iter().map(|(site, node)| Place { site: site.to_string(), node: node.to_string() });
        Parameters { sites: sites.collect(), ..Parameters::default() }
    }

    fn names(members: &[api::MemberSpec]) -> Vec<String> {
        members.iter().map(|m| format!("{}/{}", m.site, m.node)).collect()
    }

    fn at(site: &str, node: &str) -> Topology {
        NodeId::new(site, node).topology()
    }

    #[test]
    fn the_own_site_comes_first_and_the_schedulers_node_is_taken() {
        let topology = TopologyRequirement {
            requisite: vec![at("east", "n1"), at("east", "n2")],
            preferred: vec![at("east", "n2"), at("east", "n1")],
        };
        let made =
            members(&class(&[("west", ""), ("north", ""), ("east", "")]), Some(&topology), &nodes(), "v").unwrap();
        assert_eq!(names(&made), ["east/n2", "west/w1", "north/x1"]);
    }

    #[test]
    fn the_same_name_goes_to_the_same_node_and_names_spread() {
        let to = |volume: &str| names(&members(&class(&[]), None, &nodes(), volume).unwrap()).remove(0);
        assert_eq!(to("v"), to("v"));
        let all: BTreeSet<String> = (0..32).map(|n| to(&format!("v{n}"))).collect();
        assert_eq!(all.into_iter().collect::<Vec<_>>(), ["east/n1", "east/n2"]);
    }

    #[test]
    fn what_can_not_be_is_refused() {
        let refused = |parameters: &Parameters, topology: Option<&TopologyRequirement>| {
            members(parameters, topology, &nodes(), "v").unwrap_err()
        };
        let foreign = refused(&class(&[("east", ""), ("mars", "")]), None);
        assert!(foreign.message().contains("east, north, west"), "{foreign}");
        assert!(refused(&class(&[("east", "n9")]), None).message().contains("its nodes are: n1, n2"));
        assert!(refused(&class(&[("west", "")]), None).message().contains("does not name east"));
        let elsewhere = TopologyRequirement { requisite: vec![at("west", "w1")], preferred: vec![] };
        assert_eq!(refused(&class(&[]), Some(&elsewhere)).code(), Code::ResourceExhausted);
        let pinned = TopologyRequirement { requisite: vec![at("east", "n1")], preferred: vec![] };
        assert_eq!(refused(&class(&[("east", "n2")]), Some(&pinned)).code(), Code::ResourceExhausted);
    }

    #[test]
    fn two_nodes_of_a_site_and_a_witness() {
        let mut parameters = class(&[("east", "n1"), ("east", "n2"), ("west", "")]);
        parameters.witnesses.push(Place { site: "north".into(), node: String::new() });
        let made = members(&parameters, None, &nodes(), "v").unwrap();
        assert_eq!(names(&made), ["east/n1", "east/n2", "west/w1", "north/x1"]);
        assert_eq!(made[3].kind(), api::MemberKind::Witness);
    }
}
