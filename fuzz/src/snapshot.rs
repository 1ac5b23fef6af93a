//! The stream that a snapshot is exported to. Behind every piece stands a digest of all before it: chance never gets
//! past the first, so good ones are put onto what is tried.

use export::{Base, Chunk, Description, ExportReader, ExportWriter};

#[path = "../../replicator/src/snapshot/export.rs"]
mod export;

fn description() -> Description {
    Description {
        volume: "pg".into(),
        volume_id: 1,
        snapshot: "nightly".into(),
        snapshot_id: 2,
        seq: 3,
        size_bytes: 1 << 20,
        created_unix_ms: 4,
        labels: vec![("app".into(), "db".into())],
        base: Some(Base { snapshot: "before".into(), snapshot_id: 5 }),
    }
}

/// All chunks up to the first thing that is wrong; is it whole?
fn read(bytes: &[u8]) -> (Vec<Chunk>, bool) {
    let Ok(mut reader) = ExportReader::begin(bytes) else { return (Vec::new(), false) };
    let mut chunks = Vec::new();
    while let Ok(Some(chunk)) = reader.next_chunk() {
        chunks.push(chunk);
    }
    assert!(reader.whole_bytes() <= bytes.len() as u64);
    // What it took for right is what a writer writes.
    let (mut writer, header) = ExportWriter::begin(reader.description());
    let mut again = header.to_vec();
    for Chunk { offset, length, data } in &chunks {
        again.extend(match data {
            Some(data) => writer.data(*offset, data),
            None => writer.hole(*offset, *length),
        });
    }
    if reader.ended() {
        again.extend(writer.end());
    }
    assert_eq!(again, bytes[..reader.whole_bytes() as usize], "read as what would be written otherwise");
    (chunks, reader.ended())
}

/// The bytes as they are; as a description; and as the heads of chunks, each with a digest and checksum that is right.
pub fn exports(data: &[u8]) {
    read(data);

    let mut described = b"fshexpt1\x01\x00".to_vec();
    described.extend((data.len() as u32).to_le_bytes());
    described.extend(data);
    described.extend(crc32fast::hash(&described).to_le_bytes());
    read(&described);

    let (_, header) = ExportWriter::begin(&description());
    let mut stream = header.to_vec();
    for head in data.chunks_exact(17) {
        let begin = stream.len();
        stream.push(head[0] % 4);
        // Few bits of offset and length: so that some are good.
        let number =
            |at: usize| u64::from(head[at]) << 12 | u64::from(head[at + 1] & 1) << 40 | u64::from(head[at + 2] >> 7);
        stream.extend(number(1).to_le_bytes());
        stream.extend(number(9).to_le_bytes());
        if head[0] % 4 == 1 {
            stream.extend(vec![head[16]; (number(9) as usize).min(1 << 16)]);
        }
        stream.extend(&blake3::hash(&stream).as_bytes()[..16]);
        stream.extend(crc32fast::hash(&stream[begin..]).to_le_bytes());
    }
    read(&stream);
}

pub fn seeds() -> Vec<Vec<u8>> {
    let (mut writer, header) = ExportWriter::begin(&description());
    let mut whole = header.to_vec();
    whole.extend(writer.data(4096, &[7; 4096]));
    whole.extend(writer.hole(65536, 8192));
    whole.extend(writer.end());
    let described = header[14..header.len() - 4].to_vec();
    let heads =
        [[1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 9], [2, 3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]];
    vec![whole, described, heads.concat()]
}
