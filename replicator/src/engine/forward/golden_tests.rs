//! The bytes of what a forwarded device and its member say, and of what the device's node notes.

use bytes::Bytes;
use farshore_core::ids::{SessionId, Tick};
use farshore_proto::v1 as api;

use super::frame::{Ask, Say, whole};
use super::note::ForwardedNote;
use crate::device::remote::Request;
use crate::device::{Geometry, IoError};
use crate::engine::golden_tests::hold;
use crate::samples::VOLUME;
use crate::transport::PeerName;

const SESSION: SessionId = SessionId(0x0c0f_fee1);
const GEOMETRY: Geometry =
    Geometry { size_bytes: 8 << 20, logical_block_bytes: 512, volatile_cache: true, read_only: false };

fn asks() -> Vec<(&'static str, Ask)> {
    let io = |request| Ask::Io { cookie: 7, request };
    vec![
        ("hello", Ask::Hello { volume: VOLUME, session: SESSION }),
        ("read", io(Request::Read { offset: 4096, length: 8192 })),
        ("write", io(Request::Write { offset: 4096, data: Bytes::from(vec![0x5a; 32]), fua: true })),
        ("flush", io(Request::Flush)),
        ("trim", io(Request::Trim { offset: 4096, length: 1 << 30 })),
        ("zero", io(Request::Zero { offset: 4096, length: 8192, unmap: true, fua: false })),
        ("ping", Ask::Ping { at: Tick(9_000_000) }),
    ]
}

fn says() -> Vec<(&'static str, Say)> {
    let failed = |error| Say::Failed { cookie: 7, error };
    vec![
        ("welcome", Say::Welcome { geometry: GEOMETRY }),
        ("refused", Say::Refused { session_is_over: true, why: "detached".into() }),
        ("done", Say::Done { cookie: 7, data: Bytes::from(vec![0xa5; 32]) }),
        ("out-of-range", failed(IoError::OutOfRange)),
        ("misaligned", failed(IoError::Misaligned)),
        ("fenced", failed(IoError::Fenced("stopping".into()))),
        ("no-space", failed(IoError::NoSpace)),
        ("corrupt", failed(IoError::Corrupt)),
        ("read-only", failed(IoError::ReadOnly)),
        ("io", failed(IoError::Io("a block is damaged".into()))),
        ("pong", Say::Pong { at: Tick(9_000_000), lent_us: 900_000, size_bytes: 8 << 20 }),
    ]
}

fn note() -> ForwardedNote {
    let server = |node| PeerName::new("east", node).expect("a good name");
    ForwardedNote {
        volume: VOLUME,
        name: "pg".into(),
        session: SESSION,
        kind: api::DeviceKind::Fuse,
        geometry: GEOMETRY,
        servers: vec![server("n2"), server("n3")],
    }
}

#[test]
fn frames() {
    hold("forwarded-asks.txt", &asks(), |ask| whole(&ask.encode()), Ask::decode);
    hold("forwarded-says.txt", &says(), |say| whole(&say.encode()), Say::decode);
}

#[test]
fn notes() {
    hold("forwarded-note.txt", &[("note", note())], ForwardedNote::encode, ForwardedNote::decode);
}
