//! What a mark says: the payload of a [`crate::record::Kind::SnapMark`] record.
//!
//! A volume's catalogue of snapshots is what its marks make of it, in the order of their seqs; so every replica that has
//! applied the same records has the same catalogue, and the same image for each snapshot.
//!
//! ```text
//!  0 version u16   2 kind u8 (1 create, 2 delete, 3 update)   3 reserved u8   4 snapshot u128   20 …
//!  create: group u128, created unix ms i64, size u64, name, labels      update: labels, holds
//!  name, hold: length u32, UTF-8       labels: count u32, (key, value)…       holds: count u32, hold…
//! ```
//! All little-endian; labels in the order of their keys and holds in their own, each once. The record's checksum covers
//! it. Not here: what a store does with a mark, and who is asked before a snapshot is deleted.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::codec::{DecodeError, Reader, Writer};

pub const MARK_VERSION: u16 = 1;
/// The longest mark, encoded.
pub const MARK_BYTES_MAX: usize = 32 << 10;
pub const SNAPSHOT_NAME_LEN_MAX: usize = 63;
pub const SNAPSHOT_LABELS_MAX: usize = 64;
/// Of a key, and of a value.
pub const SNAPSHOT_LABEL_LEN_MAX: usize = 512;
pub const SNAPSHOT_HOLDS_MAX: usize = 64;
pub const SNAPSHOT_HOLD_LEN_MAX: usize = 128;

const WHAT: &str = "snapshot mark";
const FIXED_BYTES: usize = 2 + 1 + 1 + 16;
const CREATE_BYTES: usize = 16 + 8 + 8;
/// Of a text or a list.
const LENGTH_BYTES: usize = 4;

// However it is held, a snapshot has room for its name and for some labels.
const _: () = assert!(
    FIXED_BYTES
        + CREATE_BYTES
        + LENGTH_BYTES
        + SNAPSHOT_NAME_LEN_MAX
        + LENGTH_BYTES
        + SNAPSHOT_HOLDS_MAX * (LENGTH_BYTES + SNAPSHOT_HOLD_LEN_MAX)
        + 16 * 2 * (LENGTH_BYTES + SNAPSHOT_LABEL_LEN_MAX)
        <= MARK_BYTES_MAX
);

/// A snapshot: 128 random bits drawn for it, the same on every replica. In a group each member has its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SnapshotId(pub u128);

/// Snapshots of several volumes at one moment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct GroupId(pub u128);

impl std::fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl std::fmt::Debug for SnapshotId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl std::fmt::Display for GroupId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl std::fmt::Debug for GroupId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// A snapshot that begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Creation {
    pub id: SnapshotId,
    /// The cut over several volumes that it is a part of.
    pub group: Option<GroupId>,
    /// By the wall clock of the primary's node; for people.
    pub created_unix_ms: i64,
    /// The volume's size at this place in the order. The holder of the epoch writes it when the mark gets its seq.
    pub size_bytes: u64,
    pub name: String,
    pub labels: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mark {
    /// The volume as it is at this place becomes a snapshot. For an id that there is already it says nothing.
    Create(Creation),
    /// The snapshot is no more. For an id that there is not it says nothing.
    Delete { id: SnapshotId },
    /// Labels and holds become these. For an id that there is not it says nothing.
    Update { id: SnapshotId, labels: BTreeMap<String, String>, holds: BTreeSet<String> },
}

impl Mark {
    pub fn id(&self) -> SnapshotId {
        match self {
            Mark::Create(Creation { id, .. }) | Mark::Delete { id } | Mark::Update { id, .. } => *id,
        }
    }

    /// Is it within the bounds? What is not is refused by every decoder, so it must never be written.
    pub fn check(&self) -> Result<(), DecodeError> {
        if self.id() == SnapshotId::default() {
            return Err(DecodeError::Invalid { what: "snapshot id", reason: "it is zero" });
        }
        match self {
            Mark::Create(Creation { group, name, labels, .. }) => {
                if *group == Some(GroupId::default()) {
                    return Err(DecodeError::Invalid { what: "snapshot group", reason: "it is zero" });
                }
                check_text("snapshot name", name, SNAPSHOT_NAME_LEN_MAX)?;
                check_labels(labels)?;
            }
            Mark::Delete { .. } => {}
            Mark::Update { labels, holds, .. } => {
                check_labels(labels)?;
                check_limit("snapshot holds", holds.len(), SNAPSHOT_HOLDS_MAX)?;
                for hold in holds {
                    check_text("snapshot hold", hold, SNAPSHOT_HOLD_LEN_MAX)?;
                }
            }
        }
        check_limit(WHAT, self.encoded_len(), MARK_BYTES_MAX)
    }

    pub fn encoded_len(&self) -> usize {
        let text = |text: &String| LENGTH_BYTES + text.len();
        let labels = |labels: &BTreeMap<String, String>| {
            LENGTH_BYTES + labels.iter().map(|(key, value)| text(key) + text(value)).sum::<usize>()
        };
        FIXED_BYTES
            + match self {
                Mark::Create(creation) => CREATE_BYTES + text(&creation.name) + labels(&creation.labels),
                Mark::Delete { .. } => 0,
                Mark::Update { labels: given, holds, .. } => {
                    labels(given) + LENGTH_BYTES + holds.iter().map(text).sum::<usize>()
                }
            }
    }

    pub fn encode(&self) -> Bytes {
        let mut w = Writer::default();
        w.u16(MARK_VERSION);
        w.u8(match self {
            Mark::Create(_) => 1,
            Mark::Delete { .. } => 2,
            Mark::Update { .. } => 3,
        });
        w.u8(0);
        w.u128(self.id().0);
        match self {
            Mark::Create(Creation { id: _, group, created_unix_ms, size_bytes, name, labels }) => {
                w.u128(group.map_or(0, |group| group.0));
                w.i64(*created_unix_ms);
                w.u64(*size_bytes);
                w.string(name);
                put_labels(&mut w, labels);
            }
            Mark::Delete { .. } => {}
            Mark::Update { id: _, labels, holds } => {
                put_labels(&mut w, labels);
                let holds: Vec<&String> = holds.iter().collect();
                w.list(&holds, |w, hold| w.string(hold));
            }
        }
        w.finish()
    }

    /// Decodes a whole payload. What it accepts is within the bounds and encodes to the same bytes again.
    pub fn decode(bytes: Bytes) -> Result<Mark, DecodeError> {
        check_limit(WHAT, bytes.len(), MARK_BYTES_MAX)?;
        let mut r = Reader::new(WHAT, bytes);
        let version = r.u16()?;
        if version > MARK_VERSION {
            return Err(DecodeError::Newer { what: WHAT, found: version.into(), known: MARK_VERSION.into() });
        }
        if version == 0 {
            return Err(r.unknown(0));
        }
        let kind = r.u8()?;
        match r.u8()? {
            0 => {}
            _ => return Err(DecodeError::Invalid { what: WHAT, reason: "its reserved byte is not zero" }),
        }
        let id = SnapshotId(r.u128()?);
        let mark = match kind {
            1 => Mark::Create(Creation {
                id,
                group: Some(r.u128()?).filter(|group| *group != 0).map(GroupId),
                created_unix_ms: r.i64()?,
                size_bytes: r.u64()?,
                name: r.string()?,
                labels: take_labels(&mut r)?,
            }),
            2 => Mark::Delete { id },
            3 => Mark::Update { id, labels: take_labels(&mut r)?, holds: take_holds(&mut r)? },
            found => return Err(DecodeError::Unknown { what: "kind of snapshot mark", found: found.into() }),
        };
        r.end()?;
        mark.check()?;
        Ok(mark)
    }
}

fn check_limit(what: &'static str, found: usize, limit: usize) -> Result<(), DecodeError> {
    if found > limit {
        return Err(DecodeError::Limit { what, found: found as u64, limit: limit as u64 });
    }
    Ok(())
}

fn check_text(what: &'static str, text: &str, limit: usize) -> Result<(), DecodeError> {
    check_limit(what, text.len(), limit)?;
    if text.is_empty() {
        return Err(DecodeError::Invalid { what, reason: "it is empty" });
    }
    if text.chars().any(char::is_control) {
        return Err(DecodeError::Invalid { what, reason: "it holds a control character" });
    }
    Ok(())
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), DecodeError> {
    check_limit("snapshot labels", labels.len(), SNAPSHOT_LABELS_MAX)?;
    for (key, value) in labels {
        check_text("key of a snapshot label", key, SNAPSHOT_LABEL_LEN_MAX)?;
        check_limit("value of a snapshot label", value.len(), SNAPSHOT_LABEL_LEN_MAX)?;
    }
    Ok(())
}

fn put_labels(w: &mut Writer, labels: &BTreeMap<String, String>) {
    let labels: Vec<(&String, &String)> = labels.iter().collect();
    w.list(&labels, |w, (key, value)| {
        w.string(key);
        w.string(value);
    });
}

fn take_labels(r: &mut Reader) -> Result<BTreeMap<String, String>, DecodeError> {
    let listed = r.list(|r| Ok((r.string()?, r.string()?)))?;
    if !listed.is_sorted_by(|(a, _), (b, _)| a < b) {
        return Err(DecodeError::Invalid {
            what: "snapshot labels",
            reason: "they are not in the order of their keys",
        });
    }
    Ok(listed.into_iter().collect())
}

fn take_holds(r: &mut Reader) -> Result<BTreeSet<String>, DecodeError> {
    let listed = r.list(Reader::string)?;
    if !listed.is_sorted_by(|a, b| a < b) {
        return Err(DecodeError::Invalid { what: "snapshot holds", reason: "they are not in their order" });
    }
    Ok(listed.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn creation() -> Creation {
        Creation {
            id: SnapshotId(7),
            group: Some(GroupId(8)),
            created_unix_ms: -5,
            size_bytes: 1 << 30,
            name: "nightly".into(),
            labels: [("a".to_string(), String::new()), ("b".to_string(), "2".to_string())].into(),
        }
    }

    fn marks() -> [Mark; 4] {
        let holds = ["backup".to_string(), "export".to_string()].into();
        [
            Mark::Create(creation()),
            Mark::Create(Creation { group: None, labels: BTreeMap::new(), ..creation() }),
            Mark::Delete { id: SnapshotId(9) },
            Mark::Update { id: SnapshotId(u128::MAX), labels: creation().labels, holds },
        ]
    }

    #[test]
    fn what_is_encoded_decodes_and_every_cut_of_it_is_refused() {
        for mark in marks() {
            let bytes = mark.encode();
            assert_eq!(bytes.len(), mark.encoded_len());
            assert_eq!(Mark::decode(bytes.clone()), Ok(mark));
            for len in 0..bytes.len() {
                assert!(Mark::decode(bytes.slice(..len)).is_err(), "{len} of {} bytes", bytes.len());
            }
            let longer = [&bytes[..], &[0]].concat();
            assert!(Mark::decode(longer.into()).is_err());
        }
    }

    #[test]
    fn what_is_out_of_bounds_is_refused_by_name() {
        let create = |change: fn(&mut Creation)| {
            let mut creation = creation();
            change(&mut creation);
            Mark::Create(creation)
        };
        let long = |len: usize| "x".repeat(len);
        let (id, holds) = (SnapshotId(1), BTreeSet::new());
        let many: BTreeMap<String, String> = (0..=SNAPSHOT_LABELS_MAX).map(|i| (i.to_string(), long(1))).collect();
        // Each within its own bound, and together too long.
        let full = (0..SNAPSHOT_LABELS_MAX).map(|i| (format!("{i:0512}"), long(SNAPSHOT_LABEL_LEN_MAX))).collect();
        let bad = [
            ("snapshot id", create(|c| c.id = SnapshotId(0))),
            ("snapshot group", create(|c| c.group = Some(GroupId(0)))),
            ("snapshot name", create(|c| c.name.clear())),
            ("snapshot name", create(|c| c.name = "x".repeat(SNAPSHOT_NAME_LEN_MAX + 1))),
            ("snapshot name", create(|c| c.name = "a\nb".into())),
            ("snapshot labels", Mark::Update { id, labels: many, holds: holds.clone() }),
            ("key of a snapshot label", create(|c| drop(c.labels.insert(String::new(), String::new())))),
            ("value of a snapshot label", create(|c| drop(c.labels.insert("k".into(), "v".repeat(513))))),
            ("snapshot hold", Mark::Update { id, labels: BTreeMap::new(), holds: [long(129)].into() }),
            ("snapshot hold", Mark::Update { id, labels: BTreeMap::new(), holds: [String::new()].into() }),
            (
                "snapshot holds",
                Mark::Update { id, labels: BTreeMap::new(), holds: (0..65).map(|i| i.to_string()).collect() },
            ),
            ("snapshot mark", Mark::Update { id, labels: full, holds }),
        ];
        for (what, mark) in bad {
            let error = mark.check().expect_err("it is refused").to_string();
            assert!(error.starts_with(&format!("{what}: ")), "{error}, but {what} was wrong");
            // Nobody can smuggle it past the check by writing the bytes himself; a group of zero is none.
            let decoded = Mark::decode(mark.encode());
            let none = matches!(&decoded, Ok(Mark::Create(c)) if c.group.is_none());
            assert!(none || decoded.is_err_and(|e| e.to_string() == error), "{what}");
        }
    }

    #[test]
    fn bytes_that_mean_the_same_twice_or_nothing_are_refused() {
        let good = Mark::Create(creation()).encode().to_vec();
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            Mark::decode(bytes.into())
        };
        assert!(matches!(with(0, 2), Err(DecodeError::Newer { found: 2, known: 1, .. })));
        assert!(matches!(with(0, 0), Err(DecodeError::Unknown { found: 0, .. })));
        assert!(matches!(with(2, 4), Err(DecodeError::Unknown { what: "kind of snapshot mark", found: 4 })));
        assert!(matches!(with(3, 1), Err(DecodeError::Invalid { .. })));
        // Labels a, b become b, b and c, b.
        let key = good.iter().rposition(|b| *b == b'a').expect("the key");
        for other in [b'b', b'c'] {
            assert!(matches!(with(key, other), Err(DecodeError::Invalid { what: "snapshot labels", .. })));
        }
    }

    proptest! {
        #[test]
        fn foreign_bytes_give_an_error_or_a_mark_of_these_very_bytes(
            at in 0_usize..200, byte: u8, which in 0_usize..4, cut in 0_usize..200
        ) {
            let mut bytes = marks()[which].encode().to_vec();
            if let Some(b) = bytes.get_mut(at) {
                *b = byte;
            }
            if cut % 3 == 0 {
                bytes.truncate(cut);
            }
            if let Ok(mark) = Mark::decode(bytes.clone().into()) {
                prop_assert_eq!(mark.check(), Ok(()));
                prop_assert_eq!(mark.encode().to_vec(), bytes);
            }
        }
    }
}
