//! The values that arguments carry: sizes, durations, places, quorums. Each says what it expects when it can't be read.

use std::str::FromStr;
use std::time::Duration;

use farshore_proto::v1 as api;
use farshore_replicator::config::{ByteSize, nearest};

/// `10GiB`. Sizes of volumes; whether one is acceptable is for the replicator to say.
pub fn size(text: &str) -> Result<u64, String> {
    text.parse::<ByteSize>().map(|size| size.0)
}

/// `4s`, `500ms`, `2min`, `1h`, `7d`; a bare number is refused, since readers would differ on its unit.
pub fn duration(text: &str) -> Result<Duration, String> {
    let expected = || format!("{text:?} is not a duration; write for example 500ms, 4s, 2min, 1h or 7d");
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(expected)?;
    let number: u64 = text[..digits].parse().map_err(|_| expected())?;
    let factor_ms = match &text[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(expected()),
    };
    number.checked_mul(factor_ms).map(Duration::from_millis).ok_or_else(expected)
}

/// `site` or `site/node`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub site: String,
    /// Empty: any, or the only one.
    pub node: String,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (site, node) = match text.split_once('/') {
            Some((site, node)) => (site, Some(node)),
            None => (text, None),
        };
        let good = |name: &str| {
            !name.is_empty()
                && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && !name.starts_with('-')
                && !name.ends_with('-')
        };
        if !good(site) || node.is_some_and(|n| !good(n)) {
            return Err(format!(
                "{text:?} is not a site or site/node; names have a-z, 0-9 and '-', as in east or east/n1"
            ));
        }
        Ok(Place { site: site.into(), node: node.unwrap_or_default().into() })
    }
}

impl Place {
    pub fn spec(&self, kind: api::MemberKind) -> api::MemberSpec {
        api::MemberSpec { site: self.site.clone(), node: self.node.clone(), kind: kind.into(), votes: 0 }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let slash = if self.node.is_empty() { "" } else { "/" };
        write!(f, "{}{slash}{}", self.site, self.node)
    }
}

/// `east=2`: the votes of a member that has more than one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Votes {
    pub place: Place,
    pub votes: u8,
}

impl FromStr for Votes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((place, votes)) = text.split_once('=') else {
            return Err(format!("{text:?} names no votes; write for example east=2"));
        };
        match votes.parse() {
            Ok(votes) if votes > 0 => Ok(Votes { place: place.parse()?, votes }),
            _ => Err(format!("{votes:?} is no number of votes; 1 to 255 can be given, as in east=2")),
        }
    }
}

/// The data quorum: a name, or `w=2,minRemote=1,local`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quorum {
    pub name: String,
    pub w: u32,
    pub min_remote: u32,
    pub local_required: bool,
}

const QUORUM_NAMES: [&str; 4] = ["majority", "nearest-remote", "all-remotes", "all"];
const QUORUM_KEYS: [&str; 3] = ["w", "minRemote", "local"];

impl FromStr for Quorum {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if QUORUM_NAMES.contains(&text) {
            return Ok(Quorum { name: text.into(), w: 0, min_remote: 0, local_required: false });
        }
        if !text.contains('=') && text != "local" {
            let hint = nearest(text, &QUORUM_NAMES).map(|n| format!("did you mean {n}? ")).unwrap_or_default();
            let names = QUORUM_NAMES.join(", ");
            return Err(format!(
                "{text:?} is not a known quorum; {hint}Known: {names}, or numbers: w=2,minRemote=1[,local]"
            ));
        }
        let mut quorum = Quorum { name: "numbers".into(), w: 0, min_remote: 0, local_required: false };
        let mut seen = Vec::new();
        for part in text.split(',') {
            let (key, value) = part.split_once('=').map_or((part, None), |(k, v)| (k, Some(v)));
            let number = || {
                let value = value.unwrap_or_default();
                value.parse::<u32>().map_err(|_| format!("{key}={value} is not a number; write for example {key}=2"))
            };
            match key {
                "w" => quorum.w = number()?,
                "minRemote" => quorum.min_remote = number()?,
                "local" if value.is_none() => quorum.local_required = true,
                "local" => return Err("local takes no value; write w=2,minRemote=1,local".into()),
                _ => {
                    let hint = nearest(key, &QUORUM_KEYS).map(|n| format!("did you mean {n}? ")).unwrap_or_default();
                    return Err(format!(
                        "{key:?} is not a known key of a quorum; {hint}Known: {}",
                        QUORUM_KEYS.join(", ")
                    ));
                }
            }
            if seen.contains(&key) {
                return Err(format!("{key} is given twice"));
            }
            seen.push(key);
        }
        if quorum.w == 0 {
            return Err(
                "w must be 1 or more: the number of replicas that hold a write before it is acknowledged".into()
            );
        }
        Ok(quorum)
    }
}

/// `freeze`, or `fence:30s`. The time is 0 for freeze.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnQuorumLoss {
    pub kind: api::QuorumLoss,
    pub after: Duration,
}

impl FromStr for OnQuorumLoss {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "freeze" => Ok(Self { kind: api::QuorumLoss::Freeze, after: Duration::ZERO }),
            Some(("fence", after)) => Ok(Self { kind: api::QuorumLoss::Fence, after: duration(after)? }),
            _ => Err(format!(
                "{text:?} is not known; use freeze (wait for the quorum) or fence:30s (fail the device after it)"
            )),
        }
    }
}

/// `key=value`.
pub fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.into(), value.into())),
        _ => Err(format!("{text:?} is not a label; write key=value")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("4s"), Ok(Duration::from_secs(4)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2min"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("7d"), Ok(Duration::from_secs(7 * 86_400)));
        for bad in ["", "4", "s", "-4s", "4 s", "4sec", "99999999999999999999s", "18446744073709551615h"] {
            assert!(duration(bad).unwrap_err().contains("write for example"), "{bad}");
        }
    }

    #[test]
    fn votes_are_a_place_and_a_number() {
        let votes: Votes = "east/n1=2".parse().unwrap();
        assert_eq!((votes.place.to_string().as_str(), votes.votes), ("east/n1", 2));
        for bad in ["east", "east=", "east=0", "east=256", "=2", "East=2"] {
            assert!(bad.parse::<Votes>().is_err(), "{bad}");
        }
    }

    #[test]
    fn quorums_are_names_or_numbers() {
        let numbers: Quorum = "w=2,minRemote=1,local".parse().unwrap();
        assert_eq!(
            (numbers.name.as_str(), numbers.w, numbers.min_remote, numbers.local_required),
            ("numbers", 2, 1, true)
        );
        assert_eq!("all-remotes".parse::<Quorum>().unwrap().name, "all-remotes");
        let bad = |text: &str| text.parse::<Quorum>().unwrap_err();
        assert!(bad("majorty").contains("did you mean majority?"));
        assert!(bad("w=2,minRemotes=1").contains("did you mean minRemote? Known: w, minRemote, local"));
        assert!(bad("w=two").contains("w=two is not a number"));
        assert!(bad("minRemote=1").contains("w must be 1 or more"));
        assert!(bad("local").contains("w must be 1 or more"));
        assert!(bad("w=1,w=2").contains("given twice"));
        assert!(bad("w=1,local=yes").contains("takes no value"));
        assert!(bad("w=1,").contains("not a known key"));
    }

    #[test]
    fn places_and_reactions() {
        assert_eq!("east/n1".parse::<Place>().unwrap().to_string(), "east/n1");
        assert_eq!("east".parse::<Place>().unwrap().node, "");
        for bad in ["", "East", "east/", "/n1", "a/b/c", "-a", "a b", "é"] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
        let fence: OnQuorumLoss = "fence:30s".parse().unwrap();
        assert_eq!((fence.kind, fence.after.as_secs()), (api::QuorumLoss::Fence, 30));
        for bad in ["fence", "freeze:3s", "fence:", "stop"] {
            assert!(bad.parse::<OnQuorumLoss>().is_err(), "{bad}");
        }
    }
}
