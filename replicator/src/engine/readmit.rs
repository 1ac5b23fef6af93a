//! Readmission: a member whose replica began a new life (after a failed sync) gets its vote back, and keeps its data.

use bytes::Bytes;
use farshore_core::api::{Change, Status};
use farshore_core::ids::VolumeId;
use farshore_core::register::Member;
use std::time::Duration;

use super::answers::Holding;
use super::create::name_error;
use super::driver::VolumeHandle;
use super::node::Node;
use super::rpc::Call;
use crate::control::{OpError, OpKind};
use crate::transport::PeerName;

const CALL_PATIENCE: Duration = Duration::from_secs(5);

fn holding_of(handle: &VolumeHandle, status: &Status) -> Holding {
    Holding {
        member: handle.me,
        lineage: status.lineage,
        incarnation: status.incarnation,
        failed: status.state == "failed",
    }
}

async fn status_of(handle: &VolumeHandle) -> Result<Status, OpError> {
    let stopping = || OpError::unavailable(format!("volume {} is stopping", handle.name()), "try again");
    handle.status().await.ok_or_else(stopping)
}

/// The answer to [`Call::Holding`].
pub(super) async fn describe(handle: &VolumeHandle) -> Result<Bytes, OpError> {
    Ok(holding_of(handle, &status_of(handle).await?).encode())
}

impl Node {
    /// What another node holds of a volume; `None`: nothing.
    pub(super) async fn holding_at(&self, peer: &PeerName, volume: VolumeId) -> Result<Option<Holding>, OpError> {
        let call = Call::Holding { volume };
        let answer = match self.shared.calls.call(&self.shared.transport, peer, &call, CALL_PATIENCE).await {
            Err(error) if error.kind == OpKind::NotFound => return Ok(None),
            answer => answer?,
        };
        let unread = |e| OpError::internal(format!("the answer of {peer} does not decode")).because(e);
        Holding::decode(answer).map(Some).map_err(unread)
    }

    /// Gives the member its vote back under the incarnation that it has now. False if there is nothing there to go on
    /// with: then the replica is made anew.
    pub(super) async fn readmit_as_it_is(&self, handle: &VolumeHandle, member: &Member) -> Result<bool, OpError> {
        let peer = PeerName::new(&member.site, &member.node).map_err(name_error)?;
        let status = status_of(handle).await?;
        let held = if peer == self.shared.me {
            holding_of(handle, &status)
        } else {
            let call = Call::Holding { volume: handle.id };
            let answer = self.shared.calls.call(&self.shared.transport, &peer, &call, CALL_PATIENCE).await;
            let Ok(Ok(held)) = answer.map(Holding::decode) else { return Ok(false) };
            held
        };
        let counted = status.config.admitted(member.id);
        let same = held.member == member.id && held.lineage == status.lineage;
        if !same || counted == Some(held.incarnation) {
            return Ok(false);
        }
        if held.failed {
            return Err(OpError::failed_precondition(
                format!("the journal of {peer} has failed, and its daemon was not restarted since"),
                "see its disk and restart it, then run the replacement again",
            ));
        }
        self.change(handle, Change::Readmit { member: member.id, incarnation: held.incarnation }).await?;
        tracing::info!(volume = %handle.name(), %peer, incarnation = %held.incarnation, "readmitted with the data that it has");
        Ok(true)
    }
}
