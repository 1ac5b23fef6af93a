//! A client of NBD: its options, and the requests after them.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::{BlockDevice, Geometry, IoError};
use exports::SingleExport;
use negotiate::{Outcome, Security};
use request::{Agreed, Request, judge};
use wire::{Header, REQUEST_BYTES};

#[path = "../../../replicator/device/src/nbd/exports.rs"]
mod exports;
#[path = "../../../replicator/device/src/nbd/negotiate.rs"]
mod negotiate;
#[path = "../../../replicator/device/src/nbd/request.rs"]
mod request;
#[path = "../../../replicator/device/src/nbd/wire.rs"]
mod wire;

/// A device of which only the geometry is asked.
struct Shape(Geometry);

const NEVER: &str = "no request is carried out here";

impl BlockDevice for Shape {
    fn geometry(&self) -> Geometry {
        self.0
    }
    fn read(&self, _: u64, _: u32) -> BoxFuture<'_, Result<Bytes, IoError>> {
        unreachable!("{NEVER}")
    }
    fn write(&self, _: u64, _: Bytes, _: bool) -> BoxFuture<'_, Result<(), IoError>> {
        unreachable!("{NEVER}")
    }
    fn flush(&self) -> BoxFuture<'_, Result<(), IoError>> {
        unreachable!("{NEVER}")
    }
    fn discard(&self, _: u64, _: u64) -> BoxFuture<'_, Result<(), IoError>> {
        unreachable!("{NEVER}")
    }
    fn write_zeroes(&self, _: u64, _: u64, _: bool, _: bool) -> BoxFuture<'_, Result<(), IoError>> {
        unreachable!("{NEVER}")
    }
}

fn geometry(choice: u8) -> Geometry {
    let logical_block_bytes = if choice & 1 == 0 { 4096 } else { 512 };
    let size_bytes = if choice & 2 == 0 { 1 << 30 } else { 1 << 62 };
    Geometry { size_bytes, logical_block_bytes, volatile_cache: choice & 4 != 0, read_only: choice & 8 != 0 }
}

/// First byte: what the server demands and has. Then all that the client ever sends.
pub fn negotiation(data: &[u8]) {
    let Some((&choice, said)) = data.split_first() else { return };
    let security = match choice >> 6 {
        0 | 1 => Security::Open,
        2 => Security::TlsWanted,
        _ => Security::TlsSpoken,
    };
    let exports = SingleExport::new("pg", Arc::new(Shape(geometry(choice))));
    let mut client = tokio::io::join(said, Vec::new());
    let talk = async {
        let flags = negotiate::greet(&mut client).await?;
        negotiate::options(&mut client, &exports, security, flags).await
    };
    // Memory is always ready.
    let outcome = talk.now_or_never().expect("nothing waits for anything");
    match outcome {
        Ok(Outcome::Transmit { device, agreed, .. }) => {
            assert!(security != Security::TlsWanted, "an export was shown before TLS");
            all_requests(client.reader(), &device.geometry(), agreed);
        }
        Ok(Outcome::StartTls) => assert!(security == Security::TlsWanted),
        Ok(Outcome::Left) | Err(_) => {}
    }
}

pub fn negotiation_seeds() -> Vec<Vec<u8>> {
    let option = |option: u32, data: &[u8]| {
        let header = [&wire::OPTION_MAGIC.to_be_bytes()[..], &option.to_be_bytes()].concat();
        [&header[..], &(data.len() as u32).to_be_bytes(), data].concat()
    };
    let info = [&2_u32.to_be_bytes()[..], b"pg", &1_u16.to_be_bytes(), &wire::INFO_NAME.to_be_bytes()].concat();
    let query = [&15_u32.to_be_bytes()[..], b"base:allocation"].concat();
    let contexts = [&2_u32.to_be_bytes()[..], b"pg", &1_u32.to_be_bytes(), &query].concat();
    let structured = option(wire::OPT_STRUCTURED_REPLY, b"");
    let set = option(wire::OPT_SET_META_CONTEXT, &contexts);
    let go = option(wire::OPT_GO, &info);
    let session = |choice: u8, options: &[&[u8]]| [&[choice][..], &3_u32.to_be_bytes(), &options.concat()].concat();
    vec![
        session(0, &[&go, &request_seeds()[0][2..]]),
        session(0, &[&structured, &set, &go, &request_seeds()[0][2..]]),
        session(0, &[&option(wire::OPT_EXPORT_NAME, b"pg"), &request_seeds()[0][2..]]),
        session(0, &[&option(wire::OPT_LIST, b""), &option(wire::OPT_ABORT, b"")]),
        session(0x80, &[&go, &option(wire::OPT_STARTTLS, b"")]),
        session(0, &[&structured, &option(wire::OPT_LIST_META_CONTEXT, &contexts), &option(99, b"x")]),
    ]
}

fn all_requests(bytes: &[u8], geometry: &Geometry, agreed: Agreed) {
    for header in bytes.as_chunks::<REQUEST_BYTES>().0 {
        let Some(header) = Header::decode(header) else { return };
        if header.command == wire::CMD_DISC {
            return;
        }
        let Ok(request) = judge(&header, geometry, agreed) else { continue };
        let (changes, range) = match request {
            Request::Read { offset, length } | Request::BlockStatus { offset, length, .. } => {
                (false, Some((offset, length)))
            }
            Request::Write { offset, length, .. }
            | Request::Trim { offset, length, .. }
            | Request::WriteZeroes { offset, length, .. } => (true, Some((offset, length))),
            Request::Flush | Request::Cache => (false, None),
        };
        assert!(!(changes && geometry.read_only), "a change of a read-only device");
        if let Some((offset, length)) = range {
            assert!(length > 0 && offset + u64::from(length) <= geometry.size_bytes, "{header:?} of {geometry:?}");
        }
    }
}

/// Two bytes: the device, and what was agreed. Then requests, whose magic is always good.
pub fn requests(data: &[u8]) {
    let &[choice, agreed, ref bytes @ ..] = data else { return };
    let agreed = Agreed { structured: agreed & 1 != 0, base_allocation: agreed & 2 != 0 };
    let mut bytes = bytes.to_vec();
    for request in bytes.as_chunks_mut::<REQUEST_BYTES>().0 {
        request[..4].copy_from_slice(&wire::REQUEST_MAGIC.to_be_bytes());
    }
    all_requests(&bytes, &geometry(choice), agreed);
}

pub fn request_seeds() -> Vec<Vec<u8>> {
    let request = |command: u16| {
        let length = if command == wire::CMD_FLUSH { 0 } else { 4096_u32 };
        let head = [&wire::REQUEST_MAGIC.to_be_bytes()[..], &1_u16.to_be_bytes(), &command.to_be_bytes()].concat();
        let offset = u64::from(length);
        [&head[..], &7_u64.to_be_bytes(), &offset.to_be_bytes(), &length.to_be_bytes()].concat()
    };
    let order = [
        wire::CMD_READ,
        wire::CMD_WRITE,
        wire::CMD_FLUSH,
        wire::CMD_TRIM,
        wire::CMD_CACHE,
        wire::CMD_WRITE_ZEROES,
        wire::CMD_BLOCK_STATUS,
    ];
    let all = order.into_iter().flat_map(request);
    vec![[0, 3].into_iter().chain(all).collect()]
}
