//! Whose directory and whose slab this is: `store.super` beside the index, and the header in the slab's first place.
//!
//! ```text
//! store.super   magic "FSST" | version u16 | 0 u16 | store u128 | node u128 | extent bytes u32 | node name | crc u32
//! slab 0..4096  magic "FSSL" | version u16 | 0 u16 | store u128 | extent bytes u32 | zeroes … | crc u32 at 4092
//! ```
//! Little-endian; each CRC-32 covers all bytes before it.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;

use bytes::Bytes;
use farshore_core::codec::{DecodeError, Reader, Writer};

use super::error::StoreError;
use super::extent::{BLOCK_LEN, EXTENT_BYTES};

const SUPER_MAGIC: [u8; 4] = *b"FSST";
const SLAB_MAGIC: [u8; 4] = *b"FSSL";
const SUPER_VERSION: u16 = 1;
const SLAB_VERSION: u16 = 1;
/// A longer file can't be a superblock.
const SUPER_BYTES_MAX: u64 = 4096;
pub(super) const SUPER_FILE: &str = "store.super";

/// The node that a directory belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeIdentity {
    pub name: String,
    pub uuid: u128,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Superblock {
    pub store: u128,
    pub node: NodeIdentity,
}

impl Superblock {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.out.extend_from_slice(&SUPER_MAGIC);
        out.u16(SUPER_VERSION);
        out.u16(0);
        out.u128(self.store);
        out.u128(self.node.uuid);
        out.u32(EXTENT_BYTES as u32);
        out.string(&self.node.name);
        let crc = crc32fast::hash(&out.out);
        out.u32(crc);
        out.out.to_vec()
    }

    pub fn decode(bytes: &[u8]) -> Result<Superblock, DecodeError> {
        const WHAT: &str = "superblock";
        let mut fields = checked(WHAT, bytes, SUPER_MAGIC, SUPER_VERSION)?;
        let (store, node_uuid) = (fields.u128()?, fields.u128()?);
        check_extent_bytes(WHAT, &mut fields)?;
        let name = fields.string()?;
        fields.end()?;
        Ok(Superblock { store, node: NodeIdentity { name, uuid: node_uuid } })
    }

    /// None when there is no such file.
    pub fn read(dir: &Path) -> Result<Option<Superblock>, StoreError> {
        let path = dir.join(SUPER_FILE);
        match fs::metadata(&path) {
            Ok(found) if found.len() > SUPER_BYTES_MAX => {
                let source = DecodeError::Limit { what: "superblock", found: found.len(), limit: SUPER_BYTES_MAX };
                return Err(StoreError::Format { object: path.display().to_string(), source });
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io("read", &path)(error)),
        }
        let bytes = fs::read(&path).map_err(StoreError::io("read", &path))?;
        let found = Superblock::decode(&bytes)
            .map_err(|source| StoreError::Format { object: path.display().to_string(), source })?;
        Ok(Some(found))
    }

    /// Durable when it returns: all of it, or no file at all.
    pub fn create(&self, dir: &Path) -> Result<(), StoreError> {
        let (path, draft) = (dir.join(SUPER_FILE), dir.join("store.super.new"));
        let write = || {
            let mut file = File::create(&draft)?;
            file.write_all(&self.encode())?;
            file.sync_all()?;
            fs::rename(&draft, &path)?;
            File::open(dir)?.sync_all()
        };
        write().map_err(StoreError::io("create", &path))
    }
}

/// The slab's first block, for the store of this id.
pub(super) fn encode_slab_header(store: u128) -> [u8; BLOCK_LEN] {
    let mut out = Writer::default();
    out.out.extend_from_slice(&SLAB_MAGIC);
    out.u16(SLAB_VERSION);
    out.u16(0);
    out.u128(store);
    out.u32(EXTENT_BYTES as u32);
    let mut block = [0; BLOCK_LEN];
    block[..out.out.len()].copy_from_slice(&out.out);
    let crc = crc32fast::hash(&block[..BLOCK_LEN - 4]);
    block[BLOCK_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
    block
}

/// The id of the store that a slab belongs to.
pub(super) fn decode_slab_header(block: &[u8]) -> Result<u128, DecodeError> {
    const WHAT: &str = "slab header";
    let mut fields = checked(WHAT, block, SLAB_MAGIC, SLAB_VERSION)?;
    let store = fields.u128()?;
    check_extent_bytes(WHAT, &mut fields)?;
    Ok(store)
}

/// Magic, version and checksum; what is left are the fields after the version.
fn checked(what: &'static str, bytes: &[u8], magic: [u8; 4], known: u16) -> Result<Reader, DecodeError> {
    let Some((body, crc)) = bytes.split_last_chunk::<4>().filter(|(body, _)| body.len() >= 8) else {
        return Err(DecodeError::Short { what, needed: 12, left: bytes.len() });
    };
    if body[..4] != magic {
        return Err(DecodeError::Invalid { what, reason: "does not begin with its magic" });
    }
    let version = u16::from_le_bytes([body[4], body[5]]);
    if version > known {
        return Err(DecodeError::Newer { what, found: version.into(), known: known.into() });
    }
    let (found, computed) = (u32::from_le_bytes(*crc), crc32fast::hash(body));
    if found != computed {
        return Err(DecodeError::Checksum { what, found, computed });
    }
    Ok(Reader::new(what, Bytes::copy_from_slice(&body[8..])))
}

fn check_extent_bytes(what: &'static str, fields: &mut Reader) -> Result<(), DecodeError> {
    match u64::from(fields.u32()?) {
        EXTENT_BYTES => Ok(()),
        found => Err(DecodeError::Unknown { what, found }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Superblock {
        Superblock { store: 0x11, node: NodeIdentity { name: "us-east/n1".into(), uuid: 0x22 } }
    }

    #[test]
    fn comes_back_and_golden() {
        let bytes = sample().encode();
        assert_eq!(Superblock::decode(&bytes), Ok(sample()));
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, include_str!("golden/superblock_v1.txt").trim());
        let header = encode_slab_header(0x33);
        assert_eq!(decode_slab_header(&header), Ok(0x33));
        let hex: String = header[..28].iter().chain(&header[4092..]).map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, include_str!("golden/slab_header_v1.txt").trim());
    }

    #[test]
    fn any_flipped_bit_or_cut_is_refused() {
        let bytes = sample().encode();
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(Superblock::decode(&bad).is_err(), "byte {at}");
            assert!(Superblock::decode(&bytes[..at]).is_err(), "length {at}");
        }
    }

    #[test]
    fn a_newer_version_is_refused_by_name() {
        let mut bytes = sample().encode();
        bytes[4] = 2;
        let error = Superblock::decode(&bytes).unwrap_err();
        assert!(matches!(error, DecodeError::Newer { found: 2, known: 1, .. }), "{error}");
    }
}
