//! Messages on a stream: `length u32 little-endian, bytes`, after one byte that names the stream's lane.

use bytes::{BufMut, Bytes, BytesMut};

use super::cutter::{Cutter, MESSAGE_BYTES_MAX, PREFIX_BYTES, TooLong};
use super::queue::message_bytes;

/// Which way a message travels. Control keeps its order; records may overtake each other; bulk has a connection of
/// its own and keeps its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    Control,
    Records,
    Bulk,
}

impl Lane {
    pub const ALL: [Lane; 3] = [Lane::Control, Lane::Records, Lane::Bulk];

    pub(super) fn tag(self) -> u8 {
        match self {
            Lane::Control => 1,
            Lane::Records => 2,
            Lane::Bulk => 3,
        }
    }

    /// The lane that a stream names in its first byte.
    pub(super) fn from_tag(tag: u8) -> Option<Lane> {
        Lane::ALL.into_iter().find(|lane| lane.tag() == tag)
    }
}

/// Why a stream gave no further message.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    #[error(transparent)]
    TooLong(#[from] TooLong),
    #[error("the stream ended inside a message")]
    Truncated,
    #[error(transparent)]
    Read(#[from] quinn::ReadError),
}

/// Appends messages, each behind its length, to what one write hands to quinn. The parts are not copied. Returns how
/// many bytes of messages there are.
pub(super) fn frame(batch: &mut Vec<Vec<Bytes>>, out: &mut Vec<Bytes>) -> usize {
    let mut prefixes = BytesMut::with_capacity(PREFIX_BYTES * batch.len());
    let mut total = 0;
    for message in batch.drain(..) {
        let bytes = message_bytes(&message);
        assert!(bytes <= MESSAGE_BYTES_MAX, "the lane took a message of {bytes} bytes");
        prefixes.put_u32_le(bytes as u32);
        out.push(prefixes.split().freeze());
        out.extend(message.into_iter().filter(|part| !part.is_empty()));
        total += bytes;
    }
    total
}

pub(super) struct FrameReader {
    stream: quinn::RecvStream,
    chunk: Bytes,
    cutter: Cutter,
}

impl FrameReader {
    pub fn new(stream: quinn::RecvStream) -> FrameReader {
        FrameReader { stream, chunk: Bytes::new(), cutter: Cutter::default() }
    }

    /// The bytes in front of the first message. Only before the first [`FrameReader::next`].
    pub async fn header<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let mut header = [0; N];
        match self.stream.read_exact(&mut header).await {
            Ok(()) => Ok(header),
            Err(quinn::ReadExactError::FinishedEarly(_)) => Err(FrameError::Truncated),
            Err(quinn::ReadExactError::ReadError(error)) => Err(error.into()),
        }
    }

    /// The next message; `None` at the stream's end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FrameError> {
        loop {
            if !self.chunk.is_empty()
                && let Some(message) = self.cutter.feed(&mut self.chunk)?
            {
                return Ok(Some(message));
            }
            match self.stream.read_chunk(usize::MAX, true).await? {
                Some(chunk) => self.chunk = chunk.bytes,
                None if self.cutter.is_between_messages() => return Ok(None),
                None => return Err(FrameError::Truncated),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds `wire` in pieces of the given sizes; returns the messages.
    fn cut(wire: &[u8], sizes: &[usize]) -> Result<Vec<Bytes>, TooLong> {
        let mut cutter = Cutter::default();
        let (mut out, mut at) = (Vec::new(), 0);
        for size in sizes.iter().copied().cycle() {
            if at == wire.len() {
                break;
            }
            let mut chunk = Bytes::copy_from_slice(&wire[at..wire.len().min(at + size)]);
            at += chunk.len();
            while !chunk.is_empty() {
                out.extend(cutter.feed(&mut chunk)?);
            }
        }
        assert!(cutter.is_between_messages());
        Ok(out)
    }

    proptest! {
        #[test]
        fn messages_survive_any_chunking(
            messages in proptest::collection::vec(
                proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..4), 0..20),
            sizes in proptest::collection::vec(1usize..70, 1..10),
        ) {
            let mut batch: Vec<Vec<Bytes>> =
                messages.iter().map(|parts| parts.iter().cloned().map(Bytes::from).collect()).collect();
            let mut parts = Vec::new();
            let total = frame(&mut batch, &mut parts);
            let wire = parts.concat();
            prop_assert_eq!(total + PREFIX_BYTES * messages.len(), wire.len());
            let expected: Vec<Bytes> = messages.iter().map(|parts| Bytes::from(parts.concat())).collect();
            prop_assert_eq!(cut(&wire, &sizes).unwrap(), expected);
        }
    }

    /// Version 1: a length in four bytes, little-endian, then the message; lanes are 1, 2 and 3.
    #[test]
    fn golden_bytes_of_version_1() {
        let mut parts = Vec::new();
        frame(&mut vec![vec![Bytes::from_static(b"ab"), Bytes::from_static(b"c")], Vec::new()], &mut parts);
        assert_eq!(parts.concat(), [3, 0, 0, 0, b'a', b'b', b'c', 0, 0, 0, 0]);
        assert_eq!(Lane::ALL.map(Lane::tag), [1, 2, 3]);
    }

    #[test]
    fn tags_name_lanes() {
        for lane in Lane::ALL {
            assert_eq!(Lane::from_tag(lane.tag()), Some(lane));
        }
        assert_eq!(Lane::from_tag(0), None);
        assert_eq!(Lane::from_tag(4), None);
    }
}
