//! The bytes of what nodes say to each other and note for themselves, as this version writes them and as every later one
//! must read them.

use std::fmt::Debug;
use std::path::Path;

use bytes::Bytes;
use farshore_core::codec::DecodeError;

use super::answers::{self, Holding};
use super::diverged_note::DivergedCopy;
use super::kept_note::KeptVolume;
use super::scrub_record::ScrubRecord;
use super::{rpc, samples};
use crate::bytes_file;
use crate::store::EXTENT_BYTES;

/// Encodings as the file has them, and each decodes to its sample again; cut short or made longer, it does not.
pub(super) fn hold<T: PartialEq + Debug>(
    file: &str,
    samples: &[(&str, T)],
    encode: impl Fn(&T) -> Bytes,
    decode: impl Fn(Bytes) -> Result<T, DecodeError>,
) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/engine/golden/v1").join(file);
    let encoded: Vec<(&str, Vec<u8>)> = samples.iter().map(|(name, it)| (*name, encode(it).to_vec())).collect();
    let golden = bytes_file::hold(&path, &encoded);
    assert_eq!(golden.len(), samples.len());
    for ((name, bytes), (_, sample)) in golden.into_iter().zip(samples) {
        let bytes = Bytes::from(bytes);
        assert_eq!(decode(bytes.clone()).as_ref(), Ok(sample), "{name}");
        let short: Vec<usize> = (0..bytes.len()).filter(|len| decode(bytes.slice(..*len)).is_ok()).collect();
        assert!(short.is_empty(), "{name} is taken when cut to {short:?} bytes");
        assert!(decode([&bytes[..], &[0]].concat().into()).is_err(), "{name} is taken with a byte too many");
    }
}

#[test]
fn calls_answers_and_refusals() {
    hold("arrival.txt", &samples::arrivals(), samples::encoded, rpc::decode);
}

#[test]
fn what_calls_are_answered_with() {
    hold("basis.txt", &samples::bases(), |basis| answers::encode_basis(basis.as_ref()), answers::decode_basis);
    hold("changes.txt", &samples::pages(), answers::encode_changes, answers::decode_changes);
    hold("blocks.txt", &[("given", samples::given())], |all| answers::encode_blocks(all), answers::decode_blocks);
    hold("arrived.txt", &[("some", samples::arrived())], answers::encode_arrived, answers::decode_arrived);
    let same = [("some", vec![true, false])];
    hold("same.txt", &same, |same| answers::encode_same(same), answers::decode_same);
    hold("holding.txt", &[("failed", samples::holding())], Holding::encode, Holding::decode);
}

#[test]
fn notes() {
    hold("diverged-note.txt", &[("note", samples::diverged())], DivergedCopy::encode, DivergedCopy::decode);
    hold("kept-note.txt", &[("note", samples::kept())], KeptVolume::encode, KeptVolume::decode);
    hold("scrub-record.txt", &samples::scrubs(), ScrubRecord::encode, ScrubRecord::decode);
}

/// Whoever asked what a copy changed reckons with offsets: an extent beyond all bytes must be refused, not multiplied.
#[test]
fn an_extent_beyond_all_bytes_is_refused() {
    let (_, page) = samples::pages().swap_remove(0);
    for (extent, good) in [(u64::MAX / EXTENT_BYTES - 1, true), (u64::MAX / EXTENT_BYTES, false), (u64::MAX, false)] {
        let mut page = page.clone();
        page.extents[0].extent = extent;
        let found = answers::decode_changes(answers::encode_changes(&page));
        assert_eq!(found.is_ok(), good, "{found:?}");
        if let Ok(page) = found {
            assert!(!page.extents[0].runs().is_empty());
        }
    }
}

/// A call with wrong bytes in it must not be taken for a right one.
#[test]
fn shipped_blocks_carry_their_checksum() {
    let calls = samples::calls();
    let (_, page) = calls.iter().find(|(name, _)| *name == "ship-page").expect("it is among them");
    let bytes = rpc::encode_call(1, page);
    let mut bad = bytes.to_vec();
    let data = bad.iter().position(|byte| *byte == 0x5a).expect("the sample's data");
    bad[data + 100] ^= 1;
    assert!(matches!(rpc::decode(bad.into()), Err(DecodeError::Checksum { .. })));
}
