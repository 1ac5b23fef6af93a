//! An exported snapshot, byte by byte: all that it stores, or what it has since another one.
//!
//! ```text
//! header   magic "fshexpt1", u16 version, u32 length, that many bytes of description, u32 CRC of all before
//! chunk    u8 1 (data) or 2 (hole), u64 offset, u64 length, the data, u128 digest, u32 CRC of the chunk before it
//! ...      in ascending order, none overlapping another
//! trailer  u8 3, u64 chunks, u64 bytes of data, 32 bytes digest, u32 CRC of the trailer before it
//! ```
//! Little-endian. The CRC finds what a disk or a link did to one chunk. A digest is BLAKE3 over every byte before it,
//! so that a chunk counts only in its place, in its stream; those of chunks are cut to 128 bits. Whatever precedes
//! the first thing that is wrong can be trusted, and an export that was cut is continued from there.

use std::io::{self, Read};

use bytes::Bytes;
use farshore_core::codec::{DecodeError, Reader as Fields, Writer as Layout};
use farshore_core::ids::BLOCK_BYTES;

const MAGIC: [u8; 8] = *b"fshexpt1";
pub const VERSION: u16 = 1;
const DATA: u8 = 1;
const HOLE: u8 = 2;
const TRAILER: u8 = 3;
/// Of the description: names and labels have bounds of their own, far below.
const DESCRIPTION_BYTES_MAX: u32 = 256 << 10;
/// Data of one chunk.
pub const CHUNK_BYTES_MAX: usize = 1 << 20;
/// Kind, offset and length.
const CHUNK_HEAD_BYTES: usize = 17;
/// Digest and CRC.
const CHUNK_TAIL_BYTES: usize = 20;
const TRAILER_BYTES: usize = 1 + 8 + 8 + 32 + 4;

/// What the stream is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    pub volume: String,
    pub volume_id: u128,
    pub snapshot: String,
    pub snapshot_id: u128,
    pub seq: u64,
    /// Of the volume at that moment.
    pub size_bytes: u64,
    pub created_unix_ms: i64,
    pub labels: Vec<(String, String)>,
    /// The snapshot since which the stream tells what changed; without one it holds everything.
    pub base: Option<Base>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    pub snapshot: String,
    pub snapshot_id: u128,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    pub offset: u64,
    pub length: u64,
    /// `None`: a hole, which reads zero.
    pub data: Option<Bytes>,
}

#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("it is no export of Farshore: it begins with other bytes")]
    Foreign,
    #[error("its format is version {0}, and this program knows versions up to {VERSION}")]
    Newer(u16),
    #[error("it is cut: it ends {at}")]
    Cut { at: String },
    #[error("it is damaged {at}: {what}")]
    Damaged { at: String, what: String },
    #[error("it goes on after its end, at byte {0}")]
    Longer(u64),
    #[error("reading it failed at byte {at}: {source}")]
    Io { at: u64, source: io::Error },
}

/// Makes the bytes of a stream, piece by piece.
pub struct ExportWriter {
    digest: blake3::Hasher,
    next_offset: u64,
    chunks: u64,
    data_bytes: u64,
}

impl ExportWriter {
    /// The writer and the header's bytes.
    pub fn begin(description: &Description) -> (ExportWriter, Bytes) {
        let mut layout = Layout::default();
        put_description(&mut layout, description);
        let described = layout.finish();
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend((described.len() as u32).to_le_bytes());
        bytes.extend(&described);
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        let mut digest = blake3::Hasher::new();
        digest.update(&bytes);
        (ExportWriter { digest, next_offset: 0, chunks: 0, data_bytes: 0 }, bytes.into())
    }

    /// Where the next chunk may begin.
    pub fn next_offset(&self) -> u64 {
        self.next_offset
    }

    pub fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    pub fn data(&mut self, offset: u64, data: &[u8]) -> Bytes {
        assert!(!data.is_empty() && data.len() <= CHUNK_BYTES_MAX, "a chunk has a bound");
        self.data_bytes += data.len() as u64;
        self.chunk(DATA, offset, data.len() as u64, data)
    }

    pub fn hole(&mut self, offset: u64, length: u64) -> Bytes {
        self.chunk(HOLE, offset, length, &[])
    }

    fn chunk(&mut self, kind: u8, offset: u64, length: u64, data: &[u8]) -> Bytes {
        assert!(offset >= self.next_offset, "chunks come in order");
        self.next_offset = offset + length;
        self.chunks += 1;
        let mut bytes = Vec::with_capacity(CHUNK_HEAD_BYTES + data.len() + CHUNK_TAIL_BYTES);
        bytes.push(kind);
        bytes.extend(offset.to_le_bytes());
        bytes.extend(length.to_le_bytes());
        bytes.extend(data);
        self.digest.update(&bytes);
        let digest = self.digest.finalize();
        bytes.extend(&digest.as_bytes()[..16]);
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        self.digest.update(&bytes[bytes.len() - CHUNK_TAIL_BYTES..]);
        bytes.into()
    }

    pub fn end(mut self) -> Bytes {
        let mut bytes = vec![TRAILER];
        bytes.extend(self.chunks.to_le_bytes());
        bytes.extend(self.data_bytes.to_le_bytes());
        self.digest.update(&bytes);
        bytes.extend(self.digest.finalize().as_bytes());
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        bytes.into()
    }
}

/// Reads a stream and believes nothing of it that it has not verified.
pub struct ExportReader<R> {
    source: Counted<R>,
    description: Description,
    writer: ExportWriter,
    /// Where the last thing ended that is whole.
    whole_bytes: u64,
    ended: bool,
}

impl<R: Read> ExportReader<R> {
    pub fn begin(source: R) -> Result<ExportReader<R>, ExportError> {
        let mut source = Counted { inner: source, at: 0 };
        let mut bytes = source.take(MAGIC.len() + 2 + 4, "within its header")?;
        if bytes[..8] != MAGIC {
            return Err(ExportError::Foreign);
        }
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if version > VERSION {
            return Err(ExportError::Newer(version));
        }
        let damaged = |what: String| ExportError::Damaged { at: "in its header".into(), what };
        if version == 0 {
            return Err(damaged("version 0".into()));
        }
        let length = u32::from_le_bytes([bytes[10], bytes[11], bytes[12], bytes[13]]);
        if length > DESCRIPTION_BYTES_MAX {
            return Err(damaged(format!("a description of {length} bytes")));
        }
        let described = source.take(length as usize, "within its header")?;
        bytes.extend(&described);
        source.checked(&mut bytes, "in its header")?;
        let description = get_description(Bytes::from(described)).map_err(|error| damaged(error.to_string()))?;
        let mut digest = blake3::Hasher::new();
        digest.update(&bytes);
        let writer = ExportWriter { digest, next_offset: 0, chunks: 0, data_bytes: 0 };
        Ok(ExportReader { whole_bytes: source.at, source, description, writer, ended: false })
    }

    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Up to here the stream is as it was written.
    pub fn whole_bytes(&self) -> u64 {
        self.whole_bytes
    }

    /// The trailer was read, and nothing follows it.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Goes on writing after what was read.
    pub fn into_writer(self) -> ExportWriter {
        self.writer
    }

    /// The next chunk; `None` once everything was read and is right.
    pub fn next_chunk(&mut self) -> Result<Option<Chunk>, ExportError> {
        if self.ended {
            return Ok(None);
        }
        let place = format!(
            "at byte {} (chunk {}, offset {} of the volume)",
            self.source.at, self.writer.chunks, self.writer.next_offset
        );
        let kind = self.source.take(1, &place)?[0];
        match kind {
            DATA | HOLE => self.chunk(kind, &place).map(Some),
            TRAILER => self.trailer(&place).map(|()| None),
            found => Err(ExportError::Damaged { at: place, what: format!("a piece of kind {found}") }),
        }
    }

    fn chunk(&mut self, kind: u8, place: &str) -> Result<Chunk, ExportError> {
        let mut bytes = vec![kind];
        bytes.extend(self.source.take(16, place)?);
        let number = |at: usize| bytes[at..at + 8].iter().rev().fold(0_u64, |n, byte| n << 8 | u64::from(*byte));
        let (offset, length) = (number(1), number(9));
        self.check_range(kind, offset, length).map_err(|what| ExportError::Damaged { at: place.into(), what })?;
        let data = if kind == DATA { Some(Bytes::from(self.source.take(length as usize, place)?)) } else { None };
        bytes.extend(data.iter().flatten());
        self.writer.digest.update(&bytes);
        let digest = self.writer.digest.finalize();
        let begin = bytes.len();
        bytes.extend(self.source.take(16, place)?);
        let same = bytes[begin..] == digest.as_bytes()[..16];
        self.source.checked(&mut bytes, place)?;
        if !same {
            let what = "it does not follow what stands before it".into();
            return Err(ExportError::Damaged { at: place.into(), what });
        }
        self.writer.digest.update(&bytes[begin..]);
        self.writer.next_offset = offset + length;
        self.writer.chunks += 1;
        self.writer.data_bytes += data.as_ref().map_or(0, |data| data.len() as u64);
        self.whole_bytes = self.source.at;
        Ok(Chunk { offset, length, data })
    }

    fn check_range(&self, kind: u8, offset: u64, length: u64) -> Result<(), String> {
        let whole = offset.is_multiple_of(BLOCK_BYTES) && length.is_multiple_of(BLOCK_BYTES) && length > 0;
        if !whole || (kind == DATA && length > CHUNK_BYTES_MAX as u64) {
            return Err(format!("{length} bytes at {offset}"));
        }
        if offset < self.writer.next_offset {
            return Err(format!("offset {offset} comes after {}", self.writer.next_offset));
        }
        match offset.checked_add(length) {
            Some(end) if end <= self.description.size_bytes => Ok(()),
            _ => Err(format!("{length} bytes at {offset} of a volume of {}", self.description.size_bytes)),
        }
    }

    fn trailer(&mut self, place: &str) -> Result<(), ExportError> {
        let mut bytes = vec![TRAILER];
        bytes.extend(self.source.take(TRAILER_BYTES - 1 - 4, place)?);
        self.source.checked(&mut bytes, place)?;
        let mut expected = vec![TRAILER];
        expected.extend(self.writer.chunks.to_le_bytes());
        expected.extend(self.writer.data_bytes.to_le_bytes());
        self.writer.digest.update(&expected);
        expected.extend(self.writer.digest.finalize().as_bytes());
        if bytes[..expected.len()] != expected {
            let what = "its end does not fit to what stands before it".into();
            return Err(ExportError::Damaged { at: place.into(), what });
        }
        let end = self.source.at;
        if self.source.more()? {
            return Err(ExportError::Longer(end));
        }
        self.whole_bytes = end;
        self.ended = true;
        Ok(())
    }
}

struct Counted<R> {
    inner: R,
    at: u64,
}

impl<R: Read> Counted<R> {
    /// Exactly so many bytes. Memory is taken as they come: a length that lies costs nothing.
    fn take(&mut self, len: usize, place: &str) -> Result<Vec<u8>, ExportError> {
        let mut bytes = Vec::new();
        let read = (&mut self.inner).take(len as u64).read_to_end(&mut bytes);
        let found = read.map_err(|source| ExportError::Io { at: self.at, source })?;
        self.at += found as u64;
        if found < len { Err(ExportError::Cut { at: place.into() }) } else { Ok(bytes) }
    }

    /// Reads the CRC that follows these bytes, and adds it to them.
    fn checked(&mut self, bytes: &mut Vec<u8>, place: &str) -> Result<(), ExportError> {
        let computed = crc32fast::hash(bytes).to_le_bytes();
        let found = self.take(4, place)?;
        if found != computed {
            return Err(ExportError::Damaged { at: place.into(), what: "a checksum is wrong".into() });
        }
        bytes.extend(computed);
        Ok(())
    }

    fn more(&mut self) -> Result<bool, ExportError> {
        let mut byte = [0];
        loop {
            match self.inner.read(&mut byte) {
                Ok(found) => return Ok(found > 0),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(ExportError::Io { at: self.at, source }),
            }
        }
    }
}

fn put_description(w: &mut Layout, d: &Description) {
    w.string(&d.volume);
    w.u128(d.volume_id);
    w.string(&d.snapshot);
    w.u128(d.snapshot_id);
    w.u64(d.seq);
    w.u64(d.size_bytes);
    w.u64(d.created_unix_ms as u64);
    w.list(&d.labels, |w, (key, value)| {
        w.string(key);
        w.string(value);
    });
    w.option(d.base.as_ref(), |w, base| {
        w.string(&base.snapshot);
        w.u128(base.snapshot_id);
    });
}

fn get_description(bytes: Bytes) -> Result<Description, DecodeError> {
    let mut r = Fields::new("description of an export", bytes);
    let description = Description {
        volume: r.string()?,
        volume_id: r.u128()?,
        snapshot: r.string()?,
        snapshot_id: r.u128()?,
        seq: r.u64()?,
        size_bytes: r.u64()?,
        created_unix_ms: r.u64()? as i64,
        labels: r.list(|r| Ok((r.string()?, r.string()?)))?,
        base: r.option(|r| Ok(Base { snapshot: r.string()?, snapshot_id: r.u128()? }))?,
    };
    r.end()?;
    Ok(description)
}
