//! The other nodes of this site: any node's command line sees and commands every volume of its site.

use std::sync::Arc;
use std::time::Duration;

use farshore_core::register::MemberKind;
use farshore_proto::v1 as api;
use prost::Message;

use super::driver::{VolumeHandle, lock};
use super::holders::member_at;
use super::node::Node;
use crate::control::{OpError, OpKind};
use crate::transport::PeerName;

/// A neighbour that does not answer within this is left out of a listing.
const LISTING_PATIENCE: Duration = Duration::from_secs(2);

impl Node {
    pub(super) fn neighbours(&self) -> Vec<PeerName> {
        let me = &self.shared.me;
        let named = self.config.peers.iter().filter(|p| p.site == me.site && p.node != me.node);
        let peers = named.filter_map(|p| PeerName::new(&p.site, &p.node).ok());
        peers.filter(|peer| self.is_connected(peer)).collect()
    }

    /// What the neighbours hold, each with what it knows; volumes that are held here are left out.
    pub(super) async fn neighbours_volumes(self: &Arc<Self>) -> Vec<api::VolumeStatus> {
        let mut asked = tokio::task::JoinSet::new();
        for peer in self.neighbours() {
            let node = self.clone();
            asked.spawn(async move {
                let request = api::ListVolumesRequest {};
                let patience = LISTING_PATIENCE;
                let answer =
                    node.forward_within::<api::ListVolumesResponse>(patience, &peer, "volumes", &request).await;
                match answer.is_ok() {
                    true => lock(&node.unheard).remove(&peer),
                    false => lock(&node.unheard).insert(peer),
                };
                answer
            });
        }
        let mut out: Vec<api::VolumeStatus> = Vec::new();
        for view in asked.join_all().await.into_iter().flatten().flat_map(|answer| answer.volumes) {
            let known = |id: &str, name: &str| out.iter().any(|v| v.id == id && v.name == name);
            if self.catalog.find(&view.name).is_none() && !known(&view.id, &view.name) {
                out.push(self.with_device_here(view).await);
            }
        }
        out
    }

    /// A volume that is held here, after the neighbours were asked. One that nobody knows is told from one that only a
    /// neighbour may know who can't be asked: else who wants it gone, or its session ended, would take it for done.
    pub(super) fn find_at_last(&self, volume: &str) -> Result<Arc<VolumeHandle>, OpError> {
        self.find(volume).map_err(|error| {
            let silent = self.silent_neighbours();
            if error.kind != OpKind::NotFound || silent.is_empty() {
                return error;
            }
            OpError::unavailable(
                format!("volume {volume} is not known here, and {} can't be asked", silent.join(", ")),
                "try again when it answers; take it out of the peers of this node's configuration if it is gone for good",
            )
        })
    }

    /// Those that may know what is not known here, and did not answer when they were asked last.
    pub(super) fn silent_neighbours(&self) -> Vec<String> {
        let me = &self.shared.me;
        let named = self.config.peers.iter().filter(|p| p.site == me.site && p.node != me.node);
        let silent = |peer: &PeerName| !self.is_connected(peer) || lock(&self.unheard).contains(peer);
        let silent = named.filter_map(|p| PeerName::new(&p.site, &p.node).ok()).filter(silent);
        silent.map(|peer| peer.to_string()).collect()
    }

    /// The neighbour that holds a volume of which nothing is here.
    pub(super) async fn neighbour_with(self: &Arc<Self>, volume: &str) -> Option<PeerName> {
        if self.catalog.find(volume).is_some() || self.shared.diverged.find(volume).is_some() {
            return None;
        }
        let views = self.neighbours_volumes().await;
        let found = views.into_iter().find(|view| view.name == volume || view.id == volume)?;
        PeerName::new(&found.reporter_site, &found.reporter_node).ok()
    }

    /// As [`Node::neighbour_with`], for whoever needs an image: who is a member without a copy has none.
    pub(super) async fn neighbour_with_copy(self: &Arc<Self>, volume: &str) -> Option<PeerName> {
        match self.catalog.find(volume).filter(|handle| handle.is_diskless()) {
            Some(handle) => self.copies_nearby(&handle).into_iter().find(|peer| peer.site == self.shared.me.site),
            None => self.neighbour_with(volume).await,
        }
    }

    /// Has the neighbour that holds the volume carry a verb out; `None` when it is held here, or by nobody.
    pub(super) async fn by_neighbour<R: Message + Default>(
        self: &Arc<Self>,
        volume: &str,
        method: &str,
        request: &impl Message,
    ) -> Result<Option<R>, OpError> {
        match self.neighbour_with(volume).await {
            Some(peer) => self.forward(&peer, method, request).await.map(Some),
            None => Ok(None),
        }
    }

    /// Has the neighbours take over what is not held here.
    pub(super) async fn neighbours_fail_over(
        self: &Arc<Self>,
        request: &api::FailoverRequest,
    ) -> Vec<api::VolumeResult> {
        let mut asked = tokio::task::JoinSet::new();
        for peer in self.neighbours() {
            let (node, request) = (self.clone(), request.clone());
            asked.spawn(async move {
                let answer = node.forward::<api::FailoverResponse>(&peer, "failover", &request).await;
                answer.map(|answer| answer.results).unwrap_or_else(|error| {
                    vec![api::VolumeResult {
                        volume: format!("those of {peer}"),
                        error: Some(error.detail()),
                        ..Default::default()
                    }]
                })
            });
        }
        asked.join_all().await.into_iter().flatten().collect()
    }

    /// A neighbour's failover, of what it does not hold itself.
    pub(super) async fn fail_over_for(
        self: &Arc<Self>,
        peer: &PeerName,
        mut request: api::FailoverRequest,
    ) -> Result<Vec<api::VolumeResult>, OpError> {
        let mut names = Vec::new();
        for handle in self.catalog.all() {
            let named = request.volumes.is_empty() || request.volumes.contains(&handle.name());
            if named && !takes_part(&handle, peer) && self.is_taken_over_from(&handle, &request.from_site).await {
                names.push(handle.name());
            }
        }
        if names.is_empty() {
            return Ok(Vec::new());
        }
        request.volumes = names;
        self.fail_over(request).await
    }
}

/// Who is a member for a device alone leaves it to others to take a volume over.
fn takes_part(handle: &VolumeHandle, peer: &PeerName) -> bool {
    member_at(&handle.config.borrow(), peer).is_some_and(|m| m.kind != MemberKind::Diskless)
}
