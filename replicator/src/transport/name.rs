//! Who a node is: its name, and the SPIFFE id that its certificate carries.
//!
//! A name is an identity, never an address. Where a peer is reached is in [`super::PeerConfig`].

use std::fmt;
use std::str::FromStr;

/// The longest site or node label, as for a DNS label.
pub const LABEL_BYTES_MAX: usize = 63;
/// The longest trust domain, as for a DNS name.
pub const DOMAIN_BYTES_MAX: usize = 253;

/// A node within a site; unique in the trust domain.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerName {
    pub site: String,
    pub node: String,
}

/// Text that is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("`{0}` is not a node name: write it as site/node, for example us-east/node-1")]
    NotAPair(String),
    #[error("`{0}` can't name a site or node: use 1 to 63 of a-z, 0-9 and -")]
    Label(String),
    #[error("`{0}` is not a trust domain: use 1 to 253 of a-z, 0-9, . and -")]
    Domain(String),
    #[error("`{0}` is not a Farshore identity: expected spiffe://<domain>/site/<site>/node/<node>")]
    Spiffe(String),
}

impl PeerName {
    pub fn new(site: &str, node: &str) -> Result<PeerName, NameError> {
        for label in [site, node] {
            if !is_label(label) {
                return Err(NameError::Label(shown(label)));
            }
        }
        Ok(PeerName { site: site.to_owned(), node: node.to_owned() })
    }

    /// The URI that this node's certificate carries in its subject alternative name.
    pub fn spiffe(&self, domain: &str) -> String {
        format!("spiffe://{domain}/site/{}/node/{}", self.site, self.node)
    }
}

/// A node's identity as a certificate states it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpiffeId {
    pub domain: String,
    pub name: PeerName,
}

impl FromStr for SpiffeId {
    type Err = NameError;

    fn from_str(uri: &str) -> Result<SpiffeId, NameError> {
        let refused = || NameError::Spiffe(shown(uri));
        let path = uri.strip_prefix("spiffe://").ok_or_else(refused)?;
        let parts: Vec<&str> = path.split('/').collect();
        let [domain, "site", site, "node", node] = parts[..] else {
            return Err(refused());
        };
        check_domain(domain)?;
        Ok(SpiffeId { domain: domain.to_owned(), name: PeerName::new(site, node)? })
    }
}

/// Refuses what can't be a trust domain.
pub fn check_domain(domain: &str) -> Result<(), NameError> {
    let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'.' || c == b'-';
    if domain.is_empty() || domain.len() > DOMAIN_BYTES_MAX || !domain.bytes().all(allowed) {
        return Err(NameError::Domain(shown(domain)));
    }
    Ok(())
}

fn is_label(label: &str) -> bool {
    let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    (1..=LABEL_BYTES_MAX).contains(&label.len()) && label.bytes().all(allowed)
}

/// Foreign text, made fit for a log line: no control characters, no endless lines.
pub(super) fn shown(text: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 300;
    text.chars().take(SHOWN_CHARS_MAX).map(|c| if c.is_control() { '?' } else { c }).collect()
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.site, self.node)
    }
}

impl fmt::Debug for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PeerName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<PeerName, NameError> {
        let (site, node) = text.split_once('/').ok_or_else(|| NameError::NotAPair(shown(text)))?;
        PeerName::new(site, node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_bad_ones_refused() {
        let name: PeerName = "us-east/node-1".parse().unwrap();
        assert_eq!(name.to_string(), "us-east/node-1");
        for bad in ["us-east", "/n", "s/", "US/n", "s/n/x", "s/n m", "s/é"] {
            assert!(bad.parse::<PeerName>().is_err(), "{bad}");
        }
        assert!(PeerName::new(&"a".repeat(63), "n").is_ok());
        assert!(PeerName::new(&"a".repeat(64), "n").is_err());
    }

    #[test]
    fn spiffe_ids_are_read_back_and_bad_ones_refused() {
        let name = PeerName::new("east", "n1").unwrap();
        let id: SpiffeId = name.spiffe("storage.example").parse().unwrap();
        assert_eq!(id, SpiffeId { domain: "storage.example".into(), name });
        for bad in [
            "https://d/site/a/node/b",
            "spiffe://d/site/a",
            "spiffe:///site/a/node/b",
            "spiffe://d/site/a/node/b/c",
            "spiffe://d/node/a/site/b",
            "spiffe://D/site/a/node/b",
            "spiffe://d/site//node/b",
        ] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad}");
        }
    }
}
