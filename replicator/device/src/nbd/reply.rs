//! Replies on the wire: simple, or structured where that was negotiated and the command wants it.

use bytes::{BufMut, Bytes, BytesMut};

use super::request::Refusal;
use super::wire;
use crate::Extent;

/// A reply's bytes, in order; data is carried by reference.
pub type Parts = Vec<Bytes>;

/// The longest message beside an error; the protocol's limit for strings is larger.
const MESSAGE_BYTES_MAX: usize = 256;

/// A command done, without data.
pub fn done(cookie: u64) -> Parts {
    vec![simple(cookie, 0)]
}

/// `structured`: whether this command's reply must be structured, which READ and BLOCK_STATUS demand once negotiated.
pub fn refused(cookie: u64, refusal: &Refusal, structured: bool) -> Parts {
    if !structured {
        return vec![simple(cookie, refusal.code)];
    }
    let message = clipped(&refusal.message);
    let mut out = BytesMut::with_capacity(26 + message.len());
    chunk(&mut out, wire::CHUNK_FLAG_DONE, wire::CHUNK_ERROR, cookie, 6 + message.len());
    out.put_u32(refusal.code);
    out.put_u16(message.len() as u16);
    out.put_slice(message.as_bytes());
    vec![out.freeze()]
}

/// A read's data in one chunk, hence never fragmented and right for DF too.
pub fn data(cookie: u64, offset: u64, data: Vec<Bytes>, structured: bool) -> Parts {
    let mut head = BytesMut::with_capacity(28);
    if structured {
        let len: usize = data.iter().map(Bytes::len).sum();
        chunk(&mut head, wire::CHUNK_FLAG_DONE, wire::CHUNK_OFFSET_DATA, cookie, 8 + len);
        head.put_u64(offset);
    } else {
        put_simple(&mut head, cookie, 0);
    }
    let mut parts = Vec::with_capacity(1 + data.len());
    parts.push(head.freeze());
    parts.extend(data);
    parts
}

/// The allocation of a range. Lengths are cut to `length`, as clients expect of us.
pub fn block_status(cookie: u64, length: u32, extents: &[Extent], max: usize) -> Parts {
    let mut left = length;
    let mut descriptors: Vec<(u32, u32)> = Vec::new();
    for extent in extents {
        let part = u32::try_from(extent.length_bytes).unwrap_or(u32::MAX).min(left);
        let state = if extent.allocated { 0 } else { wire::STATE_HOLE | wire::STATE_ZERO };
        if part == 0 {
            continue;
        }
        let full = descriptors.len() == max;
        match descriptors.last_mut() {
            Some((length, last)) if *last == state => *length += part,
            _ if full => break,
            _ => descriptors.push((part, state)),
        }
        left -= part;
    }
    if descriptors.is_empty() {
        // A reply needs one descriptor; "allocated" is always a true answer.
        descriptors.push((length, 0));
    }
    let mut out = BytesMut::with_capacity(24 + descriptors.len() * 8);
    chunk(&mut out, wire::CHUNK_FLAG_DONE, wire::CHUNK_BLOCK_STATUS, cookie, 4 + descriptors.len() * 8);
    out.put_u32(wire::BASE_ALLOCATION_ID);
    for (length, state) in descriptors {
        out.put_u32(length);
        out.put_u32(state);
    }
    vec![out.freeze()]
}

fn simple(cookie: u64, error: u32) -> Bytes {
    let mut out = BytesMut::with_capacity(16);
    put_simple(&mut out, cookie, error);
    out.freeze()
}

fn put_simple(out: &mut BytesMut, cookie: u64, error: u32) {
    out.put_u32(wire::SIMPLE_REPLY_MAGIC);
    out.put_u32(error);
    out.put_u64(cookie);
}

fn chunk(out: &mut BytesMut, flags: u16, kind: u16, cookie: u64, len: usize) {
    out.put_u32(wire::STRUCTURED_REPLY_MAGIC);
    out.put_u16(flags);
    out.put_u16(kind);
    out.put_u64(cookie);
    out.put_u32(len as u32);
}

fn clipped(message: &str) -> &str {
    let mut end = message.len().min(MESSAGE_BYTES_MAX);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    &message[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptors(length: u32, extents: &[Extent], max: usize) -> Vec<(u32, u32)> {
        let bytes = block_status(1, length, extents, max).concat();
        bytes[24..]
            .chunks(8)
            .map(|pair| {
                let word = |at: usize| u32::from_be_bytes([pair[at], pair[at + 1], pair[at + 2], pair[at + 3]]);
                (word(0), word(4))
            })
            .collect()
    }

    #[test]
    fn status_merges_clips_and_stops() {
        let extent = |length_bytes, allocated| Extent { length_bytes, allocated };
        let extents = [extent(4096, true), extent(4096, true), extent(8192, false), extent(1 << 40, true)];
        assert_eq!(descriptors(65536, &extents, 8), [(8192, 0), (8192, 3), (49152, 0)]);
        assert_eq!(descriptors(65536, &extents, 1), [(8192, 0)]);
        assert_eq!(descriptors(65536, &[], 8), [(65536, 0)]);
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let refusal = Refusal { code: wire::EIO, message: "ü".repeat(400) };
        assert_eq!(refused(1, &refusal, true).concat().len(), 20 + 6 + MESSAGE_BYTES_MAX);
    }
}
