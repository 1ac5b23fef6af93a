//! Publishing is attaching, and unpublishing is fencing: the replicators name one node and one session in the volume's
//! configuration, and only that session writes. Volumes that were made to be read have no such session: there a node is told
//! that it may read, and the volume's other readers are left alone.

use std::collections::BTreeMap;

use farshore_proto::csi;
use farshore_proto::v1 as api;
use tonic::Status;

use super::cluster::Cluster;
use super::volume::check_usage;
use crate::capability;
use crate::names::{READ_ONLY, SESSION};
use crate::places::NodeId;
use crate::refusal::{given, no_volume};
use crate::replicator::is_id;

/// Sessions drawn here begin so ("csi."); the last byte says whether the node may write. So a repeated call is known
/// from one that asks for something else, with no record of our own.
const DRAWN_HERE: &str = "6373692e";
const MAY_WRITE: &str = "00";
const MAY_READ: &str = "01";

fn draw(read_only: bool) -> Result<String, Status> {
    let mut random = [0; 11];
    getrandom::fill(&mut random).map_err(|error| Status::internal(format!("no random bytes: {error}")))?;
    let random: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{DRAWN_HERE}{random}{}", if read_only { MAY_READ } else { MAY_WRITE }))
}

fn reads_only(session: &str) -> bool {
    session.ends_with(MAY_READ)
}

struct Wish {
    volume: String,
    node: NodeId,
    read_only: bool,
}

impl Cluster {
    pub(super) async fn publish(
        &self,
        request: csi::ControllerPublishVolumeRequest,
    ) -> Result<csi::ControllerPublishVolumeResponse, Status> {
        let volume = given("volume_id", &request.volume_id)?.to_string();
        let node_id = given("node_id", &request.node_id)?.to_string();
        let usage = capability::one(request.volume_capability.as_ref())?;
        if !is_id(&volume) {
            return Err(no_volume(&volume));
        }
        let (cluster, key) = (self.clone(), volume.clone());
        let read_only = request.readonly || usage.reads_only();
        let session = self
            .busy
            .alone(&key, async move {
                // The volume before the node: who asks for neither hears of the volume.
                let found = cluster.replicator.volume(&volume).await?;
                check_usage(&found, &usage, request.readonly)?;
                let node = cluster.node(&node_id).await?;
                cluster.attach(found, Wish { volume, node, read_only }).await
            })
            .await?;
        let mut publish_context = BTreeMap::from([(SESSION.to_string(), session)]);
        if read_only {
            publish_context.insert(READ_ONLY.into(), "true".into());
        }
        Ok(csi::ControllerPublishVolumeResponse { publish_context })
    }

    /// A node of this site, by its id.
    async fn node(&self, id: &str) -> Result<NodeId, Status> {
        let nodes = self.replicator.nodes().await?;
        let here = &nodes[0].0.site;
        let of_site: Vec<&NodeId> = nodes.iter().map(|(node, _)| node).filter(|node| node.site == *here).collect();
        match id.parse::<NodeId>().ok().filter(|node| of_site.contains(&node)) {
            Some(node) => Ok(node),
            None => {
                let known: Vec<String> = of_site.iter().map(|node| node.to_string()).collect();
                let known = known.join(", ");
                Err(Status::not_found(format!("node {id:?} is not known in site {here}; its nodes are: {known}")))
            }
        }
    }

    async fn attach(&self, volume: api::VolumeStatus, wish: Wish) -> Result<String, Status> {
        if volume.read_only {
            return self.attach_reader(volume, wish).await;
        }
        if let Some(attached) = &volume.attached {
            return repeated(&volume, attached, &wish);
        }
        // Only verbs that say so move a volume to another site; else one that returns would steal it back.
        if !volume.primary_site.is_empty() && volume.primary_site != wish.node.site {
            return Err(Status::failed_precondition(format!(
                "volume {} lives in site {}: move it here first (farshore switchover {} --to {}), or, when that site is \
                 lost, farshore failover --from {}",
                volume.name, volume.primary_site, volume.name, wish.node.site, volume.primary_site
            )));
        }
        self.refuse_overload(&wish.node).await?;
        self.attach_anew(&volume, wish, false).await
    }

    /// Whoever else has it, in whichever site: nobody writes it.
    async fn attach_reader(&self, volume: api::VolumeStatus, wish: Wish) -> Result<String, Status> {
        let there = |at: &&api::Attachment| at.site == wish.node.site && at.node == wish.node.node;
        if let Some(reader) = volume.readers.iter().find(there) {
            return repeated(&volume, reader, &wish);
        }
        self.refuse_overload(&wish.node).await?;
        self.attach_anew(&volume, wish, true).await
    }

    async fn attach_anew(&self, volume: &api::VolumeStatus, wish: Wish, read_only: bool) -> Result<String, Status> {
        let session = draw(wish.read_only)?;
        let request = api::AttachVolumeRequest {
            volume: wish.volume,
            node: wish.node.node.clone(),
            session: session.clone(),
            read_only,
            publish_only: true,
            ..Default::default()
        };
        self.replicator.attach(request).await?;
        tracing::info!(volume = %volume.name, node = %wish.node, "published");
        Ok(session)
    }

    async fn refuse_overload(&self, node: &NodeId) -> Result<(), Status> {
        if self.max_volumes_per_node == 0 {
            return Ok(());
        }
        let on_node = |volume: &api::VolumeStatus| {
            volume.attached.iter().chain(&volume.readers).any(|at| at.site == node.site && at.node == node.node)
        };
        let there = self.replicator.list().await?.iter().filter(|volume| on_node(volume)).count();
        if there >= self.max_volumes_per_node as usize {
            return Err(Status::resource_exhausted(format!(
                "{there} volumes are published on {node}, and more are not allowed (--max-volumes-per-node)"
            )));
        }
        Ok(())
    }

    pub(super) async fn unpublish(
        &self,
        request: csi::ControllerUnpublishVolumeRequest,
    ) -> Result<csi::ControllerUnpublishVolumeResponse, Status> {
        let volume = given("volume_id", &request.volume_id)?.to_string();
        let done = csi::ControllerUnpublishVolumeResponse {};
        if !is_id(&volume) {
            return Ok(done);
        }
        let (cluster, key) = (self.clone(), volume.clone());
        self.busy.alone(&key, async move { cluster.unpublish_from(&volume, &request.node_id).await }).await?;
        Ok(done)
    }

    /// Without a node: from every one of this cluster; another cluster's are for that one's controller.
    async fn unpublish_from(&self, id: &str, node_id: &str) -> Result<(), Status> {
        let Some(volume) = self.replicator.find(id).await? else { return Ok(()) };
        if !node_id.is_empty() {
            let here = self.replicator.place().await?.site;
            let named = node_id.parse::<NodeId>().ok().filter(|node| node.site == here);
            return match named {
                Some(node) => self.fence(&volume, &node).await,
                None => Ok(()),
            };
        }
        let nodes = self.replicator.nodes().await?;
        let here = &nodes[0].0.site;
        for (node, _) in nodes.iter().filter(|(node, _)| node.site == *here) {
            self.fence(&volume, node).await?;
        }
        Ok(())
    }

    /// Answers when nothing that the node wrote can arrive any more. Whether it is attached at all is the register's to
    /// say, not this node's: its replicator may be the one that was cut off.
    async fn fence(&self, volume: &api::VolumeStatus, node: &NodeId) -> Result<(), Status> {
        let (id, node_name) = (volume.id.clone(), node.node.clone());
        let request = api::DetachVolumeRequest { volume: id, node: node_name, force: true, ..Default::default() };
        self.replicator.detach(request).await?;
        tracing::info!(volume = %volume.name, node = %node, "unpublished");
        Ok(())
    }
}

/// A publish of what is published: the same once more, or something else.
fn repeated(volume: &api::VolumeStatus, attached: &api::Attachment, wish: &Wish) -> Result<String, Status> {
    let at = NodeId::new(&attached.site, &attached.node);
    let name = &volume.name;
    if at != wish.node {
        return Err(Status::failed_precondition(format!(
            "volume {name} is published on {at}, and one node at a time may use it: unpublish it there first"
        )));
    }
    if !attached.session.starts_with(DRAWN_HERE) {
        return Err(Status::failed_precondition(format!(
            "volume {name} is attached on {at} by hand: run `farshore volume detach {name}` first"
        )));
    }
    if reads_only(&attached.session) != wish.read_only {
        let how = if wish.read_only { "for writing" } else { "read-only" };
        return Err(Status::already_exists(format!(
            "volume {name} is published on {at} {how}: unpublish it before it is published otherwise"
        )));
    }
    Ok(attached.session.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_says_whether_it_writes() {
        for read_only in [false, true] {
            let session = draw(read_only).unwrap();
            assert!(is_id(&session), "{session}");
            assert_eq!(reads_only(&session), read_only);
            assert_ne!(session, draw(read_only).unwrap());
        }
    }
}
