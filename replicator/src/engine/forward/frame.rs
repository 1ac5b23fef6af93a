//! What a forwarded device and the member that serves it say to each other, byte by byte.
//!
//! ```text
//!   version u8, kind u8, fields …, CRC-32 of all before it          little-endian
//! ```
//! The length is the transport's. The first frame of a stream is a hello, and its answer a welcome or a refusal; then requests
//! and answers by their cookies, in any order, and a ping now and then.

use bytes::Bytes;
use farshore_core::codec::{DecodeError, Reader, Writer};
use farshore_core::ids::{SessionId, Tick, VolumeId};

use crate::device::remote::Request;
use crate::device::{Geometry, IO_BYTES_MAX, IoError, RANGE_BYTES_MAX};

const VERSION: u8 = 1;
const CRC_BYTES: usize = 4;

/// From the node of the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    Hello {
        volume: VolumeId,
        session: SessionId,
    },
    Io {
        cookie: u64,
        request: Request,
    },
    /// By the asker's clock: the lease is counted from there.
    Ping {
        at: Tick,
    },
}

/// From the member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Say {
    Welcome {
        geometry: Geometry,
    },
    /// Not here, not now; or never again.
    Refused {
        session_is_over: bool,
        why: String,
    },
    Done {
        cookie: u64,
        data: Bytes,
    },
    Failed {
        cookie: u64,
        error: IoError,
    },
    /// `lent_us` is what of the member's lease may be used from `at` on.
    Pong {
        at: Tick,
        lent_us: u64,
        size_bytes: u64,
    },
}

fn begin(kind: u8) -> Writer {
    let mut w = Writer::default();
    w.u8(VERSION);
    w.u8(kind);
    w
}

/// With its checksum, in parts: the payload is not copied.
fn sealed(head: Writer, payload: Bytes) -> Vec<Bytes> {
    let head = head.finish();
    let mut crc = crc32fast::Hasher::new();
    crc.update(&head);
    crc.update(&payload);
    let crc = Bytes::copy_from_slice(&crc.finalize().to_le_bytes());
    vec![head, payload, crc]
}

fn open(what: &'static str, mut bytes: Bytes) -> Result<Reader, DecodeError> {
    if bytes.len() < CRC_BYTES {
        return Err(DecodeError::Short { what, needed: CRC_BYTES, left: bytes.len() });
    }
    let crc = bytes.split_off(bytes.len() - CRC_BYTES);
    let (found, computed) = (u32::from_le_bytes([crc[0], crc[1], crc[2], crc[3]]), crc32fast::hash(&bytes));
    if found != computed {
        return Err(DecodeError::Checksum { what, found, computed });
    }
    let mut r = Reader::new(what, bytes);
    match r.u8()? {
        VERSION => Ok(r),
        0 => Err(r.unknown(0)),
        found => Err(DecodeError::Newer { what, found: found.into(), known: VERSION.into() }),
    }
}

/// A length that the trait allows.
fn length(what: &'static str, r: &mut Reader, limit: u64) -> Result<u32, DecodeError> {
    match r.u32()? {
        found if u64::from(found) > limit => Err(DecodeError::Limit { what, found: found.into(), limit }),
        found => Ok(found),
    }
}

/// All that is left.
fn payload(what: &'static str, r: Reader) -> Result<Bytes, DecodeError> {
    let data = r.rest();
    match data.len() as u64 {
        found if found > IO_BYTES_MAX.into() => Err(DecodeError::Limit { what, found, limit: IO_BYTES_MAX.into() }),
        _ => Ok(data),
    }
}

impl Ask {
    pub fn encode(&self) -> Vec<Bytes> {
        match self {
            Ask::Hello { volume, session } => {
                let mut w = begin(1);
                w.u128(volume.0);
                w.u128(session.0);
                sealed(w, Bytes::new())
            }
            Ask::Io { cookie, request } => encode_request(*cookie, request),
            Ask::Ping { at } => {
                let mut w = begin(7);
                w.u64(at.0);
                sealed(w, Bytes::new())
            }
        }
    }

    pub fn decode(bytes: Bytes) -> Result<Ask, DecodeError> {
        const WHAT: &str = "forwarded request";
        let mut r = open(WHAT, bytes)?;
        let kind = r.u8()?;
        let ask = match kind {
            1 => Ask::Hello { volume: r.volume()?, session: r.session()? },
            7 => Ask::Ping { at: r.tick()? },
            2..=6 => {
                let cookie = r.u64()?;
                let request = match kind {
                    2 => Request::Read { offset: r.u64()?, length: length(WHAT, &mut r, IO_BYTES_MAX.into())? },
                    3 => {
                        let (offset, fua) = (r.u64()?, r.bool()?);
                        let request = Request::Write { offset, data: payload(WHAT, r)?, fua };
                        return Ok(Ask::Io { cookie, request });
                    }
                    4 => Request::Flush,
                    5 => Request::Trim { offset: r.u64()?, length: length(WHAT, &mut r, RANGE_BYTES_MAX)? },
                    _ => Request::Zero {
                        offset: r.u64()?,
                        length: length(WHAT, &mut r, RANGE_BYTES_MAX)?,
                        unmap: r.bool()?,
                        fua: r.bool()?,
                    },
                };
                Ask::Io { cookie, request }
            }
            found => return Err(r.unknown(found.into())),
        };
        r.end()?;
        Ok(ask)
    }
}

/// Of a request that stays where it is.
pub fn encode_request(cookie: u64, request: &Request) -> Vec<Bytes> {
    let headed = |kind: u8| {
        let mut w = begin(kind);
        w.u64(cookie);
        w
    };
    match request {
        Request::Read { offset, length } => {
            let mut w = headed(2);
            w.u64(*offset);
            w.u32(*length);
            sealed(w, Bytes::new())
        }
        Request::Write { offset, data, fua } => {
            let mut w = headed(3);
            w.u64(*offset);
            w.bool(*fua);
            sealed(w, data.clone())
        }
        Request::Flush => sealed(headed(4), Bytes::new()),
        Request::Trim { offset, length } => {
            let mut w = headed(5);
            w.u64(*offset);
            w.u32(*length);
            sealed(w, Bytes::new())
        }
        Request::Zero { offset, length, unmap, fua } => {
            let mut w = headed(6);
            w.u64(*offset);
            w.u32(*length);
            w.bool(*unmap);
            w.bool(*fua);
            sealed(w, Bytes::new())
        }
    }
}

fn put_error(w: &mut Writer, error: &IoError) {
    let (kind, text) = match error {
        IoError::OutOfRange => (1, ""),
        IoError::Misaligned => (2, ""),
        IoError::Fenced(why) => (3, why.as_str()),
        IoError::NoSpace => (4, ""),
        IoError::Corrupt => (5, ""),
        IoError::ReadOnly => (6, ""),
        IoError::Io(why) => (7, why.as_str()),
    };
    w.u8(kind);
    w.string(text);
}

fn get_error(r: &mut Reader) -> Result<IoError, DecodeError> {
    let (kind, text) = (r.u8()?, r.string()?);
    let error = match kind {
        1 => IoError::OutOfRange,
        2 => IoError::Misaligned,
        3 => return Ok(IoError::Fenced(text)),
        4 => IoError::NoSpace,
        5 => IoError::Corrupt,
        6 => IoError::ReadOnly,
        7 => return Ok(IoError::Io(text)),
        found => return Err(r.unknown(found.into())),
    };
    match text.is_empty() {
        true => Ok(error),
        false => Err(DecodeError::Invalid { what: "forwarded answer", reason: "words beside an error that has none" }),
    }
}

impl Say {
    pub fn encode(&self) -> Vec<Bytes> {
        let mut data = Bytes::new();
        let w = match self {
            Say::Welcome { geometry } => {
                let mut w = begin(1);
                w.u64(geometry.size_bytes);
                w.u32(geometry.logical_block_bytes);
                w.bool(geometry.volatile_cache);
                w.bool(geometry.read_only);
                w
            }
            Say::Refused { session_is_over, why } => {
                let mut w = begin(2);
                w.bool(*session_is_over);
                w.string(why);
                w
            }
            Say::Done { cookie, data: found } => {
                let mut w = begin(3);
                w.u64(*cookie);
                data = found.clone();
                w
            }
            Say::Failed { cookie, error } => {
                let mut w = begin(4);
                w.u64(*cookie);
                put_error(&mut w, error);
                w
            }
            Say::Pong { at, lent_us, size_bytes } => {
                let mut w = begin(5);
                w.u64(at.0);
                w.u64(*lent_us);
                w.u64(*size_bytes);
                w
            }
        };
        sealed(w, data)
    }

    pub fn decode(bytes: Bytes) -> Result<Say, DecodeError> {
        const WHAT: &str = "forwarded answer";
        let mut r = open(WHAT, bytes)?;
        let say = match r.u8()? {
            1 => Say::Welcome {
                geometry: Geometry {
                    size_bytes: r.u64()?,
                    logical_block_bytes: block(r.u32()?)?,
                    volatile_cache: r.bool()?,
                    read_only: r.bool()?,
                },
            },
            2 => Say::Refused { session_is_over: r.bool()?, why: r.string()? },
            3 => {
                let cookie = r.u64()?;
                return Ok(Say::Done { cookie, data: payload(WHAT, r)? });
            }
            4 => Say::Failed { cookie: r.u64()?, error: get_error(&mut r)? },
            5 => Say::Pong { at: r.tick()?, lent_us: r.u64()?, size_bytes: r.u64()? },
            found => return Err(r.unknown(found.into())),
        };
        r.end()?;
        Ok(say)
    }
}

/// A device has one of two.
pub fn block(bytes: u32) -> Result<u32, DecodeError> {
    match bytes {
        512 | 4096 => Ok(bytes),
        _ => Err(DecodeError::Invalid { what: "geometry", reason: "a logical block has 512 or 4096 bytes" }),
    }
}

/// In one piece.
#[cfg(test)]
pub fn whole(parts: &[Bytes]) -> Bytes {
    parts.concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_and_what_is_newer_are_told_and_lengths_have_a_bound() {
        let write = Request::Write { offset: 4096, data: vec![0x5a; 4096].into(), fua: true };
        let bytes = whole(&encode_request(7, &write));
        for at in (0..bytes.len()).step_by(13) {
            let mut bad = bytes.to_vec();
            bad[at] ^= 0x10;
            assert!(matches!(Ask::decode(bad.into()), Err(DecodeError::Checksum { .. })), "byte {at}");
        }
        let sealed_again = |at: usize, value: u8| {
            let mut bytes = bytes[..bytes.len() - CRC_BYTES].to_vec();
            bytes[at] = value;
            bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
            Ask::decode(bytes.into()).expect_err("it is refused")
        };
        assert!(matches!(sealed_again(0, 2), DecodeError::Newer { found: 2, known: 1, .. }));
        assert!(matches!(sealed_again(1, 99), DecodeError::Unknown { .. }));
        let long = Request::Read { offset: 0, length: IO_BYTES_MAX + 1 };
        assert!(matches!(Ask::decode(whole(&encode_request(7, &long))), Err(DecodeError::Limit { .. })));
        let data = Bytes::from(vec![0; IO_BYTES_MAX as usize + 1]);
        let long = Say::Done { cookie: 7, data };
        assert!(matches!(Say::decode(whole(&long.encode())), Err(DecodeError::Limit { .. })));
    }
}
