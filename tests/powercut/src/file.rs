//! One file: what readers see, what the disk surely has, and the changes between the two.

use rand::RngExt;
use rand::rngs::StdRng;

use super::content::{Content, SECTOR_BYTES};

/// Something that no sync has covered yet.
#[derive(Debug, Clone)]
enum Change {
    Bytes { offset: u64, data: Box<[u8]> },
    Zeroes { offset: u64, len_bytes: u64 },
    Length(u64),
}

/// What becomes of the changes of one file when the power goes.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Dropped,
    Kept,
    /// So many reach the disk, in order; the next one in part.
    Prefix(usize),
    /// Each sector of each change for itself; lengths in order, up to this many changes.
    Torn(usize),
}

#[derive(Debug, Default)]
pub(crate) struct FileState {
    now: Content,
    durable: Content,
    pending: Vec<Change>,
}

impl FileState {
    pub(crate) fn len_bytes(&self) -> u64 {
        self.now.len_bytes()
    }

    pub(crate) fn pages(&self) -> usize {
        self.now.page_count()
    }

    pub(crate) fn is_synced(&self) -> bool {
        self.pending.is_empty()
    }

    pub(crate) fn read(&self, offset: u64, len_bytes: usize) -> Vec<u8> {
        self.now.read(offset, len_bytes)
    }

    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) {
        let end = offset + data.len() as u64;
        if end > self.now.len_bytes() {
            self.set_len(end);
        }
        self.now.put(offset, data);
        self.pending.push(Change::Bytes { offset, data: data.into() });
    }

    pub(crate) fn zero(&mut self, offset: u64, len_bytes: u64) {
        self.now.zero(offset, len_bytes);
        self.pending.push(Change::Zeroes { offset, len_bytes });
    }

    pub(crate) fn set_len(&mut self, len_bytes: u64) {
        if len_bytes != self.now.len_bytes() {
            self.now.set_len(len_bytes);
            self.pending.push(Change::Length(len_bytes));
        }
    }

    /// What was written before the call is on the disk after it.
    pub(crate) fn sync(&mut self) {
        for change in self.pending.drain(..) {
            match change {
                Change::Bytes { offset, data } => self.durable.adopt(&self.now, offset, data.len() as u64),
                Change::Zeroes { offset, len_bytes } => self.durable.adopt(&self.now, offset, len_bytes),
                Change::Length(len_bytes) => self.durable.set_len(len_bytes),
            }
        }
    }

    /// A sync that fails: some of it reached the disk, and nobody will ever write the rest, though readers see it.
    pub(crate) fn fail_sync(&mut self, dice: &mut StdRng) {
        self.tear(dice, false);
    }

    /// The power goes and comes back. Returns how many changes were not wholly kept.
    pub(crate) fn cut(&mut self, dice: &mut StdRng, keep_nothing: bool) -> usize {
        let lost = self.tear(dice, keep_nothing);
        self.now = self.durable.clone();
        lost
    }

    fn tear(&mut self, dice: &mut StdRng, keep_nothing: bool) -> usize {
        let pending = std::mem::take(&mut self.pending);
        if pending.is_empty() {
            return 0;
        }
        let count = pending.len();
        let fate = match dice.random_range(0..4) {
            _ if keep_nothing => Fate::Dropped,
            0 => Fate::Dropped,
            1 => Fate::Kept,
            2 => Fate::Prefix(dice.random_range(0..count)),
            _ => Fate::Torn(dice.random_range(0..=count)),
        };
        let mut lost = 0;
        for (at, change) in pending.iter().enumerate() {
            let whole = match fate {
                Fate::Dropped => false,
                Fate::Kept => true,
                Fate::Prefix(kept) if at == kept => self.keep_in_part(change, dice),
                Fate::Prefix(kept) => at < kept,
                Fate::Torn(lengths) => match change {
                    Change::Length(_) => at < lengths,
                    _ => self.keep_in_part(change, dice),
                },
            };
            match whole {
                true => self.keep(change),
                false => lost += 1,
            }
        }
        lost
    }

    fn keep(&mut self, change: &Change) {
        match change {
            Change::Bytes { offset, data } => self.durable.put(*offset, data),
            Change::Zeroes { offset, len_bytes } => self.durable.zero(*offset, *len_bytes),
            Change::Length(len_bytes) => self.durable.set_len(*len_bytes),
        }
    }

    /// Each sector with even chances. Returns false: what was kept was kept here.
    fn keep_in_part(&mut self, change: &Change, dice: &mut StdRng) -> bool {
        if let Change::Bytes { offset, data } = change {
            let mut at = 0;
            while at < data.len() {
                let within = ((offset + at as u64) % SECTOR_BYTES as u64) as usize;
                let len = (SECTOR_BYTES - within).min(data.len() - at);
                if dice.random_bool(0.5) {
                    self.durable.put(offset + at as u64, &data[at..at + len]);
                }
                at += len;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    /// What a file may look like after a cut, over many seeds.
    fn cuts(make: impl Fn() -> FileState) -> Vec<Vec<u8>> {
        (0..200)
            .map(|seed| {
                let mut file = make();
                file.cut(&mut StdRng::seed_from_u64(seed), false);
                assert!(file.is_synced());
                file.read(0, 1 << 20)
            })
            .collect()
    }

    #[test]
    fn what_was_synced_survives_every_cut() {
        let found = cuts(|| {
            let mut file = FileState::default();
            file.write(0, &[1; 8192]);
            file.sync();
            file.write(4096, &[2; 4096]);
            file
        });
        assert!(found.iter().all(|bytes| bytes.len() == 8192 && bytes[..4096] == [1; 4096]));
        let sectors: Vec<usize> = found.iter().map(|b| b.chunks(SECTOR_BYTES).filter(|s| s[0] == 2).count()).collect();
        assert!(sectors.contains(&0) && sectors.contains(&8), "dropped and kept");
        assert!(sectors.iter().any(|n| (1..8).contains(n)), "torn");
        assert!(
            found.iter().all(|bytes| bytes.chunks(SECTOR_BYTES).all(|s| s.iter().all(|b| *b == s[0]))),
            "by sectors"
        );
    }

    #[test]
    fn a_length_without_its_bytes_and_the_other_way_round() {
        let found = cuts(|| {
            let mut file = FileState::default();
            file.write(0, &[7; 4096]);
            file
        });
        assert!(found.iter().any(Vec::is_empty));
        assert!(found.iter().any(|bytes| bytes.len() == 4096 && bytes.contains(&0)), "a size whose bytes are missing");
        assert!(found.iter().any(|bytes| bytes == &[7; 4096]));
    }

    #[test]
    fn a_truncation_that_is_dropped_brings_the_bytes_back() {
        let found = cuts(|| {
            let mut file = FileState::default();
            file.write(0, &[7; 4096]);
            file.sync();
            file.set_len(0);
            file
        });
        assert!(found.iter().any(Vec::is_empty) && found.iter().any(|bytes| bytes == &[7; 4096]));
    }

    #[test]
    fn after_a_failed_sync_a_good_one_proves_nothing() {
        let lost = (0..100).filter(|&seed| {
            let dice = &mut StdRng::seed_from_u64(seed);
            let mut file = FileState::default();
            file.write(0, &[7; 4096]);
            file.fail_sync(dice);
            assert_eq!(file.read(0, 4096), [7; 4096], "readers see what they wrote");
            file.sync();
            file.cut(dice, false);
            file.read(0, 4096) != [7; 4096]
        });
        assert!(lost.count() > 0);
    }
}
