//! Splits a client's request into calls that a `BlockDevice` takes, all submitted in order before any is awaited.

use bytes::Bytes;
use futures_util::future::join_all;

use super::block::{BlockDevice, IoError};
use super::limits::{IO_BYTES_MAX, RANGE_BYTES_MAX};

/// The bytes of the range as a list of buffers, in order.
pub async fn read(device: &dyn BlockDevice, offset: u64, len: u32) -> Result<Vec<Bytes>, IoError> {
    if len <= IO_BYTES_MAX {
        return Ok(vec![whole(device.read(offset, len).await?, len)?]);
    }
    let parts = join_all(split(offset, len.into(), IO_BYTES_MAX.into()).map(|(at, part)| async move {
        let part = part as u32;
        whole(device.read(at, part).await?, part)
    }));
    parts.await.into_iter().collect()
}

/// A device that answers with another length would shift every byte behind it.
fn whole(data: Bytes, len: u32) -> Result<Bytes, IoError> {
    if data.len() == len as usize {
        Ok(data)
    } else {
        Err(IoError::Io(format!("the device returned {} bytes where {len} were asked", data.len())))
    }
}

pub async fn write(device: &dyn BlockDevice, offset: u64, data: Bytes, fua: bool) -> Result<(), IoError> {
    if data.len() <= IO_BYTES_MAX as usize {
        return device.write(offset, data, fua).await;
    }
    let calls = split(offset, data.len() as u64, IO_BYTES_MAX.into()).map(|(at, part)| {
        let start = (at - offset) as usize;
        device.write(at, data.slice(start..start + part as usize), fua)
    });
    all(join_all(calls).await)
}

pub async fn discard(device: &dyn BlockDevice, offset: u64, len: u64) -> Result<(), IoError> {
    all(join_all(split(offset, len, RANGE_BYTES_MAX).map(|(at, part)| device.discard(at, part))).await)
}

pub async fn write_zeroes(
    device: &dyn BlockDevice,
    offset: u64,
    len: u64,
    unmap: bool,
    fua: bool,
) -> Result<(), IoError> {
    let calls = split(offset, len, RANGE_BYTES_MAX).map(|(at, part)| device.write_zeroes(at, part, unmap, fua));
    all(join_all(calls).await)
}

fn all(results: Vec<Result<(), IoError>>) -> Result<(), IoError> {
    results.into_iter().collect()
}

/// `(offset, length)` of consecutive parts, each but the last `max` long.
fn split(offset: u64, len: u64, max: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..len.div_ceil(max)).map(move |index| {
        let start = index * max;
        (offset + start, max.min(len - start))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Geometry, MemoryDevice};

    #[test]
    fn parts_cover_the_range_once() {
        for (len, max) in [(0, 4), (1, 4), (4, 4), (5, 4), (16, 4), (17, 4)] {
            let mut next = 100;
            for (at, part) in split(100, len, max) {
                assert_eq!(at, next);
                assert!(part > 0 && part <= max);
                next += part;
            }
            assert_eq!(next, 100 + len);
        }
    }

    #[tokio::test]
    async fn long_requests_arrive_whole() {
        let device = MemoryDevice::new(Geometry {
            size_bytes: 8 << 20,
            logical_block_bytes: 4096,
            volatile_cache: false,
            read_only: false,
        });
        let data: Bytes = (0..(3 << 20) + 4096).map(|i: u32| (i / 1000) as u8).collect::<Vec<_>>().into();
        write(&device, 4096, data.clone(), true).await.unwrap();
        assert_eq!(read(&device, 4096, data.len() as u32).await.unwrap().concat(), data);
        write_zeroes(&device, 0, 8 << 20, true, false).await.unwrap();
        assert!(read(&device, 0, 8 << 20).await.unwrap().concat().iter().all(|byte| *byte == 0));
    }
}
