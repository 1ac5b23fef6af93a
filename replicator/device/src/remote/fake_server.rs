//! For tests: a server that does what the test says, request by request.

use std::path::{Path, PathBuf};

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use crate::nbd::wire::{self, Header};

pub struct FakeServer {
    listener: UnixListener,
    pub path: PathBuf,
}

/// A connection after the handshake.
pub struct Conversation(UnixStream);

impl FakeServer {
    /// Replaces what listened there.
    pub fn at(path: &Path) -> FakeServer {
        let _ = std::fs::remove_file(path);
        FakeServer { listener: UnixListener::bind(path).unwrap(), path: path.to_owned() }
    }

    /// The next client, and the export that it asked for.
    async fn greet(&self) -> (UnixStream, String) {
        let (mut stream, _) = self.listener.accept().await.unwrap();
        let mut greeting = BytesMut::new();
        greeting.put_u64(wire::GREETING_MAGIC);
        greeting.put_u64(wire::OPTION_MAGIC);
        greeting.put_u16(wire::FLAG_FIXED_NEWSTYLE | wire::FLAG_NO_ZEROES);
        stream.write_all(&greeting).await.unwrap();
        let mut head = [0; 4 + wire::OPTION_HEADER_BYTES];
        stream.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes(head[16..].try_into().unwrap());
        let mut data = vec![0; length as usize];
        stream.read_exact(&mut data).await.unwrap();
        let name = wire::Fields(&data).text(wire::OPTION_HEADER_BYTES as u32 * 64).unwrap().to_owned();
        (stream, name)
    }

    pub async fn accept(&self, size_bytes: u64) -> (Conversation, String) {
        let (mut stream, name) = self.greet().await;
        let mut export = BytesMut::new();
        export.put_u16(wire::INFO_EXPORT);
        export.put_u64(size_bytes);
        export.put_u16(wire::EXPORT_HAS_FLAGS);
        stream.write_all(&wire::option_reply(wire::OPT_GO, wire::REP_INFO, &export)).await.unwrap();
        stream.write_all(&wire::option_reply(wire::OPT_GO, wire::REP_ACK, b"")).await.unwrap();
        (Conversation(stream), name)
    }

    /// Says that there is no such export.
    pub async fn refuse(&self) {
        let (mut stream, _) = self.greet().await;
        stream.write_all(&wire::option_reply(wire::OPT_GO, wire::REP_ERR_UNKNOWN, b"")).await.unwrap();
    }
}

impl Conversation {
    /// The next request, and the payload of a write.
    pub async fn request(&mut self) -> (Header, Vec<u8>) {
        let mut bytes = [0; wire::REQUEST_BYTES];
        self.0.read_exact(&mut bytes).await.unwrap();
        let header = Header::decode(&bytes).unwrap();
        let length = if header.command == wire::CMD_WRITE { header.length } else { 0 };
        let mut payload = vec![0; length as usize];
        self.0.read_exact(&mut payload).await.unwrap();
        (header, payload)
    }

    pub async fn answer(&mut self, cookie: u64, error: u32, data: &[u8]) {
        let mut out = BytesMut::new();
        out.put_u32(wire::SIMPLE_REPLY_MAGIC);
        out.put_u32(error);
        out.put_u64(cookie);
        out.put_slice(data);
        self.0.write_all(&out).await.unwrap();
    }
}
