//! Where the device of a session is that a member serves for another node: the value of a label of the volume, so that it is
//! in the register, on every member.
//!
//! ```text
//! farshore.device-at = 1 session=32HEX node=SITE/NODE
//! ```
//! It means something only beside the session that it names. The label is written before the session is named, and stays
//! behind when it ends.

use farshore_core::codec::DecodeError;
use farshore_core::ids::{MemberId, SessionId};
use farshore_core::register::Configuration;

use crate::engine::exports::session_text;
use crate::transport::PeerName;

pub const DEVICE_LABEL: &str = "farshore.device-at";
const VERSION: u64 = 1;
const WHAT: &str = "place of a device";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub session: SessionId,
    pub node: PeerName,
}

fn invalid(reason: &'static str) -> DecodeError {
    DecodeError::Invalid { what: WHAT, reason }
}

impl Place {
    pub fn encode(&self) -> String {
        format!("{VERSION} session={} node={}", session_text(self.session), self.node)
    }

    /// What it accepts encodes to the same text again.
    pub fn decode(text: &str) -> Result<Place, DecodeError> {
        let mut fields = text.split(' ');
        let version: u64 = fields.next().and_then(|v| v.parse().ok()).ok_or_else(|| invalid("it has no version"))?;
        if version > VERSION {
            return Err(DecodeError::Newer { what: WHAT, found: version, known: VERSION });
        }
        let mut field = |name: &str| {
            let next = fields.next().and_then(|field| field.split_once('='));
            next.filter(|(found, _)| *found == name)
                .map(|(_, value)| value)
                .ok_or_else(|| invalid("a field is missing"))
        };
        let session = u128::from_str_radix(field("session")?, 16).map_err(|_| invalid("its session is no number"))?;
        let (site, node) = field("node")?.split_once('/').ok_or_else(|| invalid("its node is no SITE/NODE"))?;
        let node = PeerName::new(site, node).map_err(|_| invalid("its node is no SITE/NODE"))?;
        let place = Place { session: SessionId(session), node };
        if place.encode() == text { Ok(place) } else { Err(invalid("it is not written as it should be")) }
    }
}

/// Who serves the device that is attached now, and where that device is; `None` where it is at the member itself.
pub fn forwarded_to(config: &Configuration) -> Option<(MemberId, Place)> {
    let attached = config.attached?;
    let place = Place::decode(config.volume.labels.get(DEVICE_LABEL)?);
    place.ok().filter(|place| place.session == attached.session).map(|place| (attached.member, place))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Version 1, as it is in the registers of volumes that are attached now.
    const GOLDEN: &str = "1 session=0000000000000000000000000c0ffee1 node=east/n1";

    #[test]
    fn golden_text_of_version_1() {
        let place = Place { session: SessionId(0x0c0f_fee1), node: PeerName::new("east", "n1").unwrap() };
        assert_eq!(place.encode(), GOLDEN);
        assert_eq!(Place::decode(GOLDEN), Ok(place));
    }

    #[test]
    fn what_is_newer_or_no_place_says_so() {
        let newer = GOLDEN.replacen('1', "2", 1);
        assert!(matches!(Place::decode(&newer), Err(DecodeError::Newer { found: 2, known: 1, .. })));
        for bad in ["", "1", "1 node=east/n1", &GOLDEN.replace("east/", ""), &GOLDEN.replace("c0ffee1", "C0FFEE1")] {
            assert!(Place::decode(bad).is_err(), "{bad}");
        }
        assert!(Place::decode(&format!("{GOLDEN} more=1")).is_err());
    }
}
