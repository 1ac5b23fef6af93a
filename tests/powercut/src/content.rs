//! The bytes of a file, sparse.

use std::collections::BTreeMap;
use std::sync::Arc;

/// What a disk writes whole or not at all.
pub const SECTOR_BYTES: usize = 512;
const PAGE_BYTES: usize = 4096;

type Page = Arc<[u8; PAGE_BYTES]>;

/// Pages that were never written read zero; copies share their pages until one of them is written.
#[derive(Debug, Clone, Default)]
pub(crate) struct Content {
    pages: BTreeMap<u64, Page>,
    len_bytes: u64,
}

impl Content {
    pub(crate) fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Shrinking forgets the bytes beyond the new end.
    pub(crate) fn set_len(&mut self, len_bytes: u64) {
        if len_bytes < self.len_bytes {
            self.pages.split_off(&len_bytes.div_ceil(PAGE_BYTES as u64));
            let within = (len_bytes % PAGE_BYTES as u64) as usize;
            if let Some(last) = self.pages.get_mut(&(len_bytes / PAGE_BYTES as u64)) {
                Arc::make_mut(last)[within..].fill(0);
            }
        }
        self.len_bytes = len_bytes;
    }

    /// Changes bytes, also beyond the end; the length stays.
    pub(crate) fn put(&mut self, offset: u64, data: &[u8]) {
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let within = (at % PAGE_BYTES as u64) as usize;
            let len = (PAGE_BYTES - within).min(data.len() - done);
            let page = self.pages.entry(at / PAGE_BYTES as u64).or_insert_with(|| Arc::new([0; PAGE_BYTES]));
            Arc::make_mut(page)[within..within + len].copy_from_slice(&data[done..done + len]);
            done += len;
        }
    }

    pub(crate) fn zero(&mut self, offset: u64, len_bytes: u64) {
        let end = offset + len_bytes;
        let mut at = offset;
        while at < end {
            let number = at / PAGE_BYTES as u64;
            let within = (at % PAGE_BYTES as u64) as usize;
            let len = (PAGE_BYTES - within).min((end - at) as usize);
            if len == PAGE_BYTES {
                self.pages.remove(&number);
            } else if let Some(page) = self.pages.get_mut(&number) {
                Arc::make_mut(page)[within..within + len].fill(0);
            }
            at += len as u64;
        }
    }

    /// Up to the end of the file.
    pub(crate) fn read(&self, offset: u64, len_bytes: usize) -> Vec<u8> {
        let end = self.len_bytes.min(offset.saturating_add(len_bytes as u64));
        let mut out = vec![0; end.saturating_sub(offset) as usize];
        let mut done = 0;
        while done < out.len() {
            let at = offset + done as u64;
            let within = (at % PAGE_BYTES as u64) as usize;
            let len = (PAGE_BYTES - within).min(out.len() - done);
            if let Some(page) = self.pages.get(&(at / PAGE_BYTES as u64)) {
                out[done..done + len].copy_from_slice(&page[within..within + len]);
            }
            done += len;
        }
        out
    }

    /// Takes over a range's pages, whole ones, from another content.
    pub(crate) fn adopt(&mut self, from: &Content, offset: u64, len_bytes: u64) {
        let first = offset / PAGE_BYTES as u64;
        let last = (offset + len_bytes).div_ceil(PAGE_BYTES as u64);
        for number in first..last {
            match from.pages.get(&number) {
                Some(page) => self.pages.insert(number, page.clone()),
                None => self.pages.remove(&number),
            };
        }
    }

    pub(crate) fn page_count(&self) -> usize {
        self.pages.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_and_holes_read_zero() {
        let mut content = Content::default();
        content.set_len(20_000);
        content.put(4000, &[7; 5000]);
        let read = content.read(3999, 5002);
        assert_eq!((read[0], read[1], read[5000], read[5001]), (0, 7, 7, 0));
        content.zero(4096, 4096);
        assert_eq!(content.read(4095, 2), [7, 0]);
        assert_eq!(content.read(8191, 2), [0, 7]);
        assert_eq!(content.read(19_999, 10), [0]);
        assert_eq!(content.read(30_000, 10), []);
    }

    #[test]
    fn what_lay_beyond_a_new_end_is_gone() {
        let mut content = Content::default();
        content.set_len(10_000);
        content.put(0, &[7; 10_000]);
        content.set_len(5000);
        content.set_len(10_000);
        assert_eq!(content.read(4999, 2), [7, 0]);
        assert_eq!(content.page_count(), 2);
    }

    #[test]
    fn copies_do_not_see_each_others_writes() {
        let mut content = Content::default();
        content.set_len(4096);
        content.put(0, &[1; 4096]);
        let copy = content.clone();
        content.put(0, &[2; 10]);
        assert_eq!(copy.read(0, 1), [1]);
    }
}
