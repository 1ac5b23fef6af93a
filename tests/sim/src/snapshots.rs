//! Snapshots, seen from outside.
//!
//! | checker | what it holds against the run |
//! |---|---|
//! | catalogue | a store that shows the image at some seq has the snapshots that the marks up to it make, and none of them is missing but what is older than a shipment |
//! | snapshot | an image that is pinned is the fold of the order up to its mark, the same on every replica, at every time and in every lineage; a snapshot that was promised is there |
//! | moment | what was known before a snapshot was asked for is in it; what was asked for after it was promised is not |
//! | cut | of several volumes' snapshots of one moment: nobody who asked for what one of them holds can have known of what another lacks |
//!
//! Known is what has completed, or was seen by a read that has. Not here: asking for snapshots (moments, pairs).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use farshore_core::ids::{MemberId, Seq};
use farshore_core::mark::{Creation, Mark, SnapshotId};
use farshore_core::record::{Kind, Record, RecordHash};

use crate::branches::{Branch, Lineage};
use crate::disk::{Cell, Image};
use crate::oracle::{Oracle, Verdict, wrong};

/// A command that makes a snapshot.
struct Asked {
    id: SnapshotId,
    at: u64,
    /// As part of a cut: what was promised then is judged with the others of the cut.
    held: bool,
}

/// A snapshot that was promised.
struct Promised {
    id: SnapshotId,
    place: Place,
    asked_at: u64,
    at: u64,
}

/// A mark's place: seqs mean something within one history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub lineage: Lineage,
    pub seq: Seq,
}

#[derive(Default)]
pub struct Snapshots {
    /// Every mark that reached a store, by the record that it is.
    marks: BTreeMap<(Seq, RecordHash), Mark>,
    /// What each snapshot was when it was first seen, by its mark.
    seen: BTreeMap<(Seq, RecordHash), Arc<Vec<Cell>>>,
    asked: BTreeMap<u64, Asked>,
    promised: Vec<Promised>,
}

/// What may be said of a row without its image.
type Row<'a> = (Seq, &'a str, &'a BTreeMap<String, String>, BTreeSet<&'a str>);

impl Snapshots {
    pub fn asked(&mut self, number: u64, id: SnapshotId, held: bool, at: u64) {
        self.asked.insert(number, Asked { id, at, held });
    }

    pub fn answered(&mut self, number: u64, place: Option<Place>, at: u64) {
        let Some(Asked { id, at: asked_at, held }) = self.asked.remove(&number) else { return };
        if let Some(place) = place.filter(|_| !held) {
            self.promised.push(Promised { id, place, asked_at, at });
        }
    }

    pub fn applied(&mut self, record: &Record, hash: RecordHash) {
        if record.kind == Kind::SnapMark
            && let Ok(mark) = Mark::decode(record.payload.clone())
        {
            self.marks.insert((record.seq, hash), mark);
        }
    }

    /// The marks of a history up to a seq, in their order.
    fn of<'a>(&'a self, branch: &'a Branch, upto: Seq) -> impl Iterator<Item = (Seq, &'a Mark)> {
        let all = self.marks.range(..(upto.next(), RecordHash::default()));
        all.filter(|((seq, hash), _)| branch.order.get(seq) == Some(hash)).map(|((seq, _), mark)| (*seq, mark))
    }

    fn catalogue<'a>(&'a self, branch: &'a Branch, upto: Seq) -> BTreeMap<SnapshotId, Row<'a>> {
        let mut rows: BTreeMap<SnapshotId, Row<'a>> = BTreeMap::new();
        for (seq, mark) in self.of(branch, upto) {
            match mark {
                Mark::Create(Creation { id, name, labels, .. }) if !rows.contains_key(id) => {
                    rows.insert(*id, (seq, name, labels, BTreeSet::new()));
                }
                Mark::Create(_) => {}
                Mark::Delete { id } => drop(rows.remove(id)),
                Mark::Update { id, labels, holds } => {
                    if let Some(row) = rows.get_mut(id) {
                        (row.2, row.3) = (labels, holds.iter().map(String::as_str).collect());
                    }
                }
            }
        }
        rows
    }

    /// What a store holds of snapshots, beside the image that it shows.
    pub fn shown(&mut self, node: MemberId, branch: &Branch, image: &Image) -> Verdict {
        let upto = image.base.seq;
        let found = &image.snapshots;
        let row = |(id, row): (&SnapshotId, &'_ crate::catalogue::Snapshot)| (*id, row.seq);
        let want = self.catalogue(branch, upto);
        let same = want.len() == found.rows.len()
            && want.iter().zip(&found.rows).all(|((id, want), (found_id, found))| {
                let holds = found.holds.iter().map(String::as_str).collect();
                id == found_id && *want == (found.seq, found.name.as_str(), &found.labels, holds)
            });
        if !same {
            let found: Vec<(SnapshotId, Seq)> = found.rows.iter().map(row).collect();
            let want: Vec<(SnapshotId, Seq)> = want.iter().map(|(id, row)| (*id, row.0)).collect();
            return wrong("catalogue", format!("{node} at {upto} has snapshots {found:?}, the order says {want:?}"));
        }
        for (id, row) in &found.rows {
            let Some(cells) = &row.cells else {
                if row.seq > found.shipped {
                    return wrong(
                        "catalogue",
                        format!("{node} at {upto} lacks the image of {id}, marked at {}", row.seq),
                    );
                }
                continue;
            };
            // Within the catalogue that the order says: its mark is there.
            let Some(hash) = branch.order.get(&row.seq) else { continue };
            if let Some(first) = self.seen.get(&(row.seq, *hash)) {
                if !Arc::ptr_eq(first, cells) && first != cells {
                    return wrong("snapshot", format!("{node}: {id} of {} is not what it was", row.seq));
                }
                continue;
            }
            let differs = |(block, cell): &(usize, &Cell)| branch.cell(*block, row.seq) != **cell;
            if let Some((block, cell)) = cells.iter().enumerate().find(differs) {
                let text = format!("{node}: block {block} of {id} holds {cell:?}, the order up to {} another", row.seq);
                return wrong("snapshot", text);
            }
            self.seen.insert((row.seq, *hash), cells.clone());
        }
        Ok(())
    }
}

/// A change in a lineage: where it is in the order, when it was asked for, and since when it is known.
struct Change {
    seq: Seq,
    request: u64,
    invoked: u64,
    known: Option<u64>,
}

/// What one volume's history says of a mark's place.
pub struct Sides {
    /// When the first of those above the mark was known, and the request.
    above: Option<(u64, u64)>,
    /// When the last of those below it was asked for, and the request.
    below: Option<(u64, u64)>,
}

impl Oracle {
    /// Every snapshot that was promised is there, and is a moment between the question and the answer.
    pub fn moments(&self) -> Verdict {
        let mut pasts: BTreeMap<Lineage, Vec<Change>> = BTreeMap::new();
        for Promised { id, place, asked_at, at } in &self.snapshots.promised {
            let Some(branch) = self.branches.get(place.lineage) else { continue };
            // Where another history goes on, nobody may have got this far.
            let Some(hash) = branch.order.get(&place.seq) else { continue };
            if self.snapshots.marks.get(&(place.seq, *hash)).is_none_or(|mark| mark.id() != *id) {
                return wrong("snapshot", format!("{id} was promised at {}, where another record is", place.seq));
            }
            let past = pasts.entry(place.lineage).or_insert_with(|| self.past(place.lineage));
            let sides = sides_of(past, place.seq);
            if let Some((known, request)) = sides.above.filter(|(known, _)| known < asked_at) {
                let text = format!("{id} was asked for at {asked_at} µs and lacks {request}, known since {known} µs");
                return wrong("moment", text);
            }
            if let Some((invoked, request)) = sides.below.filter(|(invoked, _)| invoked > at) {
                let text = format!("{id} was promised at {at} µs and holds {request}, asked for at {invoked} µs");
                return wrong("moment", text);
            }
        }
        Ok(())
    }

    /// Is this mark where it was promised to be?
    pub fn has_mark(&self, place: Place, id: SnapshotId) -> Option<bool> {
        let hash = self.branches.get(place.lineage)?.order.get(&place.seq)?;
        Some(self.snapshots.marks.get(&(place.seq, *hash)).is_some_and(|mark| mark.id() == id))
    }

    pub fn sides(&self, place: Place) -> Sides {
        sides_of(&self.past(place.lineage), place.seq)
    }

    fn past(&self, lineage: Lineage) -> Vec<Change> {
        let Some(branch) = self.branches.get(lineage) else { return Vec::new() };
        let known = self.known(lineage);
        let change = |(request, seq): (u64, Seq)| {
            let invoked = self.invoked(request, lineage)?;
            Some(Change { seq, request, invoked, known: known.get(&request).copied() })
        };
        branch.requests(Seq(u64::MAX)).into_iter().filter_map(change).collect()
    }
}

fn sides_of(past: &[Change], seq: Seq) -> Sides {
    let (below, above): (Vec<&Change>, Vec<&Change>) = past.iter().partition(|change| change.seq < seq);
    Sides {
        above: above.iter().filter_map(|change| Some((change.known?, change.request))).min(),
        below: below.iter().map(|change| (change.invoked, change.request)).max(),
    }
}

/// Nobody who asked for what one volume's snapshot holds can have known of what another's lacks.
pub fn closed(sides: &[Sides]) -> Verdict {
    for (i, one) in sides.iter().enumerate() {
        for (j, other) in sides.iter().enumerate().filter(|(j, _)| *j != i) {
            if let (Some((known, lacks)), Some((invoked, holds))) = (one.above, other.below)
                && known < invoked
            {
                let text = format!(
                    "volume {i} lacks request {lacks}, known since {known} µs; volume {j} holds {holds}, asked for at \
                     {invoked} µs"
                );
                return wrong("cut", text);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Snapshot;
    use farshore_core::durable::LogBase;

    const NODE: MemberId = MemberId(0);

    fn creation(id: u128) -> Mark {
        let (name, labels) = (format!("s{id}"), BTreeMap::new());
        let id = SnapshotId(id);
        Mark::Create(Creation { id, group: None, created_unix_ms: 0, size_bytes: 0, name, labels })
    }

    /// A volume whose first record writes block 0, whose second is a mark, and whose third writes block 0 again.
    fn history() -> (Snapshots, Branch, Image) {
        let mut branch = Branch::root();
        let hash = |seq: u64| RecordHash(u128::from(seq) + 50);
        branch.order = (1..=3).map(|seq| (Seq(seq), hash(seq))).collect();
        branch.block_history[0] = vec![(Seq(1), 11), (Seq(3), 33)];
        let snapshots = Snapshots { marks: [((Seq(2), hash(2)), creation(7))].into(), ..Snapshots::default() };
        let mut image = Image::empty();
        image.cells[0] = Cell { seq: Seq(1), stamp: 11 };
        let cells = image.cells.clone();
        image.snapshots.apply(Seq(2), creation(7), &cells);
        image.cells[0] = Cell { seq: Seq(3), stamp: 33 };
        image.base = LogBase { seq: Seq(3), hash: hash(3) };
        (snapshots, branch, image)
    }

    #[track_caller]
    fn complains(checker: &str, verdict: Verdict) {
        assert_eq!(verdict.expect_err("something is wrong").checker, checker);
    }

    fn with(image: &Image, change: impl FnOnce(&mut Snapshot)) -> Image {
        let mut image = image.clone();
        change(image.snapshots.rows.get_mut(&SnapshotId(7)).expect("it is there"));
        image
    }

    #[test]
    fn a_pin_in_the_wrong_place_and_one_that_changes_are_seen() {
        let (mut snapshots, branch, image) = history();
        // As if the image had been pinned after the whole slice, not at the mark.
        let late = with(&image, |row| row.cells = Some(Arc::new(image.cells.clone())));
        complains("snapshot", snapshots.shown(NODE, &branch, &late));
        assert!(snapshots.shown(NODE, &branch, &image).is_ok());
        // Written in place, though a snapshot sees it.
        complains("snapshot", snapshots.shown(MemberId(1), &branch, &late));
        assert!(snapshots.shown(MemberId(1), &branch, &image).is_ok());
    }

    #[test]
    fn a_catalogue_that_the_order_does_not_say_is_seen() {
        let (mut snapshots, branch, image) = history();
        let mut none = image.clone();
        none.snapshots.rows.clear();
        complains("catalogue", snapshots.shown(NODE, &branch, &none));
        let mut more = image.clone();
        more.snapshots.apply(Seq(3), creation(8), &image.cells);
        complains("catalogue", snapshots.shown(NODE, &branch, &more));
        let held = with(&image, |row| row.holds = ["export".to_string()].into());
        complains("catalogue", snapshots.shown(NODE, &branch, &held));
        let mut missing = with(&image, |row| row.cells = None);
        complains("catalogue", snapshots.shown(NODE, &branch, &missing));
        missing.snapshots.shipped = Seq(2);
        assert!(snapshots.shown(NODE, &branch, &missing).is_ok());
        // Before the mark there is none.
        let mut before = Image { base: LogBase { seq: Seq(1), ..image.base }, ..image };
        complains("catalogue", snapshots.shown(NODE, &branch, &before));
        before.snapshots.rows.clear();
        assert!(snapshots.shown(NODE, &branch, &before).is_ok());
    }

    #[test]
    fn a_cut_that_is_not_closed_is_seen() {
        let side = |above, below| Sides { above: Some((above, 1)), below: Some((below, 2)) };
        assert!(closed(&[side(10, 9), side(20, 10)]).is_ok());
        complains("cut", closed(&[side(10, 9), side(20, 11)]));
        complains("cut", closed(&[side(30, 21), side(20, 11)]));
        assert!(closed(&[Sides { above: None, below: None }, side(1, 100)]).is_ok());
    }
}
