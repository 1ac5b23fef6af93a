//! Checksums for bytes that have none yet: chance never finds one, and what lies behind it is what is to be tried.

use bytes::Bytes;

/// The bytes with their CRC-32 behind them.
pub fn sealed(body: &[u8]) -> Bytes {
    let mut out = body.to_vec();
    out.extend(crc32fast::hash(body).to_le_bytes());
    out.into()
}

/// Puts a good checksum of `bytes[..at]` to `at`.
pub fn seal_at(bytes: &mut [u8], at: usize) {
    let crc = crc32fast::hash(&bytes[..at]);
    bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
}

/// Makes the front of the bytes a record with good magic, version and checksums, whose payload is what follows (as
/// far as `payload_max`). Bytes too short for a header stay as they are.
pub fn seal_record(bytes: &mut [u8], payload_max: usize) {
    use farshore_core::record::{RECORD_HEADER_BYTES, RECORD_MAGIC, RECORD_VERSION};
    if bytes.len() < RECORD_HEADER_BYTES {
        return;
    }
    let payload = (bytes.len() - RECORD_HEADER_BYTES).min(payload_max);
    bytes[..4].copy_from_slice(&RECORD_MAGIC);
    bytes[4..6].copy_from_slice(&RECORD_VERSION.to_le_bytes());
    bytes[128..132].copy_from_slice(&(payload as u32).to_le_bytes());
    let crc = crc32fast::hash(&bytes[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + payload]);
    bytes[132..136].copy_from_slice(&crc.to_le_bytes());
    seal_at(bytes, 140);
}
