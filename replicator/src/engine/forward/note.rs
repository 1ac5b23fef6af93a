//! What a node notes of a device that another node serves: after a restart the device is taken up again, whether or not
//! anybody serves it then. One file for each volume; its bytes.

use bytes::Bytes;
use farshore_core::codec::DecodeError;
use farshore_core::ids::{SessionId, VolumeId};
use farshore_core::sealed::Sealed;
use farshore_proto::v1 as api;

use super::frame::block;
use crate::device::Geometry;
use crate::transport::PeerName;

const WHAT: &str = "note of a forwarded device";
const KIND: Sealed = Sealed { magic: b"FSfn", format: 1, what: WHAT };

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardedNote {
    pub volume: VolumeId,
    pub name: String,
    pub session: SessionId,
    pub kind: api::DeviceKind,
    pub geometry: Geometry,
    /// Members of its site that may serve it.
    pub servers: Vec<PeerName>,
}

impl ForwardedNote {
    pub fn encode(&self) -> Bytes {
        KIND.seal(|w| {
            w.u128(self.volume.0);
            w.string(&self.name);
            w.u128(self.session.0);
            w.string(self.kind.as_str_name());
            w.u64(self.geometry.size_bytes);
            w.u32(self.geometry.logical_block_bytes);
            w.bool(self.geometry.volatile_cache);
            w.bool(self.geometry.read_only);
            w.list(&self.servers, |w, peer| {
                w.string(&peer.site);
                w.string(&peer.node);
            });
        })
    }

    pub fn decode(bytes: Bytes) -> Result<ForwardedNote, DecodeError> {
        let mut r = KIND.open(bytes)?;
        let note = ForwardedNote {
            volume: r.volume()?,
            name: r.string()?,
            session: r.session()?,
            kind: api::DeviceKind::from_str_name(&r.string()?)
                .ok_or(DecodeError::Invalid { what: WHAT, reason: "it names no kind of device" })?,
            geometry: Geometry {
                size_bytes: r.u64()?,
                logical_block_bytes: block(r.u32()?)?,
                volatile_cache: r.bool()?,
                read_only: r.bool()?,
            },
            servers: r.list(|r| {
                let (site, node) = (r.string()?, r.string()?);
                PeerName::new(&site, &node)
                    .map_err(|_| DecodeError::Invalid { what: WHAT, reason: "a node's name is none" })
            })?,
        };
        r.end()?;
        Ok(note)
    }
}
