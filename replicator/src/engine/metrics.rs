//! What `/metrics`, `/healthz` and `/readyz` read from the engine.

use std::sync::atomic::Ordering;

use farshore_proto::v1 as api;
use futures_util::future::BoxFuture;

use super::node::Node;
use crate::control::Operations;
use crate::telemetry::{Health, JournalReading, MetricsSource, NodeReading, Readings, StoreReading, VolumeReading};

impl MetricsSource for Node {
    fn readings(&self) -> BoxFuture<'_, Readings> {
        Box::pin(async move {
            let volumes: Vec<api::VolumeStatus> = self.list_volumes().await.unwrap_or_default();
            let journal = self.shared.journal.status();
            let space = self.shared.store.space();
            Readings {
                node: NodeReading {
                    site: self.shared.me.site.clone(),
                    node: self.shared.me.node.clone(),
                    journal: JournalReading {
                        engine: journal.engine.to_string(),
                        used_bytes: journal.used_bytes,
                        budget_bytes: journal.budget_bytes,
                        written_bytes_total: journal.appended_bytes,
                        records_total: journal.records,
                        sync: self.shared.journal.sync_latency(),
                        poisoned: journal.poisoned.is_some(),
                    },
                    store: StoreReading {
                        capacity_bytes: space.capacity_bytes,
                        used_bytes: space.used_bytes,
                        checksum_errors_total: self.shared.repairs.damaged_total.load(Ordering::Relaxed),
                        repaired_blocks_total: self.shared.repairs.repaired_total.load(Ordering::Relaxed),
                        scrubbed_bytes_total: self.scrubs.checked_total.load(Ordering::Relaxed),
                    },
                    resync: self.shared.ship_counts.read(),
                    conditions: self.node_conditions(),
                },
                volumes: volumes.into_iter().map(|status| self.volume_reading(status)).collect(),
                peers: self.peer_views(),
            }
        })
    }

    fn health(&self) -> Health {
        if let Some(reason) = self.shared.journal.status().poisoned {
            return Err(format!("the journal is poisoned: {reason}"));
        }
        match self.shared.store.poisoned() {
            Some(reason) => Err(format!("the store has stopped: {reason}")),
            None => Ok(()),
        }
    }

    fn readiness(&self) -> Health {
        self.health()
    }
}

impl Node {
    /// Of a volume that another node of the site holds, its requests are not known here.
    fn volume_reading(&self, status: api::VolumeStatus) -> VolumeReading {
        let handle = self.catalog.find(&status.name);
        let io = handle.map(|handle| handle.block.counts().read()).unwrap_or_default();
        VolumeReading { status, read: io.read, write: io.write, flush: io.flush, discard: io.discard }
    }
}
