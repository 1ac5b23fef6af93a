//! The volumes that a verb is about: named, or all of a group, with some labels, or whose primary is in a site.

use clap::Args;
use farshore_proto::v1 as api;

use crate::client::Replicator;
use crate::failure::{Exit, Failure};
use crate::values;

/// Volumes with the same value of this label are a group.
const GROUP_LABEL: &str = "group";

#[derive(Debug, Clone, Default, Args)]
pub struct Selection {
    /// Names or ids
    #[arg(value_name = "VOLUME")]
    pub volumes: Vec<String>,
    #[command(flatten)]
    pub which: Which,
}

/// Those of all volumes that this one's site knows; what is given is met by each.
#[derive(Debug, Clone, Default, Args)]
pub struct Which {
    #[command(flatten)]
    pub labels: Labels,
    /// All whose primary is in this site
    #[arg(long, value_name = "SITE", conflicts_with = "volumes")]
    pub site: Option<String>,
}

#[derive(Debug, Clone, Default, Args)]
pub struct Labels {
    /// All that have these labels
    #[arg(long, value_parser = values::label, value_delimiter = ',', value_name = "KEY=VALUE,..", conflicts_with = "volumes")]
    pub selector: Vec<(String, String)>,
    /// All of this group: those whose label "group" says so
    #[arg(long, value_name = "NAME", conflicts_with = "volumes")]
    pub group: Option<String>,
}

impl Which {
    pub fn is_given(&self) -> bool {
        !self.labels.selector.is_empty() || self.labels.group.is_some() || self.site.is_some()
    }

    fn takes(&self, volume: &api::VolumeStatus) -> bool {
        let has = |key: &str, value: &str| volume.labels.get(key).is_some_and(|v| v == value);
        self.labels.selector.iter().all(|(key, value)| has(key, value))
            && self.labels.group.as_ref().is_none_or(|group| has(GROUP_LABEL, group))
            && self.site.as_ref().is_none_or(|site| volume.primary_site == *site)
    }
}

impl std::fmt::Display for Which {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let labels = self.labels.selector.iter().map(|(key, value)| format!("{key}={value}"));
        let group = self.labels.group.iter().map(|group| format!("{GROUP_LABEL}={group}"));
        let labels: Vec<String> = labels.chain(group).collect();
        let site = self.site.as_ref().map(|site| format!("its primary in {site}"));
        let labels = (!labels.is_empty()).then(|| format!("the labels {}", labels.join(", ")));
        f.write_str(&labels.into_iter().chain(site).collect::<Vec<_>>().join(" and "))
    }
}

impl Selection {
    /// The one volume that was named, where it was one: its verb answers with the volume itself.
    pub fn only(&self) -> Option<&str> {
        match self.volumes.as_slice() {
            [volume] => Some(volume),
            _ => None,
        }
    }

    /// In the order given; else by name. Never none.
    pub async fn names(&self, replicator: &Replicator) -> Result<Vec<String>, Failure> {
        if !self.volumes.is_empty() {
            return Ok(self.volumes.clone());
        }
        if !self.which.is_given() {
            return Err(Failure::usage(
                "no volume is named",
                "name volumes, or choose them with --group, --selector or --site",
            ));
        }
        Ok(chosen(replicator, &self.which).await?.into_iter().map(|v| v.name).collect())
    }
}

/// By name. Never none.
pub async fn chosen(replicator: &Replicator, which: &Which) -> Result<Vec<api::VolumeStatus>, Failure> {
    let mut volumes = replicator.volumes().list(api::ListVolumesRequest {}).await?.into_inner().volumes;
    volumes.retain(|volume| which.takes(volume));
    volumes.sort_by(|a, b| a.name.cmp(&b.name));
    if volumes.is_empty() {
        return Err(Failure::new(
            Exit::NotFound,
            format!("no volume here has {which}"),
            "see labels and primaries with: farshore volume list -o yaml",
        ));
    }
    Ok(volumes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(labels: &[(&str, &str)], primary: &str) -> api::VolumeStatus {
        let labels = labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        api::VolumeStatus { labels, primary_site: primary.into(), ..Default::default() }
    }

    #[test]
    fn everything_that_is_given_is_met() {
        let shop = volume(&[("app", "shop"), ("group", "orders")], "east");
        let which = |selector: &[(&str, &str)], group: Option<&str>, site: Option<&str>| Which {
            labels: Labels {
                selector: selector.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
                group: group.map(String::from),
            },
            site: site.map(String::from),
        };
        assert!(which(&[("app", "shop")], None, None).takes(&shop));
        assert!(which(&[("app", "shop")], Some("orders"), Some("east")).takes(&shop));
        assert!(!which(&[("app", "shop"), ("tier", "gold")], None, None).takes(&shop));
        assert!(!which(&[], Some("carts"), None).takes(&shop));
        assert!(!which(&[], Some("orders"), Some("west")).takes(&shop));
        let said = which(&[("app", "shop")], Some("orders"), Some("east")).to_string();
        assert_eq!(said, "the labels app=shop, group=orders and its primary in east");
    }
}
