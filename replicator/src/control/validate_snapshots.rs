//! What a request about snapshots must look like before the engine sees it.

use farshore_proto::v1 as api;

use super::error::OpError;
use super::validate::{LABEL_LEN_MAX, LABELS_MAX, NAME_LEN_MAX, label_like, labels, volume_ref};

/// Volumes of one cut.
pub const GROUP_VOLUMES_MAX: usize = 64;
/// Data of one message of an import.
pub const IMPORT_RANGE_BYTES_MAX: usize = 1 << 20;
/// Ranges of one message of a difference.
pub const DIFF_RANGES_MAX: u32 = 4096;
/// Labels that begin so are the replicator's own.
pub const RESERVED_LABELS: &str = "farshore.";

pub fn snapshot_name(name: &str) -> Result<(), OpError> {
    if label_like(name, &['.'], NAME_LEN_MAX) {
        return Ok(());
    }
    Err(OpError::invalid(
        format!("{name:?} can't be a snapshot's name"),
        format!("use 1 to {NAME_LEN_MAX} of a-z, 0-9, '-' and '.', beginning and ending with a letter or digit"),
    ))
}

/// The parts of `volume@name`; of an id, nothing.
pub fn split(snapshot: &str) -> Option<(&str, &str)> {
    snapshot.split_once('@')
}

/// The 128 bits of 32 hex digits.
pub fn parse_id(text: &str) -> Option<u128> {
    let good = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
    good.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

/// A reference to an existing snapshot.
pub fn snapshot_ref(snapshot: &str) -> Result<(), OpError> {
    match split(snapshot) {
        Some((volume, name)) => {
            volume_ref(volume)?;
            snapshot_name(name)
        }
        None if parse_id(snapshot).is_some() => Ok(()),
        None => Err(OpError::invalid(
            format!("{snapshot:?} names no snapshot"),
            "write VOLUME@NAME, or the snapshot's id of 32 hex digits",
        )),
    }
}

pub(super) fn own_labels<'a>(mut keys: impl Iterator<Item = &'a String>) -> Result<(), OpError> {
    match keys.find(|key| key.starts_with(RESERVED_LABELS)) {
        None => Ok(()),
        Some(key) => Err(OpError::invalid(
            format!("label {key:?} is the replicator's own"),
            format!("choose a key that does not begin with {RESERVED_LABELS:?}"),
        )),
    }
}

/// `drawn` is the name where none was given.
pub fn create(
    mut request: api::CreateSnapshotRequest,
    drawn: impl FnOnce() -> String,
) -> Result<api::CreateSnapshotRequest, OpError> {
    let count = request.volumes.len();
    if count == 0 || count > GROUP_VOLUMES_MAX {
        return Err(OpError::invalid(
            format!("a snapshot of {count} volumes can't be made"),
            format!("name 1 to {GROUP_VOLUMES_MAX} volumes; several are cut at one moment"),
        ));
    }
    request.volumes.iter().try_for_each(|volume| volume_ref(volume))?;
    for (at, volume) in request.volumes.iter().enumerate() {
        if request.volumes[..at].contains(volume) {
            return Err(OpError::invalid(format!("volume {volume:?} is named twice"), "name each volume once"));
        }
    }
    if request.name.is_empty() {
        request.name = drawn();
    }
    snapshot_name(&request.name)?;
    labels(&request.labels)?;
    own_labels(request.labels.keys())?;
    Ok(request)
}

pub fn update(request: api::UpdateSnapshotRequest) -> Result<api::UpdateSnapshotRequest, OpError> {
    snapshot_ref(&request.snapshot)?;
    labels(&request.labels)?;
    own_labels(request.labels.keys())?;
    for hold in [&request.hold, &request.release] {
        if !hold.is_empty() && !label_like(hold, &['.'], NAME_LEN_MAX) {
            return Err(OpError::invalid(
                format!("{hold:?} can't be the name of a hold"),
                format!("use 1 to {NAME_LEN_MAX} of a-z, 0-9, '-' and '.', such as the name of who needs it"),
            ));
        }
    }
    if !request.hold.is_empty() && request.hold == request.release {
        return Err(OpError::invalid(format!("hold {:?} is set and released at once", request.hold), "do one of both"));
    }
    Ok(request)
}

pub fn diff(mut request: api::DiffRequest) -> Result<api::DiffRequest, OpError> {
    snapshot_ref(&request.snapshot)?;
    if !request.since.is_empty() {
        snapshot_ref(&request.since)?;
    }
    if request.max_ranges == 0 || request.max_ranges > DIFF_RANGES_MAX {
        request.max_ranges = DIFF_RANGES_MAX;
    }
    Ok(request)
}

pub fn read(request: api::ReadSnapshotRequest) -> Result<api::ReadSnapshotRequest, OpError> {
    snapshot_ref(&request.snapshot)?;
    let block = farshore_core::ids::BLOCK_BYTES;
    let end = request.offset_bytes.checked_add(request.length_bytes);
    if end.is_none() || !request.offset_bytes.is_multiple_of(block) || !request.length_bytes.is_multiple_of(block) {
        return Err(OpError::invalid(
            format!("{} bytes at {} can't be read", request.length_bytes, request.offset_bytes),
            format!("offset and length are multiples of {block}"),
        ));
    }
    Ok(request)
}

pub fn import(begin: api::ImportBegin) -> Result<api::ImportBegin, OpError> {
    volume_ref(&begin.volume)?;
    snapshot_name(&begin.snapshot)?;
    labels(&begin.labels)?;
    // Above all not a schedule's, which would delete what it takes for its own.
    own_labels(begin.labels.keys())?;
    for id in [&begin.source_snapshot_id, &begin.base_snapshot_id] {
        if !id.is_empty() && parse_id(id).is_none() {
            return Err(OpError::invalid(format!("{id:?} is no snapshot's id"), "ids are 32 hex digits"));
        }
    }
    Ok(begin)
}

pub fn import_range(range: api::ImportRange) -> Result<api::ImportRange, OpError> {
    let block = farshore_core::ids::BLOCK_BYTES;
    let data = range.data.len();
    let sized = data <= IMPORT_RANGE_BYTES_MAX && (data == 0 || data as u64 == range.length_bytes);
    let whole = range.offset_bytes.is_multiple_of(block) && range.length_bytes.is_multiple_of(block);
    if sized && whole && range.length_bytes > 0 && range.offset_bytes.checked_add(range.length_bytes).is_some() {
        return Ok(range);
    }
    Err(OpError::invalid(
        format!("{} bytes at {} can't be imported", range.length_bytes, range.offset_bytes),
        format!("send whole blocks of {block} bytes, at most {IMPORT_RANGE_BYTES_MAX} bytes of data at once"),
    ))
}

/// Of a volume's size: more would be no limit that anybody means.
const LIMIT_PERCENT_MAX: u32 = 1000;

pub fn limit(request: api::LimitSnapshotsRequest) -> Result<api::LimitSnapshotsRequest, OpError> {
    volume_ref(&request.volume)?;
    if request.bytes > 0 && request.percent > 0 {
        return Err(OpError::invalid("a limit was given in bytes and in percent", "give one of both"));
    }
    if request.percent > LIMIT_PERCENT_MAX {
        return Err(OpError::invalid(
            format!("{} % of a volume's size is no limit for its snapshots", request.percent),
            format!("give up to {LIMIT_PERCENT_MAX} %, or a number of bytes"),
        ));
    }
    Ok(request)
}

/// What a mark can carry, for requests that add to what is there.
pub fn labels_fit(labels: &std::collections::BTreeMap<String, String>) -> Result<(), OpError> {
    if labels.len() <= LABELS_MAX {
        return Ok(());
    }
    Err(OpError::invalid(
        format!("the snapshot would have {} labels", labels.len()),
        format!("take some away first; {LABELS_MAX} of up to {LABEL_LEN_MAX} bytes are what it can have"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_are_named_by_volume_and_name_or_by_id() {
        for good in ["pg@s1", "pg-data.0@before-upgrade", &"0a".repeat(16)] {
            assert!(snapshot_ref(good).is_ok(), "{good}");
        }
        for bad in ["", "pg", "pg@", "@s1", "pg@s1@s2", "Pg@s1", "pg@S", &"0a".repeat(15), "pg@../x"] {
            let error = snapshot_ref(bad).expect_err(bad);
            assert!(!error.remedy.is_empty(), "{bad}");
        }
    }

    #[test]
    fn a_cut_names_each_volume_once_and_labels_that_are_the_users() {
        let request = |volumes: &[&str], label: &str| api::CreateSnapshotRequest {
            volumes: volumes.iter().map(|v| v.to_string()).collect(),
            name: String::new(),
            labels: [(label.to_string(), "x".to_string())].into(),
        };
        let drawn = || "at-noon".to_string();
        assert_eq!(create(request(&["a", "b"], "k"), drawn).unwrap().name, "at-noon");
        for (bad, part) in [
            (request(&[], "k"), "0 volumes"),
            (request(&["a", "b", "a"], "k"), "named twice"),
            (request(&["a"], "farshore.cut"), "replicator's own"),
            (api::CreateSnapshotRequest { name: "No".into(), ..request(&["a"], "k") }, "snapshot's name"),
        ] {
            let error = create(bad, drawn).expect_err(part);
            assert!(error.message.contains(part), "{part:?} is not in {:?}", error.message);
        }
    }

    #[test]
    fn a_limit_is_one_number() {
        let request =
            |bytes, percent| limit(api::LimitSnapshotsRequest { volume: "pg".into(), bytes, percent }).is_ok();
        assert!(request(0, 0) && request(1, 0) && request(0, 1) && request(u64::MAX, 0) && request(0, 1000));
        assert!(!request(1, 1) && !request(0, 1001));
    }

    #[test]
    fn ranges_are_whole_blocks_of_a_bounded_size() {
        let range = |offset_bytes, data: usize, length_bytes| {
            import_range(api::ImportRange { offset_bytes, data: vec![1; data], length_bytes }).is_ok()
        };
        assert!(range(4096, 8192, 8192) && range(0, 0, 1 << 40));
        assert!(!range(0, 0, 0) && !range(1, 4096, 4096) && !range(0, 4096, 8192) && !range(0, 100, 100));
        assert!(!range(u64::MAX - 4095, 0, 8192));
        assert!(!range(0, IMPORT_RANGE_BYTES_MAX + 4096, IMPORT_RANGE_BYTES_MAX as u64 + 4096));
    }
}
