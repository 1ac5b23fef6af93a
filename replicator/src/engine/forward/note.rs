//! What a node notes of a device that another node serves: after a restart the device is taken up again, whether or not
//! anybody serves it then. One file for each volume; its bytes.

use bytes::Bytes;
use farshore_core::codec::{DecodeError, Reader, Writer};
use farshore_core::ids::{SessionId, VolumeId};
use farshore_proto::v1 as api;

use super::frame::block;
use crate::device::Geometry;
use crate::transport::PeerName;

const MAGIC: u32 = u32::from_le_bytes(*b"FSfn");
const FORMAT: u16 = 1;
const WHAT: &str = "note of a forwarded device";

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
        let mut w = Writer::default();
        w.u32(MAGIC);
        w.u16(FORMAT);
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
        let crc = crc32fast::hash(&w.out);
        w.u32(crc);
        w.finish()
    }

    pub fn decode(mut bytes: Bytes) -> Result<ForwardedNote, DecodeError> {
        if bytes.len() < 4 {
            return Err(DecodeError::Short { what: WHAT, needed: 4, left: bytes.len() });
        }
        let crc = bytes.split_off(bytes.len() - 4);
        let (found, computed) = (u32::from_le_bytes([crc[0], crc[1], crc[2], crc[3]]), crc32fast::hash(&bytes));
        if found != computed {
            return Err(DecodeError::Checksum { what: WHAT, found, computed });
        }
        let mut r = Reader::new(WHAT, bytes);
        if r.u32()? != MAGIC {
            return Err(DecodeError::Invalid { what: WHAT, reason: "it does not begin as one" });
        }
        let format = r.u16()?;
        if format > FORMAT {
            return Err(DecodeError::Newer { what: WHAT, found: format.into(), known: FORMAT.into() });
        }
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
