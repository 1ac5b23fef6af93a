//! The API server, asked with the pod's own ServiceAccount.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Event, Namespace, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::VolumeAttachment;
use kube::api::{Api, DeleteParams, ListParams, PostParams, Preconditions};
use kube::{Client, Config, ResourceExt as _};
use tokio::sync::OnceCell;
use tonic::Status;

use crate::names::DRIVER;

/// Its uid tells one cluster from another, also from one that was built anew under the same name.
const NAMESPACE_OF_ALL: &str = "kube-system";

#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    #[error("no way to Kubernetes: {0}; leave --kubernetes out where the driver runs outside of a cluster")]
    NotInAPod(#[from] kube::config::InClusterError),
    #[error("Kubernetes: {what}: {source}")]
    Asked { what: String, source: Box<kube::Error> },
    #[error("an object for Kubernetes could not be written: {0}")]
    Written(#[from] serde_json::Error),
}

fn asked<T>(what: impl Into<String>, answer: kube::Result<T>) -> Result<T, KubernetesError> {
    answer.map_err(|source| KubernetesError::Asked { what: what.into(), source: Box::new(source) })
}

#[derive(Clone)]
pub struct Kubernetes {
    client: Client,
    uid: Arc<OnceCell<String>>,
}

impl Kubernetes {
    pub fn from_pod() -> Result<Kubernetes, KubernetesError> {
        let client = asked("making a client", Client::try_from(Config::incluster()?))?;
        Ok(Kubernetes::with(client))
    }

    pub fn with(client: Client) -> Kubernetes {
        Kubernetes { client, uid: Arc::default() }
    }

    fn claims_in(&self, namespace: &str) -> Api<PersistentVolumeClaim> {
        Api::namespaced(self.client.clone(), namespace)
    }

    fn volumes(&self) -> Api<PersistentVolume> {
        Api::all(self.client.clone())
    }

    /// Of this cluster.
    pub async fn uid(&self) -> Result<&str, KubernetesError> {
        let read = async || {
            let namespaces: Api<Namespace> = Api::all(self.client.clone());
            let namespace = asked("reading namespace kube-system", namespaces.get(NAMESPACE_OF_ALL).await)?;
            Ok(namespace.uid().unwrap_or_default())
        };
        self.uid.get_or_try_init(read).await.map(String::as_str)
    }

    /// The cluster, and the class of a claim, for the labels of the volume that is made for it.
    pub async fn origin(&self, namespace: &str, claim: &str) -> Result<(String, String), Status> {
        let read = async {
            let uid = self.uid().await?.to_string();
            let class = self.claim(namespace, claim).await?.and_then(|claim| claim.spec?.storage_class_name);
            Ok::<_, KubernetesError>((uid, class.unwrap_or_default()))
        };
        read.await.map_err(|error| Status::unavailable(format!("{error}; it is tried again")))
    }

    /// Every PersistentVolume, whoever's driver it is of: names must not be taken twice.
    pub async fn all_volumes(&self) -> Result<Vec<PersistentVolume>, KubernetesError> {
        Ok(asked("listing PersistentVolumes", self.volumes().list(&ListParams::default()).await)?.items)
    }

    /// The PersistentVolumes that are attached to a node, or being attached.
    pub async fn attached(&self) -> Result<BTreeSet<String>, KubernetesError> {
        let attachments: Api<VolumeAttachment> = Api::all(self.client.clone());
        let listed = asked("listing VolumeAttachments", attachments.list(&ListParams::default()).await)?;
        let ours = listed.items.into_iter().filter(|attachment| attachment.spec.attacher == DRIVER);
        Ok(ours.filter_map(|attachment| attachment.spec.source.persistent_volume_name).collect())
    }

    pub async fn claim(&self, namespace: &str, name: &str) -> Result<Option<PersistentVolumeClaim>, KubernetesError> {
        asked(format!("reading claim {namespace}/{name}"), self.claims_in(namespace).get_opt(name).await)
    }

    /// Is it there, and to stay?
    pub async fn has_namespace(&self, name: &str) -> Result<bool, KubernetesError> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let found = asked(format!("reading namespace {name}"), namespaces.get_opt(name).await)?;
        Ok(found.is_some_and(|namespace| namespace.metadata.deletion_timestamp.is_none()))
    }

    /// Whether a pod that has not ended names the claim.
    pub async fn is_used(&self, namespace: &str, claim: &str) -> Result<bool, KubernetesError> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let listed = asked(format!("listing pods of {namespace}"), pods.list(&ListParams::default()).await)?;
        Ok(listed.items.iter().any(|pod| names(pod, claim)))
    }

    /// Done already is done.
    pub async fn make_volume(&self, volume: &PersistentVolume) -> Result<(), KubernetesError> {
        let made = self.volumes().create(&PostParams::default(), volume).await;
        there_is_one(format!("making PersistentVolume {}", volume.name_any()), made)
    }

    pub async fn make_claim(&self, claim: &PersistentVolumeClaim) -> Result<(), KubernetesError> {
        let namespace = claim.namespace().unwrap_or_default();
        let made = self.claims_in(&namespace).create(&PostParams::default(), claim).await;
        there_is_one(format!("making claim {namespace}/{}", claim.name_any()), made)
    }

    /// Only the very one that was looked at.
    pub async fn remove_volume(&self, name: &str, uid: &str) -> Result<(), KubernetesError> {
        let removed = self.volumes().delete(name, &exactly(uid)).await;
        there_is_none(format!("deleting PersistentVolume {name}"), removed)
    }

    pub async fn remove_claim(&self, namespace: &str, name: &str, uid: &str) -> Result<(), KubernetesError> {
        let removed = self.claims_in(namespace).delete(name, &exactly(uid)).await;
        there_is_none(format!("deleting claim {namespace}/{name}"), removed)
    }

    pub async fn tell(&self, event: &Event) -> Result<(), KubernetesError> {
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        let events: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        there_is_one("writing an event", events.create(&PostParams::default(), event).await)
    }
}

fn names(pod: &Pod, claim: &str) -> bool {
    let ended = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let mut claims = volumes.filter_map(|volume| volume.persistent_volume_claim.as_ref());
    !matches!(ended, Some("Succeeded" | "Failed")) && claims.any(|named| named.claim_name == claim)
}

fn exactly(uid: &str) -> DeleteParams {
    let preconditions = Some(Preconditions { uid: Some(uid.into()), resource_version: None });
    DeleteParams { preconditions, ..DeleteParams::default() }
}

fn there_is_one<T>(what: impl Into<String>, made: kube::Result<T>) -> Result<(), KubernetesError> {
    match made {
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        made => asked(what, made).map(drop),
    }
}

fn there_is_none<T>(what: impl Into<String>, removed: kube::Result<T>) -> Result<(), KubernetesError> {
    match removed {
        // Not found, or another one of that name.
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
        removed => asked(what, removed).map(drop),
    }
}

/// Which namespaces are there, each asked for once in a round.
#[derive(Default)]
pub struct Namespaces {
    known: BTreeMap<String, bool>,
}

impl Namespaces {
    pub async fn has(&mut self, kubernetes: &Kubernetes, name: &str) -> Result<bool, KubernetesError> {
        if let Some(known) = self.known.get(name) {
            return Ok(*known);
        }
        let there = kubernetes.has_namespace(name).await?;
        self.known.insert(name.into(), there);
        Ok(there)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_that_has_ended_uses_nothing() {
        let pod = |phase: &str, claim: &str| -> Pod {
            let volumes =
                json!([{"name": "t", "emptyDir": {}}, {"name": "d", "persistentVolumeClaim": {"claimName": claim}}]);
            let pod = json!({"spec": {"containers": [], "volumes": volumes}, "status": {"phase": phase}});
            serde_json::from_value(pod).unwrap()
        };
        for phase in ["Pending", "Running", "Unknown"] {
            assert!(names(&pod(phase, "orders"), "orders"), "{phase}");
            assert!(!names(&pod(phase, "cart"), "orders"), "{phase}");
        }
        for phase in ["Succeeded", "Failed"] {
            assert!(!names(&pod(phase, "orders"), "orders"), "{phase}");
        }
    }
}
