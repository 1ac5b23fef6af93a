//! Where the copies of a new volume go: the StorageClass names sites, the scheduler may name a node.

use std::collections::BTreeSet;

use farshore_proto::csi::TopologyRequirement;
use farshore_proto::v1 as api;
use tonic::Status;

use crate::parameters::{Parameters, Place};
use crate::places::{NodeId, Wanted};

/// Chooses a node for every site that only has a name, the own site first: its member is the first primary.
///
/// `nodes` are all that are known, the own node first, each with whether it answers now. `holders` are those that have what
/// the volume begins with; `None`: it begins empty.
pub fn members(
    parameters: &Parameters,
    topology: Option<&TopologyRequirement>,
    nodes: &[(NodeId, bool)],
    holders: Option<&[NodeId]>,
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
        let able = holders.filter(|_| kind == api::MemberKind::Data);
        let node = choose(place, wanted, nodes, able, parameters.any_node, volume)?;
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

fn names_of(nodes: &[NodeId]) -> String {
    let names: Vec<String> = nodes.iter().map(NodeId::to_string).collect();
    if names.is_empty() { "no node".into() } else { names.join(", ") }
}

/// The scheduler's favourite, or else one that answers; spread by the volume's name, the same for the same name.
fn choose(
    place: &Place,
    topology: Option<&TopologyRequirement>,
    nodes: &[(NodeId, bool)],
    holders: Option<&[NodeId]>,
    any_node: bool,
    volume: &str,
) -> Result<NodeId, Status> {
    let fits =
        |node: &&(NodeId, bool)| node.0.site == place.site && (place.node.is_empty() || node.0.node == place.node);
    let mut candidates: Vec<&(NodeId, bool)> = nodes.iter().filter(fits).collect();
    if let Some(holders) = holders {
        candidates.retain(|(node, _)| holders.contains(node));
        if candidates.is_empty() {
            let (site, held) = (&place.site, names_of(holders));
            let place = if place.node.is_empty() { format!("site {site}") } else { format!("{site}/{}", place.node) };
            return Err(Status::invalid_argument(format!(
                "{place} has no copy of what the volume begins with, which is on {held}: use a class that names those, and \
                 add the other members later"
            )));
        }
    }
    let allowed: Vec<Wanted> =
        topology.into_iter().flat_map(|t| &t.requisite).map(|t| Wanted::of(&t.segments)).collect();
    let able: Vec<NodeId> = candidates.iter().map(|(node, _)| node.clone()).collect();
    let within = |node: &NodeId| allowed.is_empty() || allowed.iter().any(|wanted| wanted.allows(node));
    // Where pods run without a copy, the best place is still the pod's own, if it may have one.
    let of_site = |node: &NodeId| {
        allowed.is_empty() || allowed.iter().any(|wanted| Wanted { node: None, ..wanted.clone() }.allows(node))
    };
    match any_node && !candidates.iter().any(|(node, _)| within(node)) {
        true => candidates.retain(|(node, _)| of_site(node)),
        false => candidates.retain(|(node, _)| within(node)),
    }
    if candidates.is_empty() {
        // By this code the provisioner has the scheduler choose another node.
        return Err(Status::resource_exhausted(format!(
            "no node of site {} that may hold the volume is within the topology that was asked for; it may be on {}",
            place.site,
            names_of(&able)
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
        let made = members(&class(&[("west", ""), ("north", ""), ("east", "")]), Some(&topology), &nodes(), None, "v")
            .unwrap();
        assert_eq!(names(&made), ["east/n2", "west/w1", "north/x1"]);
    }

    #[test]
    fn the_same_name_goes_to_the_same_node_and_names_spread() {
        let to = |volume: &str| names(&members(&class(&[]), None, &nodes(), None, volume).unwrap()).remove(0);
        assert_eq!(to("v"), to("v"));
        let all: BTreeSet<String> = (0..32).map(|n| to(&format!("v{n}"))).collect();
        assert_eq!(all.into_iter().collect::<Vec<_>>(), ["east/n1", "east/n2"]);
    }

    #[test]
    fn what_can_not_be_is_refused() {
        let refused = |parameters: &Parameters, topology: Option<&TopologyRequirement>| {
            members(parameters, topology, &nodes(), None, "v").unwrap_err()
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
    fn a_copy_is_where_its_source_is() {
        let holders = [NodeId::new("east", "n1"), NodeId::new("west", "w1")];
        let place = |sites: &[(&str, &str)], requisite: &[&str], preferred: &[&str]| {
            let at = |nodes: &[&str]| nodes.iter().map(|node| at("east", node)).collect();
            let topology = TopologyRequirement { requisite: at(requisite), preferred: at(preferred) };
            members(&class(sites), Some(&topology), &nodes(), Some(&holders), "v").map(|made| names(&made))
        };
        let both = [("east", ""), ("west", "")];
        // The scheduler's favourite holds none of it, and another node is allowed as well.
        assert_eq!(place(&both, &["n1", "n2"], &["n2", "n1"]).unwrap(), ["east/n1", "west/w1"]);
        let strict = place(&both, &["n2"], &["n2"]).unwrap_err();
        assert_eq!(strict.code(), Code::ResourceExhausted);
        assert!(strict.message().contains("east/n1"), "{strict}");
        // Where pods run without a copy, it is served from there.
        let anywhere = Parameters { any_node: true, ..class(&both) };
        let on = |nodes: &[&str]| TopologyRequirement {
            requisite: nodes.iter().map(|node| at("east", node)).collect(),
            ..TopologyRequirement::default()
        };
        let members_at = |topology: &TopologyRequirement| {
            members(&anywhere, Some(topology), &nodes(), Some(&holders), "v").map(|made| names(&made))
        };
        assert_eq!(members_at(&on(&["n2"])).unwrap(), ["east/n1", "west/w1"]);
        let elsewhere = TopologyRequirement { requisite: vec![at("south", "s1")], ..TopologyRequirement::default() };
        assert_eq!(members_at(&elsewhere).unwrap_err().code(), Code::ResourceExhausted);
        // Choosing another node of this cluster would not help.
        for sites in [[("east", "n2"), ("west", "")], [("east", ""), ("north", "")]] {
            let refused = place(&sites, &["n1", "n2"], &[]).unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
            assert!(refused.message().contains("which is on east/n1, west/w1"), "{refused}");
        }
        let mut witnessed = class(&both);
        witnessed.witnesses.push(Place { site: "north".into(), node: String::new() });
        let made = members(&witnessed, None, &nodes(), Some(&holders), "v").unwrap();
        assert_eq!(names(&made)[2], "north/x1", "a witness holds nothing");
    }

    #[test]
    fn two_nodes_of_a_site_and_a_witness() {
        let mut parameters = class(&[("east", "n1"), ("east", "n2"), ("west", "")]);
        parameters.witnesses.push(Place { site: "north".into(), node: String::new() });
        let made = members(&parameters, None, &nodes(), None, "v").unwrap();
        assert_eq!(names(&made), ["east/n1", "east/n2", "west/w1", "north/x1"]);
        assert_eq!(made[3].kind(), api::MemberKind::Witness);
    }
}
