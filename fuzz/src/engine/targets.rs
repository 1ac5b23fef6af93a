//! Calls between nodes, their answers, notes of diverged copies and of deleted volumes, schedules, the progress of scrubs.

use bytes::Bytes;

use super::answers::{
    Holding, decode_arrived, decode_basis, decode_blocks, decode_changes, decode_same, encode_arrived, encode_basis,
    encode_blocks, encode_changes, encode_same,
};
use super::diverged_note::DivergedCopy;
use super::kept_note::KeptVolume;
use super::rpc::{self, Arrival};
use super::samples;
use super::schedule_text::Schedule;
use super::scrub_record::ScrubRecord;
use crate::seal::sealed;

fn one_arrival(bytes: Bytes) {
    let Ok(arrival) = rpc::decode(bytes) else { return };
    let known = match &arrival {
        // An error of a kind that is not known is read as another one.
        Arrival::Answer { result, .. } => result.is_ok(),
        _ => true,
    };
    let again = rpc::decode(samples::encoded(&arrival));
    assert!(again.is_ok() && (!known || again == Ok(arrival)));
}

/// Whatever a transport message may hold.
pub fn calls(data: &[u8]) {
    one_arrival(Bytes::copy_from_slice(data));
    // Blocks within a page, by their own length, get a good checksum: chance finds none.
    const DATA_AT: usize = 1 + 8 + 1 + 16 + 16 + 4 + 8 + 8 + 1;
    if let Some(length) = data.get(DATA_AT..DATA_AT + 4) {
        let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]) as usize;
        let end = DATA_AT + 4 + length.min(data.len());
        if let Some(blocks) = data.get(DATA_AT + 4..end) {
            let crc = crc32fast::hash(blocks).to_le_bytes();
            one_arrival([&data[..end], &crc, data.get(end + 4..).unwrap_or_default()].concat().into());
        }
    }
}

pub fn call_seeds() -> Vec<Vec<u8>> {
    samples::arrivals().iter().map(|(_, arrival)| samples::encoded(arrival).to_vec()).collect()
}

/// First byte: which call is answered.
pub fn answers(data: &[u8]) {
    let Some((which, rest)) = data.split_first() else { return };
    let bytes = Bytes::copy_from_slice(rest);
    match which % 6 {
        0 => {
            if let Ok(basis) = decode_basis(bytes) {
                assert_eq!(decode_basis(encode_basis(basis.as_ref())), Ok(basis));
            }
        }
        1 => {
            if let Ok(page) = decode_changes(bytes) {
                // Whoever asked makes offsets of them.
                page.extents.iter().for_each(|extent| drop(extent.runs()));
                assert_eq!(decode_changes(encode_changes(&page)), Ok(page));
            }
        }
        2 => {
            if let Ok(blocks) = decode_blocks(bytes) {
                assert_eq!(decode_blocks(encode_blocks(&blocks)), Ok(blocks));
            }
        }
        4 => {
            if let Ok(arrived) = decode_arrived(bytes) {
                assert_eq!(decode_arrived(encode_arrived(&arrived)), Ok(arrived));
            }
        }
        5 => {
            if let Ok(same) = decode_same(bytes) {
                assert_eq!(decode_same(encode_same(&same)), Ok(same));
            }
        }
        _ => {
            if let Ok(holding) = Holding::decode(bytes) {
                assert_eq!(Holding::decode(holding.encode()), Ok(holding));
            }
        }
    }
}

pub fn answer_seeds() -> Vec<Vec<u8>> {
    let seed = |which: u8, bytes: Bytes| [&[which], &bytes[..]].concat();
    let bases = samples::bases().into_iter().map(|(_, basis)| seed(0, encode_basis(basis.as_ref())));
    let pages = samples::pages().into_iter().map(|(_, page)| seed(1, encode_changes(&page)));
    bases
        .chain(pages)
        .chain([seed(2, encode_blocks(&samples::given())), seed(3, samples::holding().encode())])
        .chain([seed(4, encode_arrived(&samples::arrived())), seed(5, encode_same(&[true, false]))])
        .collect()
}

pub fn diverged_notes(data: &[u8]) {
    let _ = DivergedCopy::decode(Bytes::copy_from_slice(data));
    if let Ok(copy) = DivergedCopy::decode(sealed(data)) {
        assert_eq!(DivergedCopy::decode(copy.encode()), Ok(copy));
    }
}

/// Without the checksum: the target adds it.
pub fn diverged_seeds() -> Vec<Vec<u8>> {
    let bytes = samples::diverged().encode();
    vec![bytes[..bytes.len() - 4].to_vec()]
}

pub fn kept_notes(data: &[u8]) {
    let _ = KeptVolume::decode(Bytes::copy_from_slice(data));
    if let Ok(kept) = KeptVolume::decode(sealed(data)) {
        assert_eq!(KeptVolume::decode(kept.encode()), Ok(kept));
    }
}

/// Without the checksum: the target adds it.
pub fn kept_seeds() -> Vec<Vec<u8>> {
    let bytes = samples::kept().encode();
    vec![bytes[..bytes.len() - 4].to_vec()]
}

pub fn scrub_records(data: &[u8]) {
    let _ = ScrubRecord::decode(Bytes::copy_from_slice(data));
    if let Ok(record) = ScrubRecord::decode(sealed(data)) {
        assert_eq!(ScrubRecord::decode(record.encode()), Ok(record));
    }
}

/// Without the checksum: the target adds it.
pub fn scrub_seeds() -> Vec<Vec<u8>> {
    let all = samples::scrubs().into_iter().map(|(_, record)| record.encode());
    all.map(|bytes| bytes[..bytes.len() - 4].to_vec()).collect()
}

pub fn schedules(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(schedule) = Schedule::decode(text) {
        assert_eq!(schedule.encode(), text);
    }
}

pub fn schedule_seeds() -> Vec<Vec<u8>> {
    let labels = [("app".to_string(), "a b=c%".to_string()), ("é".to_string(), String::new())].into();
    let schedule = Schedule {
        id: 0x4f2a,
        interval_ms: 3_600_000,
        keep: 24,
        keep_for_ms: 0,
        since_unix_ms: -1,
        pattern: "{schedule}-{time}".into(),
        labels,
    };
    vec![schedule.encode().into_bytes()]
}
