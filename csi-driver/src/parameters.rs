//! What a StorageClass may say, checked word by word: an unknown key is refused with the known ones, a known one that
//! this version can't do is refused by name, and nothing is ever ignored.

use std::collections::BTreeMap;

use farshore_proto::v1 as api;
use tonic::Status;

use crate::names::{KUBERNETES_PREFIX, PLACEMENT_ANY};
use crate::places::is_label;

/// Every key that will ever be understood, in the order of the documentation.
const KNOWN: [&str; 16] = [
    "sites",
    "mode",
    "quorum",
    "witness",
    "durability",
    "reads",
    "onQuorumLoss",
    "rpo",
    "maxCommitLatency",
    "maxLag",
    "fallback",
    "promoteObserver",
    "autoFailover",
    "iops",
    "bandwidth",
    "placement",
];
/// Those that may change during a volume's life, by a VolumeAttributesClass.
const MUTABLE: [&str; 11] = [
    "quorum",
    "durability",
    "onQuorumLoss",
    "mode",
    "rpo",
    "maxCommitLatency",
    "maxLag",
    "fallback",
    "promoteObserver",
    "iops",
    "bandwidth",
];
/// A member has been lost for so long when an observer stands in for it, where no other time is named.
const PROMOTE_OBSERVER_MS: u64 = 30_000;
const QUORUMS: [&str; 4] = ["majority", "nearest-remote", "all-remotes", "all"];
/// What the provisioner adds by itself. The first is taken from the capability; the others become labels.
const FROM_KUBERNETES: [&str; 4] = ["fstype", "pvc/name", "pvc/namespace", "pv/name"];

/// A site, and perhaps the node in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub site: String,
    /// Empty: any.
    pub node: String,
}

/// A StorageClass that makes sense by itself. Whether its sites exist is for who knows them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Parameters {
    /// Where the data is. Empty: this cluster's own site alone.
    pub sites: Vec<Place>,
    pub witnesses: Vec<Place>,
    /// Its pods may run on nodes without a copy.
    pub any_node: bool,
    pub policy: api::Policy,
    /// Whose claim it is.
    pub labels: BTreeMap<String, String>,
}

/// Reads a StorageClass.
pub fn read(given: &BTreeMap<String, String>) -> Result<Parameters, Status> {
    let mut parameters = Parameters::default();
    parameters.policy.quorum = QUORUMS[0].into();
    parameters.policy.set_durability(api::Durability::Write);
    parameters.policy.set_on_quorum_loss(api::QuorumLoss::Freeze);
    for (key, value) in given {
        match key.strip_prefix(KUBERNETES_PREFIX) {
            Some("fstype") => {}
            Some(inner) if FROM_KUBERNETES.contains(&inner) => {
                drop(parameters.labels.insert(key.clone(), value.clone()))
            }
            _ => parameters.take(key, value)?,
        }
    }
    parameters.check_distance()?;
    let data = |place: &Place| parameters.sites.iter().any(|site| site.site == place.site);
    match parameters.witnesses.iter().find(|witness| data(witness)) {
        Some(both) => Err(wrong("witness", &both.site, "a site that holds data has a vote already: name another one")),
        None => Ok(parameters),
    }
}

/// Reads a VolumeAttributesClass: only what may change later.
pub fn read_mutable(given: &BTreeMap<String, String>) -> Result<Parameters, Status> {
    if let Some(fixed) = given.keys().find(|key| KNOWN.contains(&key.as_str()) && !MUTABLE.contains(&key.as_str())) {
        return Err(Status::invalid_argument(format!(
            "parameter {fixed:?} can't be changed after a volume was made; these can: {}",
            MUTABLE.join(", ")
        )));
    }
    if let Some(foreign) = given.keys().find(|key| !KNOWN.contains(&key.as_str())) {
        return Err(unknown(foreign, &MUTABLE));
    }
    read(given)
}

/// The parameters by which a volume's policy is another one than a class asks for.
pub fn differing(is: &api::Policy, wanted: &api::Policy) -> Vec<&'static str> {
    // Only of `numbers` are these the user's own words.
    let numbers = |policy: &api::Policy| match policy.quorum.as_str() {
        "numbers" => (policy.w, policy.min_remote, policy.local_required),
        _ => (0, 0, false),
    };
    // Nothing said means sync.
    let mode = |policy: &api::Policy| match policy.mode() {
        api::Mode::Unspecified => api::Mode::Sync,
        mode => mode,
    };
    let equal = [
        ("quorum", is.quorum == wanted.quorum && numbers(is) == numbers(wanted)),
        ("durability", is.durability() == wanted.durability()),
        ("onQuorumLoss", (is.on_quorum_loss(), is.fence_after_ms) == (wanted.on_quorum_loss(), wanted.fence_after_ms)),
        ("mode", mode(is) == mode(wanted)),
        ("rpo", is.rpo_ms == wanted.rpo_ms),
        ("maxCommitLatency", is.max_commit_latency_ms == wanted.max_commit_latency_ms),
        ("maxLag", is.max_lag_bytes == wanted.max_lag_bytes),
        ("fallback", is.fallback_after_ms == wanted.fallback_after_ms),
        ("promoteObserver", is.promote_observer_after_ms == wanted.promote_observer_after_ms),
        ("iops", is.iops == wanted.iops),
        ("bandwidth", is.bytes_per_second == wanted.bytes_per_second),
    ];
    equal.into_iter().filter(|(_, equal)| !equal).map(|(name, _)| name).collect()
}

impl Parameters {
    fn take(&mut self, key: &str, value: &str) -> Result<(), Status> {
        match key {
            "sites" => self.sites = places(key, value)?,
            "witness" => self.witnesses = places(key, value)?,
            "mode" => self.policy.set_mode(match value {
                "sync" => api::Mode::Sync,
                "async" => api::Mode::Async,
                "adaptive" => api::Mode::Adaptive,
                _ => return Err(wrong(key, value, "use sync, async or adaptive")),
            }),
            "rpo" => self.policy.rpo_ms = limit_ms(key, value)?,
            "maxCommitLatency" => self.policy.max_commit_latency_ms = limit_ms(key, value)?,
            "maxLag" => {
                let good = size_bytes(value).filter(|bytes| *bytes > 0);
                self.policy.max_lag_bytes = good.ok_or_else(|| wrong(key, value, "say for example 64MiB or 1GiB"))?;
            }
            "placement" => {
                self.any_node = match value {
                    "local" => false,
                    PLACEMENT_ANY => true,
                    _ => {
                        let how = "use local (pods run where a copy is) or any (on every node of the site)";
                        return Err(wrong(key, value, how));
                    }
                }
            }
            "reads" => only(key, value, "lease", &["strict"])?,
            "fallback" if value == "never" => self.policy.fallback_after_ms = 0,
            "fallback" => {
                self.policy.fallback_after_ms = after_ms(value)
                    .ok_or_else(|| wrong(key, value, "use never, or after:30s (with those that are left)"))?;
            }
            "promoteObserver" => {
                self.policy.promote_observer_after_ms = match value {
                    "false" => 0,
                    "true" => PROMOTE_OBSERVER_MS,
                    _ => after_ms(value)
                        .ok_or_else(|| wrong(key, value, "use false, true (after 30 s), or after:2min"))?,
                }
            }
            "autoFailover" => only(key, value, "false", &["true"])?,
            "quorum" => self.quorum(value)?,
            "durability" => self.policy.set_durability(match value {
                "write" => api::Durability::Write,
                "flush" => api::Durability::Flush,
                _ => {
                    return Err(wrong(key, value, "use write (every write is safe) or flush (every flushed write is)"));
                }
            }),
            "onQuorumLoss" => self.on_quorum_loss(value)?,
            "iops" => self.policy.iops = limit(key, value, value.parse().ok(), "a number of requests, as in 500")?,
            "bandwidth" => {
                self.policy.bytes_per_second = limit(key, value, bytes(value), "bytes in a second, as in 50Mi")?
            }
            _ if KNOWN.contains(&key) => {
                return Err(Status::invalid_argument(format!(
                    "parameter {key:?} is not supported by this version: leave it out"
                )));
            }
            _ => return Err(unknown(key, &KNOWN)),
        }
        Ok(())
    }

    /// Each limit belongs to one mode, and is named with it.
    fn check_distance(&self) -> Result<(), Status> {
        let policy = &self.policy;
        let limits = [
            ("rpo", policy.rpo_ms, api::Mode::Async, "async"),
            ("maxCommitLatency", policy.max_commit_latency_ms, api::Mode::Adaptive, "adaptive"),
            ("maxLag", policy.max_lag_bytes, api::Mode::Adaptive, "adaptive"),
        ];
        match limits.iter().find(|(_, given, mode, _)| *given > 0 && policy.mode() != *mode) {
            Some((key, _, _, mode)) => Err(Status::invalid_argument(format!(
                "parameter {key:?} belongs to mode {mode}: name that too, or leave {key} out"
            ))),
            None => Ok(()),
        }
    }

    fn quorum(&mut self, value: &str) -> Result<(), Status> {
        if QUORUMS.contains(&value) {
            self.policy.quorum = value.into();
            return Ok(());
        }
        let remedy = format!("use one of {}, or numbers as in w=2,minRemote=1,local", QUORUMS.join(", "));
        let bad = || wrong("quorum", value, &remedy);
        self.policy.quorum = "numbers".into();
        for part in value.split(',') {
            match part.split_once('=') {
                Some(("w", number)) if self.policy.w == 0 => self.policy.w = number.parse().map_err(|_| bad())?,
                Some(("minRemote", number)) => self.policy.min_remote = number.parse().map_err(|_| bad())?,
                None if part == "local" => self.policy.local_required = true,
                _ => return Err(bad()),
            }
        }
        if self.policy.w == 0 { Err(bad()) } else { Ok(()) }
    }

    fn on_quorum_loss(&mut self, value: &str) -> Result<(), Status> {
        let bad = || wrong("onQuorumLoss", value, "use freeze (I/O waits) or fence:30s (the device fails after it)");
        match value.split_once(':') {
            None if value == "freeze" => self.policy.set_on_quorum_loss(api::QuorumLoss::Freeze),
            Some(("fence", after)) => {
                self.policy.fence_after_ms = duration_ms(after).filter(|ms| *ms > 0).ok_or_else(bad)?;
                self.policy.set_on_quorum_loss(api::QuorumLoss::Fence);
            }
            _ => return Err(bad()),
        }
        Ok(())
    }
}

fn limit_ms(key: &str, value: &str) -> Result<u64, Status> {
    let limit = duration_ms(value).filter(|ms| *ms > 0);
    limit.ok_or_else(|| wrong(key, value, "say for example 50ms, 30s, 5min or 1h"))
}

/// `after:30s`
fn after_ms(text: &str) -> Option<u64> {
    let after = text.strip_prefix("after").and_then(|rest| rest.strip_prefix([':', ' ']));
    after.and_then(duration_ms).filter(|ms| *ms > 0)
}

/// `512KiB`, `64MiB`, `1GiB`; Kubernetes leaves the B out.
fn size_bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let shift = match &text[digits..] {
        "Ki" | "KiB" => 10,
        "Mi" | "MiB" => 20,
        "Gi" | "GiB" => 30,
        _ => return None,
    };
    text[..digits].parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// `4s`, `500ms`, `2min`, `1h`.
fn duration_ms(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let factor_ms = match &text[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    text[..digits].parse::<u64>().ok()?.checked_mul(factor_ms)
}

/// `50Mi` as Kubernetes writes it, `50MiB` as Farshore does, or bytes.
fn bytes(text: &str) -> Option<u64> {
    let text = text.strip_suffix('B').unwrap_or(text);
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let factor: u64 = match &text[at..] {
        "" => 1,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        _ => return None,
    };
    text[..at].parse::<u64>().ok()?.checked_mul(factor)
}

/// What a device may be asked for in a second. 0 takes away the limit that a class set; the replicator knows the least.
fn limit(key: &str, value: &str, read: Option<u64>, how: &str) -> Result<u64, Status> {
    read.ok_or_else(|| wrong(key, value, &format!("give {how}, or 0 for no limit")))
}

fn places(key: &str, value: &str) -> Result<Vec<Place>, Status> {
    let mut found: Vec<Place> = Vec::new();
    for text in value.split(',').map(str::trim) {
        let (site, node) = text.split_once('/').unwrap_or((text, ""));
        if !is_label(site) || !(node.is_empty() || is_label(node)) || text.ends_with('/') {
            return Err(wrong(key, value, "name sites as in east,west,north, or nodes as in east/node-1"));
        }
        let place = Place { site: site.into(), node: node.into() };
        let twice = found
            .iter()
            .any(|other| other.site == site && (other.node == node || other.node.is_empty() || node.is_empty()));
        if twice {
            return Err(wrong(key, value, "name each site once, or each of its nodes (site/node) once"));
        }
        found.push(place);
    }
    Ok(found)
}

/// A key of which this version knows one value only.
fn only(key: &str, value: &str, good: &str, later: &[&str]) -> Result<(), Status> {
    if value == good {
        return Ok(());
    }
    let known =
        later.iter().any(|known| value == *known || known.strip_suffix('…').is_some_and(|k| value.starts_with(k)));
    match known {
        true => Err(Status::invalid_argument(format!(
            "parameter {key:?}: {value:?} is not supported by this version: use {good:?}, or leave it out"
        ))),
        false => Err(wrong(key, value, &format!("use {good:?}, or leave it out"))),
    }
}

fn wrong(key: &str, value: &str, remedy: &str) -> Status {
    Status::invalid_argument(format!("parameter {key:?} can't be {value:?}: {remedy}"))
}

fn unknown(key: &str, known: &[&str]) -> Status {
    Status::invalid_argument(format!("parameter {key:?} is not known; the known ones are: {}", known.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    fn of(pairs: &[(&str, &str)]) -> Result<Parameters, Status> {
        read(&pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect())
    }

    #[test]
    fn nothing_said_means_the_defaults() {
        let made = of(&[]).unwrap();
        assert_eq!(made.policy.quorum, "majority");
        assert_eq!(made.policy.durability(), api::Durability::Write);
        assert!(made.sites.is_empty() && made.witnesses.is_empty() && made.labels.is_empty() && !made.any_node);
        assert!(of(&[("placement", "any")]).unwrap().any_node);
    }

    #[test]
    fn a_whole_class_is_read() {
        let made = of(&[
            ("sites", "east/n1, west"),
            ("witness", "north"),
            ("mode", "sync"),
            ("quorum", "w=2,minRemote=1,local"),
            ("durability", "flush"),
            ("onQuorumLoss", "fence:30s"),
            ("iops", "500"),
            ("bandwidth", "50Mi"),
            ("csi.storage.k8s.io/fstype", "xfs"),
            ("csi.storage.k8s.io/pvc/name", "data-pg-0"),
        ])
        .unwrap();
        let names: Vec<_> = made.sites.iter().map(|p| (p.site.as_str(), p.node.as_str())).collect();
        assert_eq!(names, [("east", "n1"), ("west", "")]);
        assert_eq!(made.witnesses[0].site, "north");
        let policy = &made.policy;
        assert_eq!((policy.quorum.as_str(), policy.w, policy.min_remote), ("numbers", 2, 1));
        assert!(policy.local_required);
        assert_eq!((policy.on_quorum_loss(), policy.fence_after_ms), (api::QuorumLoss::Fence, 30_000));
        assert_eq!((policy.iops, policy.bytes_per_second), (500, 50 << 20));
        assert_eq!(made.labels["csi.storage.k8s.io/pvc/name"], "data-pg-0");
        assert_eq!(made.labels.len(), 1);
    }

    #[test]
    fn modes_are_read_with_their_limits() {
        let regional = of(&[("mode", "async"), ("rpo", "1min"), ("fallback", "never")]).unwrap().policy;
        assert_eq!((regional.mode(), regional.rpo_ms, regional.fallback_after_ms), (api::Mode::Async, 60_000, 0));
        let given = [("mode", "adaptive"), ("maxCommitLatency", "50ms"), ("maxLag", "64Mi"), ("fallback", "after 30s")];
        let adaptive = of(&given).unwrap().policy;
        assert_eq!((adaptive.max_commit_latency_ms, adaptive.max_lag_bytes), (50, 64 << 20));
        assert_eq!((adaptive.mode(), adaptive.fallback_after_ms), (api::Mode::Adaptive, 30_000));
        for (value, ms) in [("false", 0), ("true", 30_000), ("after:2min", 120_000)] {
            assert_eq!(of(&[("promoteObserver", value)]).unwrap().policy.promote_observer_after_ms, ms);
        }
        let named =
            |pairs: &[(&str, &str)]| read_mutable(&pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect());
        assert!(named(&given).is_ok());
        assert!(named(&[("rpo", "1min")]).unwrap_err().message().contains("name that too"));
    }

    #[test]
    fn each_bad_one_is_refused_by_name() {
        let cases = [
            ("color", "red", "the known ones are: sites, mode"),
            ("csi.storage.k8s.io/other", "x", "is not known"),
            ("sites", "", "name sites"),
            ("sites", "East", "name sites"),
            ("sites", "east,east", "once"),
            ("sites", "east,east/n1", "once"),
            ("sites", "east/", "name sites"),
            ("mode", "fast", "use sync, async or adaptive"),
            ("reads", "strict", "not supported by this version"),
            ("fallback", "after", "use never"),
            ("fallback", "after:0s", "use never"),
            ("promoteObserver", "maybe", "use false, true (after 30 s)"),
            ("promoteObserver", "after:0s", "use false, true"),
            ("rpo", "5", "say for example"),
            ("rpo", "0s", "say for example"),
            ("rpo", "5s", "belongs to mode async"),
            ("maxCommitLatency", "50ms", "belongs to mode adaptive"),
            ("maxLag", "64MB", "say for example"),
            ("maxLag", "64MiB", "belongs to mode adaptive"),
            ("autoFailover", "true", "not supported by this version"),
            ("iops", "many", "as in 500"),
            ("iops", "-1", "as in 500"),
            ("bandwidth", "fast", "as in 50Mi"),
            ("bandwidth", "50MBit", "as in 50Mi"),
            ("quorum", "most", "use one of majority"),
            ("quorum", "minRemote=1", "use one of majority"),
            ("quorum", "w=two", "use one of majority"),
            ("quorum", "w=1,w=2", "use one of majority"),
            ("durability", "never", "use write"),
            ("onQuorumLoss", "fence", "fence:30s"),
            ("onQuorumLoss", "fence:0s", "fence:30s"),
            ("onQuorumLoss", "fence:30", "fence:30s"),
            ("placement", "everywhere", "use local"),
        ];
        for (key, value, part) in cases {
            let status = of(&[(key, value)]).expect_err(key);
            assert_eq!(status.code(), Code::InvalidArgument, "{key}={value}");
            assert!(status.message().contains(part), "{key}={value}: {}", status.message());
            assert!(status.message().contains(key), "{}", status.message());
        }
        assert!(of(&[("sites", "east,west"), ("witness", "west")]).unwrap_err().message().contains("vote already"));
    }

    #[test]
    fn every_known_key_is_answered_by_name() {
        for key in KNOWN {
            let status = of(&[(key, "\u{1}")]).expect_err(key);
            assert!(status.message().contains(key) && !status.message().contains("is not known"), "{key}: {status}");
        }
    }

    #[test]
    fn bandwidths_are_written_as_sizes_are() {
        for (text, read) in [
            ("0", Some(0)),
            ("1048576", Some(1 << 20)),
            ("50Mi", Some(50 << 20)),
            ("50MiB", Some(50 << 20)),
            ("2G", Some(2_000_000_000)),
            ("", None),
            ("Mi", None),
            ("5Ti ", None),
            ("99999999999Gi", None),
        ] {
            assert_eq!(bytes(text), read, "{text:?}");
        }
    }

    #[test]
    fn few_may_change_later() {
        let of = |key: &str, value: &str| read_mutable(&BTreeMap::from([(key.to_string(), value.to_string())]));
        assert!(of("durability", "flush").is_ok());
        assert!(of("sites", "east").unwrap_err().message().contains("can't be changed"));
        assert!(of("XXX_FakeKey", "1").unwrap_err().message().contains("is not known"));
    }
}
