//! Where messages end in a stream of bytes: `length u32 little-endian, bytes`, again and again.
//!
//! A length is checked before anything is allocated, and memory grows with what arrived, not with what was announced.

use bytes::{Bytes, BytesMut};

pub(super) const PREFIX_BYTES: usize = 4;
/// The longest message. Its length is checked against this before anything is allocated.
pub const MESSAGE_BYTES_MAX: usize = 8 << 20;
/// Allocated at once for an announced message: enough for a record of 128 KiB. The rest when so much has arrived.
const FIRST_ALLOCATION_BYTES: usize = 256 << 10;

const _: () = assert!(MESSAGE_BYTES_MAX < u32::MAX as usize);

/// The stream announces more than a message may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message of {bytes} bytes was announced; the limit is {MESSAGE_BYTES_MAX}")]
pub(super) struct TooLong {
    pub bytes: usize,
}

/// Cuts a sequence of chunks into messages. No I/O: fed by `frame`, by `stripe` and by tests.
#[derive(Default)]
pub(super) struct Cutter {
    prefix: [u8; PREFIX_BYTES],
    prefix_filled: usize,
    /// The announced length once the prefix is whole.
    announced: Option<usize>,
    body: BytesMut,
}

impl Cutter {
    /// Takes from the front of `chunk` up to the end of the current message; returns it when it is whole.
    pub fn feed(&mut self, chunk: &mut Bytes) -> Result<Option<Bytes>, TooLong> {
        let announced = match self.announced {
            Some(announced) => announced,
            None => {
                let take = chunk.len().min(PREFIX_BYTES - self.prefix_filled);
                self.prefix[self.prefix_filled..self.prefix_filled + take].copy_from_slice(&chunk.split_to(take));
                self.prefix_filled += take;
                if self.prefix_filled < PREFIX_BYTES {
                    return Ok(None);
                }
                let bytes = u32::from_le_bytes(self.prefix) as usize;
                if bytes > MESSAGE_BYTES_MAX {
                    return Err(TooLong { bytes });
                }
                self.announced = Some(bytes);
                self.body = BytesMut::with_capacity(bytes.min(FIRST_ALLOCATION_BYTES));
                bytes
            }
        };
        let take = chunk.len().min(announced - self.body.len());
        if self.body.len() + take > self.body.capacity() {
            self.body.reserve(announced - self.body.len());
        }
        self.body.extend_from_slice(&chunk.split_to(take));
        if self.body.len() < announced {
            return Ok(None);
        }
        self.announced = None;
        self.prefix_filled = 0;
        Ok(Some(std::mem::take(&mut self.body).freeze()))
    }

    pub fn is_between_messages(&self) -> bool {
        self.announced.is_none() && self.prefix_filled == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announced_length_above_the_limit_is_refused_before_it_is_allocated() {
        let mut cutter = Cutter::default();
        let mut chunk = Bytes::copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(cutter.feed(&mut chunk), Err(TooLong { .. })));
        assert_eq!(cutter.body.capacity(), 0);
        let mut cutter = Cutter::default();
        let mut chunk = Bytes::copy_from_slice(&(MESSAGE_BYTES_MAX as u32).to_le_bytes());
        assert!(cutter.feed(&mut chunk).unwrap().is_none());
        assert!(cutter.body.capacity() <= 2 * FIRST_ALLOCATION_BYTES);
    }
}
