//! Sites and nodes, as the orchestrator names them: a node's id is `SITE/NODE`, its topology has both.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use farshore_proto::csi::Topology;

use crate::names::{TOPOLOGY_NODE, TOPOLOGY_SITE};

/// A replicator, and the machine it runs on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeId {
    pub site: String,
    pub node: String,
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.site, self.node)
    }
}

impl FromStr for NodeId {
    type Err = String;

    fn from_str(text: &str) -> Result<NodeId, String> {
        match text.split_once('/') {
            Some((site, node)) if is_label(site) && is_label(node) => {
                Ok(NodeId { site: site.into(), node: node.into() })
            }
            _ => Err(format!("{text:?} is no node; write SITE/NODE, for example east/node-1")),
        }
    }
}

impl NodeId {
    pub fn new(site: &str, node: &str) -> NodeId {
        NodeId { site: site.into(), node: node.into() }
    }

    pub fn topology(&self) -> Topology {
        let segments = [(TOPOLOGY_SITE, &self.site), (TOPOLOGY_NODE, &self.node)];
        Topology { segments: segments.into_iter().map(|(key, value)| (key.to_string(), value.clone())).collect() }
    }
}

/// Every node of a site.
pub fn whole_site(site: &str) -> Topology {
    Topology { segments: BTreeMap::from([(TOPOLOGY_SITE.to_string(), site.to_string())]) }
}

/// The rules of a DNS label, as the replicator holds them for sites and nodes.
pub fn is_label(text: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    text.len() <= 63 && ends(text.chars().next()) && ends(text.chars().last()) && text.chars().all(inside)
}

/// What a topology says of a place; keys that are not ours say nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    pub site: Option<String>,
    pub node: Option<String>,
}

impl Wanted {
    pub fn of(segments: &BTreeMap<String, String>) -> Wanted {
        Wanted { site: segments.get(TOPOLOGY_SITE).cloned(), node: segments.get(TOPOLOGY_NODE).cloned() }
    }

    pub fn allows(&self, place: &NodeId) -> bool {
        let same = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
        same(&self.site, &place.site) && same(&self.node, &place.node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_site_and_node() {
        let id: NodeId = "us-east/n1".parse().unwrap();
        assert_eq!((id.site.as_str(), id.node.as_str(), id.to_string().as_str()), ("us-east", "n1", "us-east/n1"));
        for bad in ["", "east", "east/", "/n1", "a/b/c", "East/n1", "fake-node-id-1", "a/-b"] {
            assert!(bad.parse::<NodeId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_topology_narrows_down() {
        let here = NodeId::new("east", "n1");
        let exact = Wanted::of(&here.topology().segments);
        assert!(exact.allows(&here) && !exact.allows(&NodeId::new("east", "n2")));
        assert!(Wanted::default().allows(&here));
        let site = Wanted { site: Some("west".into()), node: None };
        assert!(!site.allows(&here) && site.allows(&NodeId::new("west", "n1")));
    }
}
