//! A log: for each seq the epoch of its record. One holder per epoch writes in order, so that names a record.

/// Three bits a record, the first record lowest; zero ends it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Log(pub u32);

/// Records that fit.
pub const RECORDS_MAX: u8 = 10;

impl Log {
    pub fn len(self) -> u8 {
        (32 - self.0.leading_zeros()).div_ceil(3) as u8
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    #[must_use]
    pub fn push(self, epoch: u8) -> Log {
        assert!(self.len() < RECORDS_MAX && (1..8).contains(&epoch), "the bounds are too wide for a log of the model");
        Log(self.0 | u32::from(epoch) << (3 * self.len()))
    }

    pub fn epoch_at(self, seq: u8) -> u8 {
        ((self.0 >> (3 * (seq - 1))) & 7) as u8
    }

    pub fn last_epoch(self) -> u8 {
        if self.is_empty() { 0 } else { self.epoch_at(self.len()) }
    }

    #[must_use]
    pub fn cut(self, len: u8) -> Log {
        if len >= self.len() { self } else { Log(self.0 & ((1 << (3 * len)) - 1)) }
    }

    /// How many records, from the first on, both have.
    pub fn common(self, other: Log) -> u8 {
        let differ = ((self.0 ^ other.0).trailing_zeros() / 3) as u8;
        differ.min(self.len()).min(other.len())
    }

    pub fn is_prefix_of(self, other: Log) -> bool {
        self.common(other) == self.len()
    }
}

impl std::fmt::Display for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (1..=self.len()).try_for_each(|seq| write!(f, "{}", self.epoch_at(seq)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_part_where_their_records_differ() {
        let log = |epochs: &[u8]| epochs.iter().fold(Log::default(), |log, e| log.push(*e));
        let (a, b) = (log(&[1, 1, 4]), log(&[1, 1, 2, 2]));
        assert_eq!((a.len(), b.len(), a.last_epoch(), b.epoch_at(3)), (3, 4, 4, 2));
        assert_eq!((a.common(b), b.common(a), a.common(a), a.common(Log::default())), (2, 2, 3, 0));
        assert_eq!(b.cut(2), a.cut(2));
        assert!(log(&[1, 1]).is_prefix_of(b) && !a.is_prefix_of(b) && Log::default().is_prefix_of(a));
        assert_eq!(log(&[7; 10]).len(), 10);
    }
}
