//! From the range of sizes that a claim asks for to the one size that the volume gets.

use farshore_proto::csi::CapacityRange;
use tonic::Status;

/// What checksums and records cover: every size is a multiple of it.
const GRAIN_BYTES: u64 = 4096;
/// The replicator's bounds.
pub const SIZE_BYTES_MIN: u64 = 1 << 20;
pub const SIZE_BYTES_MAX: u64 = 64 << 40;
/// Where a claim names no size.
pub const SIZE_BYTES_DEFAULT: u64 = 1 << 30;

/// Both ends in bytes; the upper one is `u64::MAX` where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    pub required: u64,
    pub limit: u64,
}

/// Numbers that can't be meant are refused.
pub fn range(asked: Option<&CapacityRange>) -> Result<Range, Status> {
    let asked = asked.copied().unwrap_or_default();
    let unsigned = |what: &str, bytes: i64| {
        u64::try_from(bytes).map_err(|_| Status::invalid_argument(format!("{what} of {bytes} bytes is below zero")))
    };
    let required = unsigned("capacity_range.required_bytes", asked.required_bytes)?;
    let limit = unsigned("capacity_range.limit_bytes", asked.limit_bytes)?;
    let limit = if limit == 0 { u64::MAX } else { limit };
    if required > limit {
        return Err(Status::invalid_argument(format!(
            "capacity_range asks for {required} bytes and at most {limit}: make the limit larger"
        )));
    }
    Ok(Range { required, limit })
}

impl Range {
    /// The size to make: what is required (or `otherwise`, where nothing is), rounded up to 4 KiB, within the limit.
    pub fn choose(self, otherwise: u64) -> Result<u64, Status> {
        let wanted = if self.required > 0 { self.required } else { otherwise.min(self.limit) };
        let size = wanted.max(SIZE_BYTES_MIN).div_ceil(GRAIN_BYTES).saturating_mul(GRAIN_BYTES);
        if size > SIZE_BYTES_MAX {
            return Err(Status::out_of_range(format!(
                "{wanted} bytes are more than a volume can have: ask for at most {SIZE_BYTES_MAX} bytes (64 TiB)"
            )));
        }
        if size > self.limit {
            return Err(Status::out_of_range(format!(
                "the volume would have {size} bytes, which is more than the limit of {}: a volume has whole 4 KiB blocks \
                 and at least {SIZE_BYTES_MIN} bytes; raise the limit",
                self.limit
            )));
        }
        Ok(size)
    }

    /// Whether a volume that is there is what was asked for.
    pub fn fits(self, size: u64) -> bool {
        size >= self.required && size <= self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    fn chosen(required_bytes: i64, limit_bytes: i64) -> Result<u64, Code> {
        let range = range(Some(&CapacityRange { required_bytes, limit_bytes })).map_err(|s| s.code())?;
        range.choose(SIZE_BYTES_DEFAULT).map_err(|s| s.code())
    }

    #[test]
    fn sizes_are_rounded_up_within_the_limit() {
        assert_eq!(chosen(16 << 20, 16 << 20), Ok(16 << 20));
        assert_eq!(chosen((16 << 20) + 1, 0), Ok((16 << 20) + 4096));
        assert_eq!(chosen((16 << 20) + 1, (16 << 20) + 4096), Ok((16 << 20) + 4096));
        assert_eq!(chosen((16 << 20) + 1, (16 << 20) + 4095), Err(Code::OutOfRange));
        assert_eq!(chosen(1, 0), Ok(SIZE_BYTES_MIN));
        assert_eq!(chosen(1, 4096), Err(Code::OutOfRange));
    }

    #[test]
    fn without_a_size_there_is_a_default_below_the_limit() {
        assert_eq!(chosen(0, 0), Ok(SIZE_BYTES_DEFAULT));
        assert_eq!(chosen(0, 64 << 20), Ok(64 << 20));
        assert_eq!(range(None).unwrap().choose(SIZE_BYTES_DEFAULT).unwrap(), SIZE_BYTES_DEFAULT);
    }

    #[test]
    fn what_can_not_be_meant_is_refused() {
        assert_eq!(chosen(-1, 0), Err(Code::InvalidArgument));
        assert_eq!(chosen(0, -1), Err(Code::InvalidArgument));
        assert_eq!(chosen(2 << 20, 1 << 20), Err(Code::InvalidArgument));
        assert_eq!(chosen(i64::MAX, 0), Err(Code::OutOfRange));
        assert_eq!(chosen((64 << 40) + 1, 0), Err(Code::OutOfRange));
    }

    #[test]
    fn what_is_there_may_be_what_is_asked_for() {
        let asked = range(Some(&CapacityRange { required_bytes: 1 << 20, limit_bytes: 8 << 20 })).unwrap();
        assert!(asked.fits(1 << 20) && asked.fits(8 << 20));
        assert!(!asked.fits((8 << 20) + 1) && !asked.fits((1 << 20) - 1));
    }
}
