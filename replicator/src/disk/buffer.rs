//! Buffers whose first byte lies on a block boundary in memory, as O_DIRECT demands.

use bytes::Bytes;

/// What direct I/O must be aligned to, in memory, in the file and in length.
pub const ALIGN_BYTES: usize = 4096;

/// A fixed-size aligned buffer. It allocates one block more than it needs and begins at the first boundary, which takes
/// no allocator of its own and no unsafe code.
pub struct AlignedBuf {
    raw: Vec<u8>,
    start: usize,
}

impl AlignedBuf {
    pub fn zeroed(len: usize) -> AlignedBuf {
        let mut raw = AlignedBuf::reserve(len);
        let start = raw.len();
        raw.resize(start + len, 0);
        AlignedBuf { raw, start }
    }

    /// An empty vector padded so that the next byte pushed is aligned; `len` more bytes fit without it moving.
    pub fn reserve(len: usize) -> Vec<u8> {
        let mut raw: Vec<u8> = Vec::with_capacity(len + ALIGN_BYTES);
        let start = raw.as_ptr().align_offset(ALIGN_BYTES);
        assert!(start < ALIGN_BYTES, "a byte pointer can always be aligned");
        raw.resize(start, 0);
        raw
    }

    pub fn as_slice(&self) -> &[u8] {
        &self.raw[self.start..]
    }

    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.raw[self.start..]
    }

    pub fn into_bytes(self) -> Bytes {
        let start = self.start;
        Bytes::from(self.raw).slice(start..)
    }
}

pub fn is_aligned(data: &[u8]) -> bool {
    data.as_ptr().addr().is_multiple_of(ALIGN_BYTES) && data.len().is_multiple_of(ALIGN_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_stay_so() {
        for len in [4096, 8192, 1 << 20] {
            assert!(is_aligned(AlignedBuf::zeroed(len).as_slice()));
            let mut raw = AlignedBuf::reserve(len);
            let start = raw.len();
            raw.resize(start + len, 7);
            assert!(is_aligned(&raw[start..]));
        }
    }
}
