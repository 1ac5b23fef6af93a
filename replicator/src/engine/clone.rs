//! Volumes that begin as a snapshot of another one.
//!
//! Every member makes the clone in its own store, at once, of the image that it holds there. The log begins behind that
//! image: its base is a record that there never was, seq 1, of no epoch, the same on every member. So a member that comes
//! later, with an empty store, is behind what any log holds and is shipped the image.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use farshore_core::durable::{Durable, LogBase};
use farshore_core::history::History;
use farshore_core::ids::{Epoch, MemberId, Seq, VolumeId};
use farshore_core::mark::SnapshotId;
use farshore_core::record::RecordHash;
use farshore_core::register::{Configuration, Member, MemberKind};
use farshore_proto::v1 as api;

use super::create::name_error;
use super::driver::VolumeHandle;
use super::images::readable;
use super::kept::Origin;
use super::marks::Marker;
use super::node::{Node, Shared};
use super::rpc::Call;
use super::snapshots::Found;
use super::view::policy_view;
use crate::control::validate_snapshots::parse_id;
use crate::control::{OpError, OpKind};
use crate::store::{Pin, SnapshotRow, SnapshotState, StoreError};
use crate::transport::PeerName;

/// Where a clone's own records begin.
pub(super) const BASE_SEQ: Seq = Seq(1);
/// For a member to come to a snapshot that was taken just now.
const APPLY_PATIENCE: Duration = Duration::from_secs(5);
const APPLY_PAUSE: Duration = Duration::from_millis(20);
const JOIN_PATIENCE: Duration = Duration::from_secs(20);
/// Of a clone: what it began with, for people.
pub(super) const SOURCE_LABEL: &str = "farshore.source";
/// Of a clone: the id of that snapshot, or, of a volume's clone, the id of that volume.
pub(super) const SOURCE_ID_LABEL: &str = "farshore.source-id";

/// Of a snapshot that was taken for a clone alone: the clone's name.
pub(super) const MOMENT_LABEL: &str = "farshore.for-clone";

/// Who has the image that a clone would begin with.
pub(super) fn holders(config: &Configuration) -> Vec<String> {
    let data = config.members.iter().filter(|m| matches!(m.kind, MemberKind::Data | MemberKind::Observer));
    data.map(|m| format!("{}/{}", m.site, m.node)).collect()
}

/// What a clone begins with.
pub(super) struct Source {
    parent: Origin,
    image: Image,
}

pub(super) enum Image {
    Snapshot(SnapshotRow),
    /// One that was taken for the clone alone.
    Moment(SnapshotRow),
    /// What the copy here shows, pinned for the clone alone (see `shown`).
    Shown(Pin),
}

impl Image {
    fn size_bytes(&self) -> u64 {
        match self {
            Image::Snapshot(row) | Image::Moment(row) => row.size_bytes,
            Image::Shown(pin) => pin.size_bytes,
        }
    }

    /// For people.
    fn title(&self, volume: &str) -> String {
        match self {
            Image::Snapshot(row) | Image::Moment(row) => format!("{volume}@{}", row.name),
            Image::Shown(pin) => format!("{volume} at record {}", pin.seq),
        }
    }
}

/// What a member's store makes a clone of.
pub(super) enum CloneOf {
    Snapshot(VolumeId, SnapshotId),
    Pin(VolumeId, String),
}

/// The state of a member of a clone that has just been made.
pub(super) fn first_of_clone(volume: VolumeId, durable: Durable) -> Durable {
    Durable {
        base: LogBase { seq: BASE_SEQ, hash: RecordHash(volume.0) },
        // Nobody was promised anything, so nobody owes a lease: the clone can be attached at once.
        history: History(vec![(Epoch::ZERO, BASE_SEQ)]),
        acked: BASE_SEQ,
        ..durable
    }
}

impl Node {
    /// The neighbour that makes a volume of what this node, or that one, holds: the source is there, and so will the clone
    /// be, for what anybody else says about it no member believes.
    pub(super) async fn neighbour_with_source(
        self: &Arc<Self>,
        request: &api::CreateVolumeRequest,
    ) -> Result<Option<PeerName>, OpError> {
        let config = if !request.source_snapshot.is_empty() {
            match self.find_snapshot(&request.source_snapshot).await? {
                Found::Here(origin, _) => match self.neighbour_with_copy(&origin.id().to_string()).await {
                    Some(peer) => return Ok(Some(peer)),
                    None => origin.config(Configuration::clone),
                },
                Found::Neighbour(peer) => return Ok(Some(peer)),
            }
        } else if !request.source_volume.is_empty() {
            if let Some(peer) = self.neighbour_with_copy(&request.source_volume).await {
                return Ok(Some(peer));
            }
            let Some(source) = self.catalog.find(&request.source_volume) else { return Ok(None) };
            Configuration::clone(&source.config.borrow())
        } else {
            return Ok(None);
        };
        match maker_of_clone(&request.members, &config, &self.shared.me.site, &self.shared.me.node) {
            Some(node) => PeerName::new(&self.shared.me.site, node).map(Some).map_err(name_error),
            None => Ok(None),
        }
    }

    /// Finds what a new volume shall begin with, and fills in what the request leaves to it.
    pub(super) async fn source_of(
        self: &Arc<Self>,
        request: &mut api::CreateVolumeRequest,
    ) -> Result<Option<Source>, OpError> {
        let (parent, image) = if !request.source_snapshot.is_empty() {
            let (parent, row) = match self.find_snapshot(&request.source_snapshot).await? {
                Found::Here(parent, row) => (parent, row),
                Found::Neighbour(peer) => return Err(ask_there(&request.source_snapshot, &peer)),
            };
            readable(&parent.name(), &row, self)?;
            (parent, Image::Snapshot(row))
        } else if !request.source_volume.is_empty() {
            if let Some(peer) = self.neighbour_with_copy(&request.source_volume).await {
                return Err(ask_there(&request.source_volume, &peer));
            }
            let parent = self.find(&request.source_volume)?;
            let image = match request.source_shown {
                true => Image::Shown(self.pin_shown(&parent, request).await?),
                false => {
                    let row = self.moment_for(&parent, &request.name).await?;
                    readable(&parent.name(), &row, self)?;
                    Image::Moment(row)
                }
            };
            (Origin::Live(parent), image)
        } else {
            return Ok(None);
        };
        let (title, size_bytes) = (image.title(&parent.name()), image.size_bytes());
        let source = Source { parent, image };
        let parent = &source.parent;
        if request.size_bytes == 0 {
            request.size_bytes = size_bytes;
        }
        if request.size_bytes < size_bytes {
            self.drop_source(&source).await;
            return Err(OpError::invalid(
                format!("{} would have {} bytes, and {title} has {size_bytes}", request.name, request.size_bytes),
                "leave the size out, or give a larger one",
            ));
        }
        if request.members.is_empty() {
            parent.config(|config| lay_out_like(request, config));
        }
        // A site is meant with the node that holds the parent there.
        let members = parent.config(|config| config.members.clone());
        for spec in request.members.iter_mut().filter(|spec| spec.node.is_empty()) {
            let mut of_site: Vec<&Member> = members.iter().filter(|m| m.site == spec.site).collect();
            of_site.sort_by_key(|m| m.node != self.shared.me.node);
            if let Some(member) = of_site.first() {
                spec.node = member.node.clone();
            }
        }
        let id = match &source.image {
            Image::Snapshot(row) => row.id.to_string(),
            Image::Moment(_) | Image::Shown(_) => parent.id().to_string(),
        };
        request.labels.insert(SOURCE_LABEL.into(), title);
        request.labels.insert(SOURCE_ID_LABEL.into(), id);
        Ok(Some(source))
    }

    /// A snapshot of a volume as it is now, for one clone.
    async fn moment_for(self: &Arc<Self>, parent: &Arc<VolumeHandle>, clone: &str) -> Result<SnapshotRow, OpError> {
        let name = format!("clone-{clone:.40}-{:08x}", super::clock::random_u128() as u32);
        let labels = BTreeMap::from([(MOMENT_LABEL.to_string(), clone.to_string())]);
        let request = api::CreateSnapshotRequest { volumes: vec![parent.id.to_string()], name, labels };
        let made = self.take_one(&request).await?.snapshots.into_iter().next();
        let id = made.and_then(|made| parse_id(&made.id)).map(SnapshotId);
        let id = id.ok_or_else(|| OpError::internal("a snapshot was made without an id"))?;
        let row = self.until_here(parent.id, id).await?;
        // Attempts whose node died have left theirs.
        let of_before = |found: &SnapshotRow| found.labels.get(MOMENT_LABEL).is_some_and(|of| of == clone);
        for before in self.rows(parent)?.iter().filter(|found| found.id != id && of_before(found)) {
            self.drop_moment(parent, before).await;
        }
        Ok(row)
    }

    /// The clones hold the image by themselves.
    pub(super) async fn drop_source(self: &Arc<Self>, source: &Source) {
        match (&source.parent, &source.image) {
            (Origin::Live(parent), Image::Moment(row)) => self.drop_moment(parent, row).await,
            (parent, Image::Shown(pin)) => self.unpin_shown(parent.id(), &pin.name).await,
            _ => {}
        }
    }

    async fn drop_moment(self: &Arc<Self>, parent: &Arc<VolumeHandle>, row: &SnapshotRow) {
        let request = api::DeleteSnapshotRequest { snapshot: format!("{}@{}", parent.id, row.name) };
        let deleted = match self.marker(parent).await {
            Ok(Marker::Here) => self.delete_snapshot_here(parent, row.id).await,
            Ok(Marker::There(peer)) => {
                self.forward::<api::DeleteSnapshotResponse>(&peer, "snapshot-delete", &request).await.map(drop)
            }
            Err(error) => Err(error),
        };
        if let Err(error) = deleted {
            tracing::warn!(snapshot = row.name, %error, "the snapshot that a clone was made of stays");
        }
    }

    /// A clone that is there: is it the one that is asked for?
    pub(super) fn is_clone_of(&self, known: Option<&String>, request: &api::CreateVolumeRequest) -> bool {
        let wanted = match (request.source_snapshot.as_str(), request.source_volume.as_str()) {
            ("", "") => None,
            ("", volume) => self.catalog.find(volume).map(|handle| handle.id.to_string()),
            (snapshot, _) => self.known_id(snapshot),
        };
        match (known, wanted) {
            (None, None) => request.source_snapshot.is_empty() && request.source_volume.is_empty(),
            // What it was made of may be gone by now.
            (Some(_), None) => !request.source_snapshot.is_empty() || !request.source_volume.is_empty(),
            (known, wanted) => known == wanted.as_ref(),
        }
    }

    fn known_id(&self, snapshot: &str) -> Option<String> {
        match crate::control::validate_snapshots::split(snapshot) {
            None => Some(snapshot.to_string()),
            Some((volume, name)) => {
                let handle = self.catalog.find(volume)?;
                let row = self.rows(&handle).ok()?.into_iter().find(|row| row.name == name);
                row.map(|row| row.id.to_string())
            }
        }
    }

    pub(super) async fn join_clone(
        self: &Arc<Self>,
        peer: &PeerName,
        volume: VolumeId,
        durable: &Durable,
        source: &Source,
    ) -> Result<(), OpError> {
        let parent = source.parent.id();
        let snapshot = match &source.image {
            Image::Snapshot(row) | Image::Moment(row) => row.id,
            // The sole member is here.
            Image::Shown(pin) => {
                let of = CloneOf::Pin(parent, pin.name.clone());
                return self.install_as(volume, durable.clone(), Some(of)).await;
            }
        };
        if *peer == self.shared.me {
            return self.install_clone(&self.shared.me, volume, durable.clone(), parent, snapshot).await;
        }
        let call = Call::JoinClone { volume, durable: durable.encode(), parent, snapshot };
        self.shared.calls.call(&self.shared.transport, peer, &call, JOIN_PATIENCE).await.map(drop)
    }

    /// Begins to hold a member of a clone, of the image that this node has, for the node that makes it.
    pub(super) async fn install_clone(
        self: &Arc<Self>,
        maker: &PeerName,
        volume: VolumeId,
        durable: Durable,
        parent: VolumeId,
        snapshot: SnapshotId,
    ) -> Result<(), OpError> {
        let session = self.session_with(maker);
        let row = self.until_here(parent, snapshot).await?;
        if self.session_with(maker) != session {
            // It may have died while we waited, and what it had begun been deleted: nobody would know of this one.
            return Err(OpError::unavailable(
                format!("the connection with {maker}, which makes the clone, broke off"),
                "run it again",
            ));
        }
        if row.state == SnapshotState::Missing {
            return Err(OpError::failed_precondition(
                format!("the copy on {} is younger than snapshot {}", self.shared.me, row.name),
                "leave that site out, and add it to the clone as a member afterwards",
            ));
        }
        self.install_as(volume, durable, Some(CloneOf::Snapshot(parent, snapshot))).await
    }

    async fn until_here(&self, parent: VolumeId, snapshot: SnapshotId) -> Result<SnapshotRow, OpError> {
        let found = tokio::time::timeout(APPLY_PATIENCE, async {
            loop {
                if let Ok(row) = self.shared.store.snapshot(parent, snapshot) {
                    return row;
                }
                tokio::time::sleep(APPLY_PAUSE).await;
            }
        });
        found.await.map_err(|_| {
            OpError::failed_precondition(
                format!("{} does not hold snapshot {snapshot}, or not yet", self.shared.me),
                "name members that hold the volume it is of; see `farshore volume show`",
            )
        })
    }

    /// The volumes here that began with a snapshot.
    pub(super) fn clones_of(&self, snapshot: SnapshotId) -> Vec<String> {
        let id = snapshot.to_string();
        let is = |handle: &Arc<VolumeHandle>| handle.config.borrow().volume.labels.get(SOURCE_ID_LABEL) == Some(&id);
        self.catalog.all().iter().filter(|handle| is(handle)).map(|handle| handle.name()).collect()
    }
}

/// The other node of this site that is to hold the clone and holds the source, where this one is not to hold the clone.
fn maker_of_clone<'a>(
    wanted: &'a [api::MemberSpec],
    source: &Configuration,
    site: &str,
    node: &str,
) -> Option<&'a str> {
    let own: Vec<&str> = wanted.iter().filter(|spec| spec.site == site).map(|spec| spec.node.as_str()).collect();
    // A site that only has a name leaves the node to whoever makes it.
    if own.iter().any(|wanted| wanted.is_empty() || *wanted == node) {
        return None;
    }
    let held = holders(source);
    own.into_iter().find(|wanted| held.contains(&format!("{site}/{wanted}")))
}

/// Members, policy and block size as a source has them. The first member's site is the first primary's: where the source
/// was led, so that the clone can be attached there at once.
fn lay_out_like(request: &mut api::CreateVolumeRequest, like: &Configuration) {
    // A vote that an observer has for a while is another's.
    let votes = |id: MemberId| match like.stands_in(id) {
        Some(_) => 0,
        None => like.vote_of(id).or(like.stood_in_for(id).map(|s| &s.lost)).map_or(0, |vote| vote.votes.into()),
    };
    let mut members: Vec<&Member> =
        like.members.iter().filter(|m| !matches!(m.kind, MemberKind::Leaving | MemberKind::Diskless)).collect();
    members.sort_by_key(|m| (m.kind != MemberKind::Data || m.site != like.current.primary_site, m.id));
    let spec = |m: &&Member| api::MemberSpec {
        site: m.site.clone(),
        node: m.node.clone(),
        kind: match m.kind {
            MemberKind::Witness => api::MemberKind::Witness,
            MemberKind::Observer => api::MemberKind::Observer,
            MemberKind::Data | MemberKind::Leaving | MemberKind::Diskless => api::MemberKind::Data,
        }
        .into(),
        votes: votes(m.id),
    };
    request.members = members.iter().map(spec).collect();
    request.block_size_bytes = like.volume.logical_block_bytes;
    let rule = like.volume.rule;
    request.policy.get_or_insert_with(|| api::Policy {
        w: rule.w.into(),
        min_remote: rule.min_remote.into(),
        local_required: rule.local,
        ..policy_view(like)
    });
}

/// The store's part of a clone; blocks.
pub(super) fn clone_in_store(
    shared: &Shared,
    volume: VolumeId,
    size_bytes: u64,
    of: CloneOf,
) -> Result<(), StoreError> {
    match of {
        CloneOf::Snapshot(parent, id) => shared.store.create_clone(volume, size_bytes, parent, id, BASE_SEQ),
        CloneOf::Pin(parent, pin) => shared.store.create_clone_of_pin(volume, size_bytes, parent, &pin, BASE_SEQ),
    }
}

fn ask_there(what: &str, peer: &PeerName) -> OpError {
    OpError::new(
        OpKind::FailedPrecondition,
        format!("no copy of {what} is on this node, and a clone is made where one is"),
        format!("run it on {peer}"),
    )
}

#[cfg(test)]
mod tests {
    use farshore_core::ids::MemberId;

    use super::*;
    use crate::samples::durable;

    #[test]
    fn a_node_that_is_to_hold_the_clone_and_holds_the_source_makes_it() {
        let mut source = durable().config;
        let (site, node) = (source.members[0].site.clone(), source.members[0].node.clone());
        source.members.push(Member { id: MemberId(9), node: "other".into(), ..source.members[0].clone() });
        let maker = |nodes: &[&str], me: &str| {
            let specs = nodes.iter().map(|node| api::MemberSpec {
                site: site.clone(),
                node: node.to_string(),
                ..Default::default()
            });
            maker_of_clone(&specs.collect::<Vec<_>>(), &source, &site, me).map(str::to_string)
        };
        assert_eq!(maker(&[&node], &node), None);
        assert_eq!(maker(&["other"], &node), Some("other".into()));
        assert_eq!(maker(&["other", &node], &node), None);
        assert_eq!(maker(&[""], &node), None);
        assert_eq!(maker(&[], &node), None);
        assert_eq!(maker(&["third"], &node), None, "it holds nothing to begin with");
    }

    #[test]
    fn every_member_of_a_clone_begins_at_the_same_place_and_it_survives_the_disk() {
        let (a, b) = (first_of_clone(VolumeId(7), durable()), first_of_clone(VolumeId(7), durable()));
        assert_eq!((a.base, &a.history, a.acked), (b.base, &b.history, Seq(1)));
        assert!(a.history.is_ordered() && a.promised >= a.history.last_epoch());
        assert_eq!(Durable::decode(a.encode()), Ok(a));
        assert_ne!(first_of_clone(VolumeId(8), durable()).base, b.base, "another clone's log does not continue it");
    }
}
