//! Sites that an operator keeps from being the primary's, until that is lifted. It is a label of the volume, in the
//! register: whoever wins an epoch has read it from a control quorum. So it holds also in a site that was cut off when it
//! was said: what is won there is given back before anything is written.

use std::sync::Arc;

use farshore_core::api::{Change, Command};
use farshore_core::register::{Configuration, MemberKind};
use farshore_proto::v1 as api;

use super::driver::VolumeHandle;
use super::node::Node;
use super::roles::refused;
use crate::control::OpError;

/// Their names, in order, with a comma between.
pub(super) const FENCED_LABEL: &str = "farshore.fenced-sites";

pub(super) fn fenced_sites(config: &Configuration) -> Vec<String> {
    let named = config.volume.labels.get(FENCED_LABEL).map_or("", String::as_str);
    named.split(',').filter(|site| !site.is_empty()).map(String::from).collect()
}

pub(super) fn refuse_fenced_site(config: &Configuration, site: &str) -> Result<(), OpError> {
    if !fenced_sites(config).iter().any(|fenced| fenced == site) {
        return Ok(());
    }
    let name = &config.volume.name;
    Err(OpError::failed_precondition(
        format!("volume {name}: site {site} is fenced, so it may not be the primary's"),
        format!("if it may again: farshore unfence {site} {name}"),
    ))
}

pub(super) fn fenced_condition(config: &Configuration) -> Option<api::Condition> {
    let sites = fenced_sites(config);
    (!sites.is_empty()).then(|| api::Condition {
        name: "site-fenced".into(),
        text: format!("may not be written in {}: fenced by an operator", sites.join(", ")),
        remedy: format!(
            "when that site may be the primary's again: farshore unfence {} {}",
            sites[0], config.volume.name
        ),
    })
}

impl Node {
    /// Is this site fenced from the volume, as far as is known here?
    pub(super) async fn refuse_fenced(&self, handle: &VolumeHandle) -> Result<(), OpError> {
        match handle.status().await {
            Some(status) => refuse_fenced_site(&status.config, &self.shared.me.site),
            None => Ok(()),
        }
    }

    /// After an epoch was won, with the newest register.
    pub(super) async fn give_back_if_fenced(&self, handle: &VolumeHandle) -> Result<(), OpError> {
        let Err(error) = self.refuse_fenced(handle).await else { return Ok(()) };
        self.settled(handle, Command::Demote).await.map_err(refused(handle))?;
        Err(error)
    }

    /// Answers when the site's device, if it had one, is gone, and nobody can be the primary there.
    pub(super) async fn fence_site(
        self: &Arc<Self>,
        handle: &Arc<VolumeHandle>,
        request: &api::FenceRequest,
    ) -> Result<(), OpError> {
        let config = handle.config.borrow().clone();
        let (name, site, home) = (&config.volume.name, &request.site, &self.shared.me.site);
        if !config.members.iter().any(|m| m.site == *site) {
            let mut sites: Vec<&str> = config.members.iter().map(|m| m.site.as_str()).collect();
            sites.dedup();
            return Err(OpError::invalid(
                format!("volume {name} has no member in site {site}"),
                format!("its sites are {}", sites.join(", ")),
            ));
        }
        if handle.status().await.is_some_and(|status| status.role == "primary") {
            return self.fence_as_holder(handle, request).await;
        }
        let holder = self.holder(handle).await.and_then(|holder| config.member(holder)).filter(|m| m.id != handle.me);
        if let Some(holder) = holder {
            let peer = self.peer_of(handle, holder.id)?;
            let request = api::FenceRequest { volume: handle.id.to_string(), ..request.clone() };
            let asked =
                if self.is_connected(&peer) { Some(self.forward(&peer, "fence-site", &request).await) } else { None };
            match asked {
                Some(Ok(api::FenceResponse { .. })) => return Ok(()),
                Some(Err(error)) if holder.site != *site => return Err(error),
                None if holder.site != *site && holder.site != *home => {
                    return Err(OpError::unavailable(
                        format!("volume {name} is led in {}, which can't be reached from here", holder.site),
                        format!("run it in {}, or in a site that reaches it", holder.site),
                    ));
                }
                Some(Err(error)) => {
                    tracing::warn!(volume = %name, %peer, %error, "taking the volume over to fence its site")
                }
                None => {
                    tracing::warn!(volume = %name, %peer, "not connected: taking the volume over to fence its site")
                }
            }
        }
        if home == site {
            return Err(OpError::unavailable(
                format!("volume {name} has no primary in this site that could fence itself"),
                format!("run it in another site than {site}"),
            ));
        }
        self.take_over(handle, None).await?;
        self.fence_as_holder(handle, request).await
    }

    /// First in the register, then what is here: an attach that comes between finds the one or the other.
    async fn fence_as_holder(
        self: &Arc<Self>,
        handle: &Arc<VolumeHandle>,
        request: &api::FenceRequest,
    ) -> Result<(), OpError> {
        let config = handle.status().await.ok_or_else(|| OpError::internal("the volume stopped"))?.config;
        let (mut sites, site) = (fenced_sites(&config), &request.site);
        sites.retain(|fenced| fenced != site);
        if !request.lift {
            let kept = |other: &str| other != *site && !sites.iter().any(|fenced| fenced == other);
            if !config.members.iter().any(|m| m.kind == MemberKind::Data && kept(&m.site)) {
                return Err(OpError::failed_precondition(
                    format!("volume {} could be written nowhere, were {site} fenced too", config.volume.name),
                    "unfence another site first, or stop its users: farshore demote",
                ));
            }
            sites.push(site.clone());
            sites.sort();
        }
        if sites != fenced_sites(&config) {
            let value = (!sites.is_empty()).then(|| sites.join(","));
            self.change(handle, Change::Label { key: FENCED_LABEL.into(), value }).await?;
            tracing::info!(volume = %handle.name(), %site, lifted = request.lift, "fence of a site changed");
        }
        if request.lift || *site != self.shared.me.site {
            return Ok(());
        }
        self.end_served(handle, true).await?;
        self.attachments.close(handle.id, true).await?;
        let attached = handle.config.borrow().attached;
        if let Some(attached) = attached {
            let end = Command::Detach { session: attached.session };
            self.settled(handle, end).await.map_err(refused(handle))?;
        }
        match handle.status().await.is_some_and(|status| status.role == "primary") {
            true => self.settled(handle, Command::Demote).await.map_err(refused(handle)),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::durable;

    #[test]
    fn a_fenced_site_is_named_with_the_way_out() {
        let mut config = durable().config;
        assert!(refuse_fenced_site(&config, "east").is_ok() && fenced_condition(&config).is_none());
        config.volume.labels.insert(FENCED_LABEL.into(), "east,south".into());
        let error = refuse_fenced_site(&config, "east").expect_err("it is fenced");
        assert!(error.remedy.contains("unfence east"), "{error:?}");
        assert!(refuse_fenced_site(&config, "west").is_ok());
        assert_eq!(
            fenced_condition(&config).expect("it is said").text,
            "may not be written in east, south: fenced by an operator"
        );
    }
}
