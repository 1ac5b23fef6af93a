//! The newest appended bytes of ranges that the store has not applied yet: a map of non-overlapping ranges.
//!
//! Reads take acked bytes from here before they ask the store. Not here: whether a range's record is acked (the
//! caller compares seqs).

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::ids::Seq;

/// What a range holds: bytes of a write, or zeroes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    Data(Bytes),
    Zeroes,
}

#[derive(Debug, Clone)]
struct Piece {
    end: u64,
    seq: Seq,
    content: Content,
}

/// A stretch of the overlay that lies inside a range that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    pub offset: u64,
    pub length: u64,
    pub seq: Seq,
    pub content: Content,
}

#[derive(Debug, Default)]
pub struct Overlay {
    /// By start offset; pieces never overlap.
    pieces: BTreeMap<u64, Piece>,
}

impl Piece {
    fn slice(&self, start: u64, from: u64, to: u64) -> Piece {
        let content = match &self.content {
            Content::Data(bytes) => Content::Data(bytes.slice((from - start) as usize..(to - start) as usize)),
            Content::Zeroes => Content::Zeroes,
        };
        Piece { end: to, seq: self.seq, content }
    }
}

impl Overlay {
    /// Lays a newer range over what is there. `seq` is above every seq already in the map.
    pub fn insert(&mut self, offset: u64, length: u64, seq: Seq, content: Content) {
        let end = offset + length;
        for start in self.starts(offset, end) {
            let Some(old) = self.pieces.remove(&start) else { continue };
            if start < offset {
                self.pieces.insert(start, old.slice(start, start, offset));
            }
            if old.end > end {
                self.pieces.insert(end, old.slice(start, end, old.end));
            }
        }
        self.pieces.insert(offset, Piece { end, seq, content });
    }

    fn starts(&self, offset: u64, end: u64) -> Vec<u64> {
        let before = self.pieces.range(..offset).next_back().filter(|(_, p)| p.end > offset).map(|(s, _)| *s);
        before.into_iter().chain(self.pieces.range(offset..end).map(|(s, _)| *s)).collect()
    }

    /// The stretches of `[offset, offset + length)` that the overlay covers, in offset order.
    pub fn hits(&self, offset: u64, length: u64) -> Vec<Hit> {
        let end = offset + length;
        self.starts(offset, end)
            .into_iter()
            .filter_map(|start| {
                let piece = self.pieces.get(&start)?;
                let (from, to) = (start.max(offset), piece.end.min(end));
                let cut = piece.slice(start, from, to);
                Some(Hit { offset: from, length: to - from, seq: cut.seq, content: cut.content })
            })
            .collect()
    }

    /// The newest seq that touches the range, if any.
    pub fn newest(&self, offset: u64, length: u64) -> Option<Seq> {
        self.starts(offset, offset + length).into_iter().filter_map(|s| self.pieces.get(&s)).map(|p| p.seq).max()
    }

    /// Drops what the store holds now: pieces of records at or below `applied` that lie within `[offset, +length)`.
    pub fn forget(&mut self, offset: u64, length: u64, applied: Seq) {
        let before = self.pieces.range(..offset).next_back().filter(|(_, p)| p.end > offset);
        let mut next = before.map_or(offset, |(start, _)| *start);
        while let Some((start, seq)) = self.pieces.range(next..offset + length).next().map(|(s, p)| (*s, p.seq)) {
            next = start + 1;
            if seq <= applied {
                self.pieces.remove(&start);
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a naive oracle of one cell per block.
        #[test]
        fn agrees_with_a_cell_per_block(ops in prop::collection::vec((0_u64..24, 1_u64..9, any::<bool>(), any::<bool>()), 1..60)) {
            let mut overlay = Overlay::default();
            let mut cells: Vec<Option<(Seq, u8)>> = vec![None; 40];
            let mut log: Vec<(u64, u64)> = Vec::new();
            for (i, (offset, length, zero, forget)) in ops.into_iter().enumerate() {
                let seq = Seq(i as u64 + 1);
                let byte = if zero { 0 } else { i as u8 + 1 };
                let content = if zero { Content::Zeroes } else { Content::Data(Bytes::from(vec![byte; length as usize])) };
                overlay.insert(offset, length, seq, content);
                log.push((offset, length));
                for cell in &mut cells[offset as usize..(offset + length) as usize] {
                    *cell = Some((seq, byte));
                }
                if forget {
                    let upto = Seq(seq.0 / 2);
                    for (o, l) in &log[..upto.0 as usize] {
                        overlay.forget(*o, *l, upto);
                    }
                    for cell in &mut cells {
                        if cell.is_some_and(|(s, _)| s <= upto) {
                            *cell = None;
                        }
                    }
                }
                let mut seen: Vec<Option<(Seq, u8)>> = vec![None; 40];
                for hit in overlay.hits(3, 30) {
                    for at in hit.offset..hit.offset + hit.length {
                        let byte = match &hit.content {
                            Content::Data(b) => b[(at - hit.offset) as usize],
                            Content::Zeroes => 0,
                        };
                        prop_assert!(seen[at as usize].is_none(), "pieces overlap");
                        seen[at as usize] = Some((hit.seq, byte));
                    }
                }
                prop_assert_eq!(&seen[3..33], &cells[3..33]);
            }
        }
    }
}
