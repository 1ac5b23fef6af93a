//! Looks at the volumes again and again, and brings the cluster's PersistentVolumes and claims in line with where they are
//! led. Several of these may run at a time: each step names exactly what it saw, and done already is done.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use farshore_proto::v1 as api;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;

use super::decide::{Act, Claimed, Facts, Shown, decide};
use super::identity::{self, Identity};
use super::kubernetes::{Kubernetes, KubernetesError, Namespaces};
use super::objects::{self, FOLLOWED};
use crate::names::DRIVER;
use crate::replicator::Replicator;

/// How often the replicator is asked where its volumes are led.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// How often Kubernetes is asked where nothing has moved.
const REST_INTERVAL: Duration = Duration::from_secs(30);

/// Never returns. In the namespaces named, claims are made too; `*` means all.
pub async fn follow(replicator: Replicator, kubernetes: Kubernetes, claims_in: Vec<String>) {
    let mut seen: Option<BTreeMap<String, String>> = None;
    let mut rest_until = Instant::now();
    let mut failed = BTreeMap::new();
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        // One that is away says nothing of where its volumes are.
        let (Ok(place), Ok(volumes)) = (replicator.place().await, replicator.list().await) else { continue };
        let led: BTreeMap<String, String> = volumes.iter().map(|v| (v.id.clone(), v.primary_site.clone())).collect();
        if seen.as_ref() == Some(&led) && Instant::now() < rest_until {
            continue;
        }
        let round = Round {
            replicator: &replicator,
            kubernetes: &kubernetes,
            site: &place.site,
            volumes,
            claims_in: &claims_in,
        };
        match round.go().await {
            Ok(look) => {
                for (volume, error) in look.failed.iter().filter(|(volume, error)| failed.get(*volume) != Some(*error))
                {
                    tracing::warn!(
                        volume,
                        error,
                        "its PersistentVolume or claim could not be brought in line; it is tried again"
                    );
                }
                // What was just done may make the next step possible; what fails as it did before can wait.
                let again = look.acted || look.failed != failed;
                failed = look.failed;
                (seen, rest_until) = (if again { None } else { Some(led) }, Instant::now() + REST_INTERVAL);
            }
            Err(error) => {
                tracing::warn!(%error, "the PersistentVolumes of this cluster could not be looked at; it is tried again");
                seen = None;
            }
        }
    }
}

/// What came of a look.
#[derive(Debug, Default)]
pub struct Look {
    /// Something was done: another look may find the next step.
    pub acted: bool,
    /// What stands in the way, by volume or PersistentVolume. The others went on.
    pub failed: BTreeMap<String, String>,
}

impl Look {
    fn note(&mut self, of: &str, result: Result<bool, KubernetesError>) {
        match result {
            Ok(acted) => self.acted |= acted,
            Err(error) => drop(self.failed.insert(of.into(), error.to_string())),
        }
    }
}

/// One look.
pub async fn settle(
    replicator: &Replicator,
    kubernetes: &Kubernetes,
    claims_in: &[String],
) -> Result<Look, Box<dyn std::error::Error + Send + Sync>> {
    let (place, volumes) = (replicator.place().await?, replicator.list().await?);
    Ok(Round { replicator, kubernetes, site: &place.site, volumes, claims_in }.go().await?)
}

struct Round<'a> {
    replicator: &'a Replicator,
    kubernetes: &'a Kubernetes,
    site: &'a str,
    volumes: Vec<api::VolumeStatus>,
    claims_in: &'a [String],
}

/// A volume that may have to be shown here, or to be shown no more.
struct Subject<'a> {
    /// `None`: it is deleted.
    volume: Option<&'a api::VolumeStatus>,
    made_here: bool,
    identity: Identity,
    shown: Option<&'a PersistentVolume>,
}

impl Round<'_> {
    /// One bad object stops nobody else's: after a failover there are many volumes, and somebody waits for each.
    async fn go(&self) -> Result<Look, KubernetesError> {
        let mut look = Look::default();
        let cluster = self.kubernetes.uid().await?;
        let known: Vec<(&api::VolumeStatus, Identity)> =
            self.volumes.iter().filter_map(|volume| Some((volume, identity::of(volume)?))).collect();
        let all = self.kubernetes.all_volumes().await?;
        let attached = self.kubernetes.attached().await?;
        let mut subjects = Vec::new();
        for (volume, identity) in known {
            let shown = all.iter().find(|pv| handle(pv) == Some(&volume.id) || pv.name_any() == identity.volume);
            let made_here = identity.cluster == cluster;
            if made_here && !volume.primary_site.is_empty() && volume.primary_site != self.site {
                look.note(&volume.name, self.tell(volume, &identity).await.map(|()| false));
            }
            subjects.push(Subject { volume: Some(volume), made_here, identity, shown });
        }
        for pv in all.iter().filter(|pv| is_ours(pv)) {
            let Some(handle) = handle(pv) else { continue };
            // The list may lack what the volume itself still says.
            if self.volumes.iter().any(|volume| volume.id == *handle) || !self.is_gone(handle).await {
                continue;
            }
            subjects.push(Subject { volume: None, made_here: false, identity: as_shown(pv), shown: Some(pv) });
        }
        let mut namespaces = Namespaces::default();
        for subject in &subjects {
            let of = subject.volume.map_or(&subject.identity.volume, |volume| &volume.name);
            look.note(of, self.settle(subject, &attached, &mut namespaces).await);
        }
        Ok(look)
    }

    async fn is_gone(&self, id: &str) -> bool {
        matches!(self.replicator.find(id).await, Ok(None))
    }

    async fn settle(
        &self,
        subject: &Subject<'_>,
        attached: &BTreeSet<String>,
        namespaces: &mut Namespaces,
    ) -> Result<bool, KubernetesError> {
        let identity = &subject.identity;
        let (namespace, name) = (&identity.namespace, &identity.claim);
        let led_here = subject.volume.is_some_and(|volume| volume.primary_site == self.site);
        let shown = match subject.shown {
            None if !led_here => return Ok(false),
            None => Shown::Nowhere,
            Some(pv) if !is_ours(pv) || pv.metadata.deletion_timestamp.is_some() => Shown::NotByUs,
            Some(pv) => Shown::ByUs { attached: attached.contains(&pv.name_any()), released: is_released(pv) },
        };
        // Nothing comes of what this cluster made itself, so nothing is asked for it.
        let claim = if subject.made_here { None } else { self.kubernetes.claim(namespace, name).await? };
        let named = self.claims_in.iter().any(|wanted| wanted == "*" || wanted == namespace);
        let facts = Facts {
            made_here: subject.made_here,
            led_here,
            shown,
            claimed: self.claimed(claim.as_ref(), subject.shown).await?,
            claims_wanted: named && !subject.made_here && namespaces.has(self.kubernetes, namespace).await?,
        };
        let Some(act) = decide(&facts) else { return Ok(false) };
        self.carry_out(act, subject, claim.as_ref()).await?;
        Ok(true)
    }

    async fn claimed(
        &self,
        claim: Option<&PersistentVolumeClaim>,
        shown: Option<&PersistentVolume>,
    ) -> Result<Claimed, KubernetesError> {
        let Some(claim) = claim else { return Ok(Claimed::Nowhere) };
        if !claim.annotations().contains_key(FOLLOWED) {
            let wants = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
            // One that waits yet may be bound at any moment, for the volume is reserved for it.
            return Ok(Claimed::NotByUs { bound: wants.is_empty() || shown.is_some_and(|pv| pv.name_any() == wants) });
        }
        let (namespace, name) = (claim.namespace().unwrap_or_default(), claim.name_any());
        // On its way out already.
        let going = claim.metadata.deletion_timestamp.is_some();
        Ok(Claimed::ByUs { used: going || self.kubernetes.is_used(&namespace, &name).await? })
    }

    async fn carry_out(
        &self,
        act: Act,
        subject: &Subject<'_>,
        claim: Option<&PersistentVolumeClaim>,
    ) -> Result<(), KubernetesError> {
        let Identity { namespace, claim: name, volume: pv, .. } = &subject.identity;
        match (act, subject.volume, subject.shown, claim) {
            (Act::MakeVolume, Some(volume), _, _) => {
                self.kubernetes.make_volume(&objects::volume(&subject.identity, volume, self.site)?).await?;
                tracing::info!(volume = %volume.name, pv, claim = %format!("{namespace}/{name}"), "PersistentVolume made");
            }
            (Act::MakeClaim, Some(volume), _, _) => {
                self.kubernetes.make_claim(&objects::claim(&subject.identity, volume, self.site)?).await?;
                tracing::info!(volume = %volume.name, claim = %format!("{namespace}/{name}"), "claim made");
            }
            (Act::RemoveVolume, _, Some(shown), _) => {
                let (name, uid) = (shown.name_any(), shown.uid().unwrap_or_default());
                self.kubernetes.remove_volume(&name, &uid).await?;
                tracing::info!(pv = %name, "PersistentVolume removed: the volume is led elsewhere, or its claim is gone");
            }
            (Act::RemoveClaim, _, _, Some(claim)) => {
                self.kubernetes.remove_claim(namespace, name, &claim.uid().unwrap_or_default()).await?;
                tracing::info!(claim = %format!("{namespace}/{name}"), "claim removed: its volume is led elsewhere");
            }
            // Nothing of it was seen.
            _ => {}
        }
        Ok(())
    }

    /// The claim of a volume that this cluster's provisioner made, and that another site has taken over.
    async fn tell(&self, volume: &api::VolumeStatus, identity: &Identity) -> Result<(), KubernetesError> {
        let Some(claim) = self.kubernetes.claim(&identity.namespace, &identity.claim).await? else { return Ok(()) };
        let (name, site, here) = (&volume.name, &volume.primary_site, self.site);
        let message = format!(
            "volume {name} is led in site {site} now: its devices in {here} are fenced, and pods here get I/O errors or no \
             volume. Stop them; to have it back: farshore switchover {name} --to {here}"
        );
        // The epoch changes with each takeover, and so is each one news.
        let news = format!("{site} {}", volume.epoch);
        let event = objects::warning(&claim, "LedInAnotherSite", &news, &message, Timestamp::now())?;
        self.kubernetes.tell(&event).await
    }
}

fn handle(pv: &PersistentVolume) -> Option<&String> {
    let source = pv.spec.as_ref()?.csi.as_ref()?;
    (source.driver == DRIVER).then_some(&source.volume_handle)
}

fn is_ours(pv: &PersistentVolume) -> bool {
    pv.annotations().contains_key(FOLLOWED) && handle(pv).is_some()
}

fn is_released(pv: &PersistentVolume) -> bool {
    pv.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Released")
}

/// Of a volume that is gone: what its PersistentVolume still says.
fn as_shown(pv: &PersistentVolume) -> Identity {
    let reserved = pv.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    Identity {
        namespace: reserved.and_then(|claim| claim.namespace.clone()).unwrap_or_default(),
        claim: reserved.and_then(|claim| claim.name.clone()).unwrap_or_default(),
        volume: pv.name_any(),
        ..Identity::default()
    }
}
