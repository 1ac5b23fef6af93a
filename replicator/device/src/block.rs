//! The one trait between frontends and volumes, and the errors that may cross it.

use std::ops::Range;

use bytes::Bytes;
use futures_util::future::BoxFuture;

/// What a client must know of a device before it sends requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// A multiple of `logical_block_bytes`. May grow while the device is attached, never shrinks.
    pub size_bytes: u64,
    /// 512 or 4096: offsets and lengths of every request are multiples of it.
    pub logical_block_bytes: u32,
    /// Durability class `flush`: a completed write may be lost until FLUSH or FUA. False in class `write`.
    pub volatile_cache: bool,
    pub read_only: bool,
}

/// A stretch of a device that is wholly allocated or wholly absent (and then reads as zeroes).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub length_bytes: u64,
    pub allocated: bool,
}

/// Why a request failed. Each means "this request was refused" except `Fenced`, which is the end of the device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IoError {
    #[error("the request reaches past the end of the device")]
    OutOfRange,
    #[error("offset or length is not a multiple of the device's logical block")]
    Misaligned,
    /// The device is dead until it is attached anew; no later request succeeds.
    #[error("the device is fenced: {0}; attach the volume anew")]
    Fenced(String),
    #[error("no space is left for this volume on a replica that must store the write; free or add space")]
    NoSpace,
    #[error("the stored bytes fail their checksum and no replica has a good copy")]
    Corrupt,
    #[error("the device is attached read-only")]
    ReadOnly,
    #[error("{0}")]
    Io(String),
}

impl IoError {
    /// The one map to errno.
    pub fn errno(&self) -> i32 {
        match self {
            IoError::OutOfRange | IoError::Misaligned => libc::EINVAL,
            IoError::Fenced(_) => libc::ESHUTDOWN,
            IoError::NoSpace => libc::ENOSPC,
            IoError::ReadOnly => libc::EROFS,
            IoError::Corrupt | IoError::Io(_) => libc::EIO,
        }
    }
}

/// A volume as its clients see it.
///
/// *Order.* Writes, discards and write-zeroes are submitted in the order in which they are called; the implementation may
/// assign its order at the call or at the first poll. Frontends poll every returned future once before they make
/// the next call, and never drop one before it is done, however the client fares.
///
/// *Size.* A call carries at most [`IO_BYTES_MAX`](super::IO_BYTES_MAX) of data or, without data, spans at most
/// [`RANGE_BYTES_MAX`](super::RANGE_BYTES_MAX). A frontend splits longer requests; only single logical blocks are atomic.
///
/// *Validity.* Frontends check range and alignment, yet an implementation answers `OutOfRange` and `Misaligned`
/// by itself rather than trust them.
pub trait BlockDevice: Send + Sync + 'static {
    /// Cheap: asked for every request.
    fn geometry(&self) -> Geometry;

    /// Exactly `len` bytes.
    fn read(&self, offset: u64, len: u32) -> BoxFuture<'_, Result<Bytes, IoError>>;

    /// With `fua` the write is on the data quorum when the future resolves, whatever the durability class.
    fn write(&self, offset: u64, data: Bytes, fua: bool) -> BoxFuture<'_, Result<(), IoError>>;

    /// Every write that completed before the call is on the data quorum when the future resolves.
    fn flush(&self) -> BoxFuture<'_, Result<(), IoError>>;

    /// The client no longer needs the bytes; what a read returns afterwards is zeroes or the old bytes.
    fn discard(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<(), IoError>>;

    /// The range reads as zeroes afterwards. `unmap` permits to free the space, without it the space stays reserved.
    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool, fua: bool) -> BoxFuture<'_, Result<(), IoError>>;

    /// Which parts of the range are allocated, in order, from `offset` on. May stop early, but not before the
    /// first extent. A hint: a device that does not know says "all".
    fn extents(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Vec<Extent>, IoError>> {
        let _ = offset;
        Box::pin(async move { Ok(vec![Extent { length_bytes: len, allocated: true }]) })
    }
}

impl Geometry {
    /// The range of a request, if the device has it and it is whole blocks.
    pub fn check(&self, offset: u64, len: u64) -> Result<Range<u64>, IoError> {
        let block = u64::from(self.logical_block_bytes);
        let end = offset.checked_add(len).ok_or(IoError::OutOfRange)?;
        if end > self.size_bytes {
            return Err(IoError::OutOfRange);
        }
        if !offset.is_multiple_of(block) || !len.is_multiple_of(block) {
            return Err(IoError::Misaligned);
        }
        Ok(offset..end)
    }

    /// As [`check`](Self::check), for requests that change something.
    pub fn check_change(&self, offset: u64, len: u64) -> Result<Range<u64>, IoError> {
        if self.read_only {
            return Err(IoError::ReadOnly);
        }
        self.check(offset, len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GEOMETRY: Geometry =
        Geometry { size_bytes: 1 << 20, logical_block_bytes: 4096, volatile_cache: false, read_only: false };

    #[test]
    fn ranges_are_checked_without_overflow() {
        let cases = [
            (0, 1 << 20, Ok(0..1 << 20)),
            (1 << 20, 0, Ok(1 << 20..1 << 20)),
            (4096, 8192, Ok(4096..12288)),
            ((1 << 20) - 4096, 8192, Err(IoError::OutOfRange)),
            (u64::MAX - 4095, 4096, Err(IoError::OutOfRange)),
            (u64::MAX, u64::MAX, Err(IoError::OutOfRange)),
            (512, 4096, Err(IoError::Misaligned)),
            (4096, 512, Err(IoError::Misaligned)),
        ];
        for (offset, len, expected) in cases {
            assert_eq!(GEOMETRY.check(offset, len), expected, "offset {offset} len {len}");
        }
    }

    #[test]
    fn a_read_only_device_refuses_changes_before_anything_else() {
        let geometry = Geometry { read_only: true, ..GEOMETRY };
        assert_eq!(geometry.check_change(1, 1), Err(IoError::ReadOnly));
        assert_eq!(geometry.check(0, 4096), Ok(0..4096));
    }
}
