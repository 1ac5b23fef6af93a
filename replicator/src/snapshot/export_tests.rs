//! Exports: what is written is read, and nothing else is.

use std::path::Path;

use super::export::*;
use crate::bytes_file;

fn description() -> Description {
    Description {
        volume: "pg".into(),
        volume_id: 0x11,
        snapshot: "before-upgrade".into(),
        snapshot_id: 0x22,
        seq: 388,
        size_bytes: 64 << 20,
        created_unix_ms: 1_700_000_000_000,
        labels: vec![("app".into(), "db".into())],
        base: Some(Base { snapshot: "yesterday".into(), snapshot_id: 0x33 }),
    }
}

/// Two chunks of data around a hole; where each thing ends.
fn sample() -> (Vec<u8>, Vec<usize>) {
    let (mut writer, header) = ExportWriter::begin(&description());
    let mut bytes = header.to_vec();
    let mut ends = vec![bytes.len()];
    for piece in [writer.data(0, &[7; 8192]), writer.hole(1 << 20, 1 << 20), writer.data(63 << 20, &[9; 1 << 20])] {
        bytes.extend(&piece);
        ends.push(bytes.len());
    }
    bytes.extend(writer.end());
    ends.push(bytes.len());
    (bytes, ends)
}

fn read(bytes: &[u8]) -> Result<Vec<Chunk>, ExportError> {
    let mut reader = ExportReader::begin(bytes)?;
    let mut chunks = Vec::new();
    while let Some(chunk) = reader.next_chunk()? {
        chunks.push(chunk);
    }
    assert!(reader.ended() && reader.whole_bytes() == bytes.len() as u64);
    Ok(chunks)
}

#[test]
fn what_is_written_is_read() {
    let (bytes, _) = sample();
    assert_eq!(*ExportReader::begin(&bytes[..]).unwrap().description(), description());
    let chunks = read(&bytes).unwrap();
    let seen: Vec<_> = chunks.iter().map(|c| (c.offset, c.length, c.data.as_ref().map(|d| d[0]))).collect();
    assert_eq!(seen, [(0, 8192, Some(7)), (1 << 20, 1 << 20, None), (63 << 20, 1 << 20, Some(9))]);
}

#[test]
fn streams_are_written_as_version_1_always_was_and_read() {
    let (mut writer, header) = ExportWriter::begin(&description());
    let mut whole = header.to_vec();
    whole.extend(writer.data(4096, &[0x5a; 4096]));
    whole.extend(writer.hole(1 << 20, 65536));
    whole.extend(writer.end());
    let (_, plain) = ExportWriter::begin(&Description { base: None, labels: Vec::new(), ..description() });
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/snapshot/golden/v1/export.txt");
    let golden = bytes_file::hold(&path, &[("whole", whole), ("header-without-base", plain.to_vec())]);
    assert_eq!(read(&golden[0].1).expect("it is whole").len(), 2);
    let reader = ExportReader::begin(&golden[1].1[..]).expect("it is whole");
    assert_eq!(reader.description().base, None);
}

#[test]
fn every_cut_is_found_and_what_precedes_it_is_kept() {
    let (bytes, ends) = sample();
    // Every length around the ends, and some within.
    let near = ends.iter().flat_map(|end| end.saturating_sub(30)..(end + 30).min(bytes.len()));
    for len in near.chain((0..bytes.len()).step_by(4_099)) {
        let mut reader = match ExportReader::begin(&bytes[..len]) {
            Ok(reader) => reader,
            Err(ExportError::Cut { .. }) if len < ends[0] => continue,
            Err(error) => panic!("{len}: {error}"),
        };
        let error = loop {
            match reader.next_chunk() {
                Ok(Some(_)) => {}
                Ok(None) => panic!("{len}: read to an end that is not there"),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, ExportError::Cut { .. }), "{len}: {error}");
        let whole = *ends.iter().rfind(|end| **end <= len).unwrap();
        assert_eq!(reader.whole_bytes(), whole as u64, "{len}");
    }
}

#[test]
fn a_cut_export_goes_on_as_if_it_had_not_been_cut() {
    let (bytes, ends) = sample();
    let mut reader = ExportReader::begin(&bytes[..ends[2] + 5]).unwrap();
    while let Ok(Some(_)) = reader.next_chunk() {}
    let mut again = bytes[..reader.whole_bytes() as usize].to_vec();
    let mut writer = reader.into_writer();
    assert_eq!(writer.next_offset(), 2 << 20);
    again.extend(writer.data(63 << 20, &[9; 1 << 20]));
    again.extend(writer.end());
    assert!(again == bytes);
}

#[test]
fn no_flipped_bit_is_read() {
    let (bytes, ends) = sample();
    let near = ends.iter().flat_map(|end| end.saturating_sub(60)..(end + 20).min(bytes.len()));
    for at in (0..200).chain(near).chain((0..bytes.len()).step_by(9_973)) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        assert!(read(&flipped).is_err(), "byte {at}");
    }
}

#[test]
fn pieces_of_other_streams_and_other_places_are_refused() {
    let (bytes, ends) = sample();
    // The second and third chunk change places; each is whole by itself.
    let mut swapped = bytes[..ends[1]].to_vec();
    swapped.extend(&bytes[ends[2]..ends[3]]);
    swapped.extend(&bytes[ends[1]..ends[2]]);
    swapped.extend(&bytes[ends[3]..]);
    assert!(read(&swapped).unwrap_err().to_string().contains("does not follow"));
    let mut without = bytes[..ends[1]].to_vec();
    without.extend(&bytes[ends[3]..]);
    assert!(read(&without).unwrap_err().to_string().contains("does not fit"));
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(matches!(read(&longer), Err(ExportError::Longer(at)) if at == bytes.len() as u64));
}

#[test]
fn newer_and_foreign_ones_are_named() {
    let (mut bytes, _) = sample();
    bytes[8] = 2;
    assert!(read(&bytes).unwrap_err().to_string().contains("version 2, and this program knows versions up to 1"));
    assert!(matches!(read(b"QFI\xfb and more that follows"), Err(ExportError::Foreign)));
}
