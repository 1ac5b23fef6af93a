//! The bytes of every format of the core, as this version writes them and as every later one must read them.

mod bytes_file;
mod samples;

use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use farshore_core::durable::Durable;
use farshore_core::ids::{MemberId, Seq, VolumeId};
use farshore_core::journal::entry::{
    Entry, Item, LogEnd, RecapItem, VolumeHead, decode_items, put_entry, put_head, put_moved, put_recap,
};
use farshore_core::journal::group::{BodySum, FLAG_HEAD, FLAG_HEAD_END, GroupBuilder, GroupHeader};
use farshore_core::journal::superblock::Superblock;
use farshore_core::mark::Mark;
use farshore_core::message::{Body, Message};
use farshore_core::record::{Kind, Record, RecordHash};
use farshore_core::register::{Configuration, Member, MemberKind, Mode, StandIn};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Encodings as the file has them, and each decodes to its sample again.
fn hold<T: PartialEq + std::fmt::Debug>(
    name: &str,
    samples: &[(&str, T)],
    encode: impl Fn(&T) -> Vec<u8>,
    decode: impl Fn(Bytes) -> T,
) {
    let encoded: Vec<(&str, Vec<u8>)> = samples.iter().map(|(name, sample)| (*name, encode(sample))).collect();
    let golden = bytes_file::hold(&file(name), &encoded);
    assert_eq!(golden.len(), samples.len());
    for ((name, bytes), (_, sample)) in golden.into_iter().zip(samples) {
        assert_eq!(&decode(bytes.into()), sample, "{name}");
    }
}

#[test]
fn records() {
    let kinds = [
        ("write", Kind::Write),
        ("discard", Kind::Discard),
        ("write-zeroes", Kind::WriteZeroes),
        ("epoch-start", Kind::EpochStart),
        ("snap-mark", Kind::SnapMark),
        ("noop", Kind::Noop),
    ];
    let records = kinds.map(|(name, kind)| (name, samples::record(3, kind)));
    let records = [&records[..], &[("snap-mark-create", samples::marking(3))]].concat();
    let encode = |record: &Record| {
        let mut out = BytesMut::new();
        record.encode_into(&mut out);
        out.to_vec()
    };
    hold("v1/record.txt", &records, encode, |mut bytes| {
        let record = Record::decode(&mut bytes).expect("golden");
        assert!(bytes.is_empty());
        record
    });
    // What the next record names: a part of the format, though no field of the record itself.
    let hashes = [("write", samples::record(3, Kind::Write).hash().0.to_le_bytes().to_vec())];
    bytes_file::hold(&file("v1/record-hash.txt"), &hashes);
}

#[test]
fn marks() {
    hold("v1/mark.txt", &samples::marks(), |mark| mark.encode().to_vec(), |bytes| Mark::decode(bytes).expect("golden"));
}

/// Bodies of one kind have a sample for each form.
fn name_of(message: &Message) -> &'static str {
    match &message.body {
        Body::Fork { log: Some(_), .. } => "fork-with-log",
        body => body.name(),
    }
}

#[test]
fn messages() {
    let messages: Vec<(&str, Message)> = samples::messages().into_iter().map(|m| (name_of(&m), m)).collect();
    let encode = |message: &Message| message.encode().concat();
    hold("v1/message.txt", &messages, encode, |bytes| Message::decode(bytes).expect("golden"));
}

#[test]
fn the_configuration_and_the_durable_blob() {
    let full = samples::configuration();
    let bare = Configuration { earlier: Vec::new(), attached: None, ..full.clone() };
    let configs = [("full", full), ("bare", bare.clone())];
    let decode = |bytes| Configuration::decode(bytes).expect("golden");
    hold("v1/configuration.txt", &configs, |config| config.encode().to_vec(), decode);

    let modes = [
        ("async", Mode::Async { rpo_us: 60_000_000 }, None),
        ("adaptive", Mode::Adaptive { max_commit_latency_us: 50_000, max_lag_bytes: 1 << 26 }, Some(30_000_000)),
        ("fallback", Mode::Sync, Some(30_000_000)),
    ];
    let with = |(name, mode, fallback_after_us)| {
        let mut config = samples::configuration();
        (config.volume.mode, config.volume.fallback_after_us) = (mode, fallback_after_us);
        (name, config)
    };
    let mut places: Vec<_> = modes.map(with).into();
    let mut stood_in = samples::configuration();
    stood_in.volume.promote_observer_after_us = Some(30_000_000);
    let lost = stood_in.current.votes[0].clone();
    stood_in.stand_ins = vec![StandIn { member: MemberId(3), lost }];
    places.push(("stand-in", stood_in));
    let mut diskless = samples::configuration();
    let (site, node) = ("east".to_string(), "n2".to_string());
    diskless.members.push(Member { id: MemberId(4), site, node, kind: MemberKind::Diskless });
    hold("v3/configuration.txt", &[("diskless", diskless)], |config| config.encode().to_vec(), decode);
    hold("v2/configuration.txt", &places, |config| config.encode().to_vec(), decode);

    let full = samples::durable();
    let blobs = [("first", Durable::first(full.me, full.incarnation, full.lineage, bare)), ("full", full)];
    hold(
        "v1/durable.txt",
        &blobs,
        |durable| durable.encode().to_vec(),
        |bytes| Durable::decode(bytes).expect("golden"),
    );
}

fn items() -> Vec<(&'static str, Item)> {
    let volume = samples::VOLUME;
    let end = LogEnd { seq: Seq(9), hash: RecordHash(5), epoch: samples::EPOCH };
    let recap = RecapItem { volume, forgotten: false, meta: true, from: Some(Seq(3)), end };
    let meta = Some(Bytes::from_static(b"m"));
    vec![
        ("recap", Item::Recap(vec![recap, RecapItem { forgotten: true, from: None, ..recap }])),
        ("record", Item::Entry(Entry::Record(samples::record(10, Kind::Write)))),
        ("moved", Item::Moved(samples::record(4, Kind::Discard))),
        ("truncate", Item::Entry(Entry::Truncate { volume, after: Seq(4) })),
        ("meta", Item::Entry(Entry::Meta { volume, blob: Bytes::from_static(b"meta") })),
        ("forget", Item::Entry(Entry::Forget { volume })),
        ("restart", Item::Entry(Entry::Restart { volume, end })),
        ("head", Item::Head(VolumeHead { volume, meta, log: Some((LogEnd::default(), end)) })),
        ("bare-head", Item::Head(VolumeHead { volume: VolumeId(5), meta: None, log: None })),
    ]
}

/// A whole group for each kind of item: header, body, padding.
#[test]
fn journal_groups() {
    let header = GroupHeader {
        journal: 0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10,
        generation: 0x1112,
        offset: 0x2000,
        segment: 0x13,
        entries: 0,
        body_bytes: 0,
        body_sum: BodySum::NONE,
        index: 0x1415,
        oldest: 0x1110,
        prev_crc: 0x1617_1819,
        flags: FLAG_HEAD | FLAG_HEAD_END,
    };
    let encode_as = |item: &Item, header: GroupHeader| {
        let mut builder = GroupBuilder::new(Vec::new());
        match item {
            Item::Entry(entry) => drop(put_entry(&mut builder, entry)),
            Item::Moved(record) => drop(put_moved(&mut builder, record)),
            Item::Recap(items) => put_recap(&mut builder, items),
            Item::Head(head) => put_head(&mut builder, head),
        }
        builder.finish(header).1
    };
    let encode = |item: &Item| encode_as(item, header);
    let decode = |bytes: Bytes| {
        let found = GroupHeader::decode(&bytes).expect("golden");
        assert!(found.is_at(header.journal, header.segment, header.offset) && found.padded_len() == bytes.len());
        let (index, oldest, prev_crc, flags) = (header.index, header.oldest, header.prev_crc, header.flags);
        assert_eq!((found.index, found.oldest, found.prev_crc, found.flags), (index, oldest, prev_crc, flags));
        let mut items = decode_items(found.body(&bytes).expect("golden"), found.entries).expect("golden");
        assert_eq!(items.len(), 1);
        items.remove(0).0
    };
    hold("v2/journal-group.txt", &items(), encode, decode);
    // Those of version 1 are read, and not written any more.
    let old = GroupHeader { body_sum: BodySum::Crc32(0), ..header };
    hold("v1/journal-group.txt", &items(), |item| encode_as(item, old), decode);
}

#[test]
fn journal_superblocks() {
    let fresh = Superblock { journal: 0x0102_0304, segment_bytes: 64 << 20, segments: 2, in_use: false, turn: 1 };
    let slots = [("fresh", fresh), ("in-use", Superblock { in_use: true, segments: 9, turn: 1000, ..fresh })];
    let decode = |bytes: Bytes| Superblock::decode(&bytes).expect("golden");
    hold("v1/journal-superblock.txt", &slots, |slot| slot.encode().to_vec(), decode);
}

/// The test of the test: another byte, another sample, a missing one are noticed.
#[test]
fn a_change_is_noticed() {
    if std::env::var_os("FARSHORE_BLESS").is_some() {
        return;
    }
    let good = samples::messages()[2].encode().concat();
    let mut other = good.clone();
    other[20] ^= 1;
    let all: Vec<(&str, Vec<u8>)> = samples::messages().iter().map(|m| (name_of(m), m.encode().concat())).collect();
    let mut bad = all.clone();
    bad[2].1 = other;
    for samples in [&bad[..], &all[1..]] {
        let held = std::panic::catch_unwind(|| bytes_file::hold(&file("v1/message.txt"), samples));
        assert!(held.is_err());
    }
}
