//! Ending a session: by the node that has the device, or, where that one can't be reached, by fencing it.

use std::sync::Arc;
use std::time::Duration;

use farshore_core::api::{Change, Command, Promotion};
use farshore_core::register::Attachment;
use farshore_proto::v1 as api;

use super::driver::VolumeHandle;
use super::members::find_member;
use super::node::Node;
use super::roles::{parse_session, refused};
use crate::control::OpError;

/// Patience with the node that has the device, where it would be fenced otherwise.
const NODE_PATIENCE: Duration = Duration::from_secs(5);
/// Patience with a member that is asked for its view.
const VIEW_PATIENCE: Duration = Duration::from_secs(2);

impl Node {
    /// Answers when nothing that the session wrote can still arrive.
    pub(super) async fn detach(
        self: &Arc<Self>,
        handle: &Arc<VolumeHandle>,
        request: &api::DetachVolumeRequest,
    ) -> Result<(), OpError> {
        let named = handle.config.borrow().attached;
        let attached = match named {
            None if request.force => self.attached_anywhere(handle).await?,
            named => named,
        };
        let Some(attached) = attached else { return Ok(()) };
        if !request.session.is_empty() && parse_session(&request.session)? != attached.session {
            return Err(OpError::failed_precondition(
                format!("volume {} is attached for another session", handle.name()),
                "see `farshore volume show` for the session",
            ));
        }
        if attached.member == handle.me {
            self.attachments.close(handle.id, request.force).await?;
            if request.keep_published {
                return Ok(());
            }
            let session = attached.session;
            return self.settled(handle, Command::Detach { session }).await.map_err(refused(handle));
        }
        let peer = self.peer_of(handle, attached.member)?;
        if !request.force {
            let _: api::DetachVolumeResponse = self.forward(&peer, "detach", request).await?;
            return Ok(());
        }
        match self.forward_within::<api::DetachVolumeResponse>(NODE_PATIENCE, &peer, "detach", request).await {
            Ok(_) => Ok(()),
            Err(error) => self.fence(handle, attached, error).await,
        }
    }

    /// Another node of the site takes the epoch, and waits for what the old lease allows; then nobody is named any more.
    async fn fence(
        self: &Arc<Self>,
        handle: &Arc<VolumeHandle>,
        fenced: Attachment,
        why: OpError,
    ) -> Result<(), OpError> {
        let config = handle.config.borrow().clone();
        let (home, here) = (config.site_of(fenced.member).to_string(), &self.shared.me.site);
        if home != *here {
            return Err(OpError::unavailable(
                format!("volume {} is attached in {home}, at a node that does not answer", handle.name()),
                format!(
                    "ask another node of {home} that holds a copy, or take over: `farshore failover --from {home}`"
                ),
            )
            .because(why));
        }
        tracing::warn!(volume = %handle.name(), member = %fenced.member, %why, "its node does not answer: fencing it");
        self.promote_here(handle, Promotion::Takeover).await?;
        // The epoch is ours, and with it the newest register: another session may have been named since, which stays.
        if handle.config.borrow().attached.is_none_or(|attached| attached.session != fenced.session) {
            return Ok(());
        }
        let change = Change::Attached { attached: None };
        self.settled(handle, Command::Change(change)).await.map_err(refused(handle))
    }

    /// What any of so many members says that they can't all have missed an attach.
    async fn attached_anywhere(self: &Arc<Self>, handle: &Arc<VolumeHandle>) -> Result<Option<Attachment>, OpError> {
        let config = handle.config.borrow().clone();
        let mut asked = tokio::task::JoinSet::new();
        for member in config.members.iter().filter(|m| m.id != handle.me) {
            let (node, peer, id) = (self.clone(), self.peer_of(handle, member.id)?, member.id);
            let handle = handle.clone();
            asked.spawn(async move { (id, node.view_at(&handle, &peer, VIEW_PATIENCE).await) });
        }
        let mut heard = vec![handle.me];
        for (id, view) in asked.join_all().await {
            let Ok(Some(view)) = view else { continue };
            heard.push(id);
            if let Some(found) = view.attached {
                let member = find_member(&config, &found.site, &found.node)?.id;
                return Ok(Some(Attachment { member, session: parse_session(&found.session)? }));
            }
        }
        if !config.all_terms().all(|terms| terms.control_quorum(|member, _| heard.contains(&member))) {
            return Err(OpError::unavailable(
                format!("too few members of volume {} answer to know whether it is attached", handle.name()),
                "try again when more of them can be reached",
            ));
        }
        Ok(None)
    }
}
