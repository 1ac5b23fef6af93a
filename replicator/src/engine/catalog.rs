//! The volumes of this node, by id and by name.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use farshore_core::ids::VolumeId;

use super::driver::VolumeHandle;

#[derive(Default)]
pub struct Catalog {
    volumes: RwLock<BTreeMap<VolumeId, Arc<VolumeHandle>>>,
}

impl Catalog {
    pub fn get(&self, id: VolumeId) -> Option<Arc<VolumeHandle>> {
        self.volumes.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// By name, or by the 32 hex digits of the id.
    pub fn find(&self, name_or_id: &str) -> Option<Arc<VolumeHandle>> {
        let volumes = self.volumes.read().unwrap_or_else(PoisonError::into_inner);
        if name_or_id.len() == 32
            && let Ok(id) = name_or_id.parse()
            && let Some(found) = volumes.get(&id)
        {
            return Some(found.clone());
        }
        volumes.values().find(|v| v.name() == name_or_id).cloned()
    }

    pub fn all(&self) -> Vec<Arc<VolumeHandle>> {
        self.volumes.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub fn insert(&self, handle: Arc<VolumeHandle>) {
        self.volumes.write().unwrap_or_else(PoisonError::into_inner).insert(handle.id, handle);
    }

    pub fn remove(&self, id: VolumeId) -> Option<Arc<VolumeHandle>> {
        self.volumes.write().unwrap_or_else(PoisonError::into_inner).remove(&id)
    }
}
