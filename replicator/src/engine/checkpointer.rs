//! Makes what was applied durable from time to time, so that the journal can let go of it.

use std::sync::Arc;
use std::time::Duration;

use farshore_core::api::Event;
use farshore_core::durable::LogBase;

use super::node::Node;

/// Between two checkpoints. Redo after a crash covers at most what was applied meanwhile.
const INTERVAL: Duration = Duration::from_secs(2);

pub async fn run(node: Arc<Node>) {
    let mut quiet = 0_u64;
    loop {
        tokio::time::sleep(INTERVAL).await;
        let shared = node.shared.clone();
        shared.journal.grow_again();
        let expiring = node.clone();
        let _ = tokio::task::spawn_blocking(move || super::receive::expire(&expiring)).await;
        super::ship::expire(&node).await;
        let before: u64 = shared.store.volumes().iter().map(|v| v.applied_seq.0).sum();
        if before == quiet && !super::receive::is_under_way(&shared) {
            let sweeping = shared.clone();
            if let Ok(Err(error)) = tokio::task::spawn_blocking(move || sweeping.store.sweep_step()).await {
                tracing::error!(%error, "sweep failed");
            }
            continue;
        }
        // What is garbage is swept a page at a time, with each checkpoint: sweeping all of a large deleted volume at once
        // would keep the journal from letting go of anything meanwhile.
        let result = tokio::task::spawn_blocking(move || shared.store.checkpoint()).await;
        match result {
            Ok(Ok(positions)) => {
                quiet = before;
                for (volume, seq) in positions {
                    let Some(handle) = node.volume(volume) else { continue };
                    // A checkpoint that is not told leaves the journal full of what the store has.
                    if let Some(end) = node.shared.journal.end_at(volume, seq) {
                        handle.inbox.event(Event::Checkpointed { base: LogBase { seq, hash: end.hash } });
                    }
                }
            }
            Ok(Err(error)) => tracing::error!(%error, "checkpoint failed"),
            Err(error) => tracing::error!(%error, "checkpoint task ended"),
        }
    }
}
