//! A new life after a failed sync: every replica of the journal gets a new incarnation before it says anything.
//!
//! What such a disk holds may be less than what this node told others, so nothing that was said under the old
//! incarnations may be counted on it any more: not an acknowledgement, not a promise. What it does hold is of use all
//! the same: once a control quorum of the others has readmitted the replica, its log goes on where it ends.

use farshore_core::durable::Durable;
use farshore_core::ids::Incarnation;

use super::clock::random_u128;
use super::node::NodeError;
use crate::journal::{Entry, Journal, RecoveredVolume};

/// Does nothing if no failure was noted. A crash in the middle is harmless: the note is still there, and the next start
/// draws again.
pub async fn renew(journal: &Journal, found: &mut [RecoveredVolume]) -> Result<(), NodeError> {
    let Some(reason) = journal.burnt() else { return Ok(()) };
    let mut renewed = 0;
    for volume in found.iter_mut().filter(|found| !found.meta_damaged) {
        // A state that is missing or does not decode keeps its replica from coming back at all.
        let Some(Ok(durable)) = volume.meta.clone().map(Durable::decode) else { continue };
        let blob = Durable { incarnation: Incarnation(random_u128()), ..durable }.encode();
        let (sender, done) = tokio::sync::oneshot::channel();
        journal.append(
            vec![Entry::Meta { volume: volume.volume, blob: blob.clone() }],
            Box::new(move |result| {
                let _ = sender.send(result);
            }),
        );
        done.await.unwrap_or(Err(crate::journal::JournalError::Closed))?;
        volume.meta = Some(blob);
        renewed += 1;
    }
    tracing::error!(
        reason,
        replicas = renewed,
        "the journal failed when it was last used; its replicas begin a new life, without a vote: see the disk, then \
         readmit them with `farshore member replace`"
    );
    if let Err(error) = journal.reborn() {
        tracing::warn!(%error, "the note of the journal's failure can't be removed; the next start renews once more");
    }
    Ok(())
}
