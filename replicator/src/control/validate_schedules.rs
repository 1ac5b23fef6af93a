//! What a request about schedules must look like before the engine sees it, and the defaults that it may leave out.

use farshore_proto::v1 as api;

use super::error::OpError;
use super::moment_name::MOMENT_NAME_LEN;
use super::validate::{NAME_LEN_MAX, label_like, labels, volume_ref};
use super::validate_snapshots::{own_labels, snapshot_name};

/// Short enough for the snapshots' names to begin with it.
pub const SCHEDULE_NAME_LEN_MAX: usize = 32;
pub const SCHEDULE_LABELS_MAX: usize = 16;
/// Of keys and values, together.
pub const SCHEDULE_LABEL_BYTES_MAX: usize = 512;
pub const INTERVAL_MS_MIN: u64 = 1_000;
/// Ten years.
pub const INTERVAL_MS_MAX: u64 = 10 * 365 * 86_400_000;
pub const KEEP_MAX: u32 = 10_000;
pub const PATTERN_DEFAULT: &str = "{schedule}-{time}";
pub const NAME_PLACE: &str = "{schedule}";
pub const TIME_PLACE: &str = "{time}";

/// A schedule's name, and the volume that it is of.
pub fn reference(volume: &str, name: &str) -> Result<(), OpError> {
    volume_ref(volume)?;
    if label_like(name, &[], SCHEDULE_NAME_LEN_MAX) {
        return Ok(());
    }
    Err(OpError::invalid(
        format!("{name:?} can't be a schedule's name"),
        format!("use 1 to {SCHEDULE_NAME_LEN_MAX} of a-z, 0-9 and '-', beginning and ending with a letter or digit"),
    ))
}

/// Fills in the pattern.
pub fn create(mut request: api::CreateScheduleRequest) -> Result<api::CreateScheduleRequest, OpError> {
    reference(&request.volume, &request.name)?;
    if !(INTERVAL_MS_MIN..=INTERVAL_MS_MAX).contains(&request.interval_ms) {
        return Err(OpError::invalid(
            format!("a snapshot each {} ms can't be made", request.interval_ms),
            "give an interval from 1 s to ten years",
        ));
    }
    if request.keep == 0 && request.keep_for_ms == 0 {
        return Err(OpError::invalid(
            format!("schedule {:?} would keep its snapshots for ever, until the disks are full", request.name),
            "say how many it keeps, or for how long",
        ));
    }
    if request.keep > KEEP_MAX {
        return Err(OpError::invalid(
            format!("{} snapshots are too many to keep", request.keep),
            format!("keep up to {KEEP_MAX}"),
        ));
    }
    if request.keep_for_ms > 0 && !(request.interval_ms..=INTERVAL_MS_MAX).contains(&request.keep_for_ms) {
        return Err(OpError::invalid(
            format!("snapshots each {} ms can't be kept for {} ms", request.interval_ms, request.keep_for_ms),
            "keep each for at least one interval, and for ten years at most",
        ));
    }
    if request.pattern.is_empty() {
        request.pattern = PATTERN_DEFAULT.into();
    }
    pattern(&request.pattern, &request.name)?;
    labels(&request.labels)?;
    own_labels(request.labels.keys())?;
    let bytes: usize = request.labels.iter().map(|(key, value)| key.len() + value.len()).sum();
    if request.labels.len() > SCHEDULE_LABELS_MAX || bytes > SCHEDULE_LABEL_BYTES_MAX {
        return Err(OpError::invalid(
            format!("{} labels of {bytes} bytes are too many for a schedule", request.labels.len()),
            format!("give up to {SCHEDULE_LABELS_MAX}, of {SCHEDULE_LABEL_BYTES_MAX} bytes together"),
        ));
    }
    Ok(request)
}

/// Whatever it is filled with, it must be a name, and another one each time.
fn pattern(pattern: &str, schedule: &str) -> Result<(), OpError> {
    let filled = pattern.replace(NAME_PLACE, schedule).replace(TIME_PLACE, &"0".repeat(MOMENT_NAME_LEN));
    if pattern.contains(TIME_PLACE) && snapshot_name(&filled).is_ok() {
        return Ok(());
    }
    Err(OpError::invalid(
        format!("snapshots can't be named by the pattern {pattern:?}"),
        format!(
            "use {TIME_PLACE}, {NAME_PLACE} if you like, and a-z, 0-9, '-' and '.'; with a time of {MOMENT_NAME_LEN} \
             letters it may have {NAME_LEN_MAX}"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> api::CreateScheduleRequest {
        api::CreateScheduleRequest {
            volume: "pg".into(),
            name: "hourly".into(),
            interval_ms: 3_600_000,
            keep: 24,
            ..Default::default()
        }
    }

    #[test]
    fn a_schedule_says_how_often_and_how_many() {
        assert_eq!(create(request()).unwrap().pattern, PATTERN_DEFAULT);
        let longest = "x".repeat(SCHEDULE_NAME_LEN_MAX);
        assert!(create(api::CreateScheduleRequest { name: longest, ..request() }).is_ok());
        let many = (0..17).map(|i| (i.to_string(), String::new())).collect();
        let bad = |change: fn(&mut api::CreateScheduleRequest)| {
            let mut request = request();
            change(&mut request);
            request
        };
        for (bad, part) in [
            (bad(|r| r.name = "a.b".into()), "schedule's name"),
            (bad(|r| r.name = "x".repeat(33)), "schedule's name"),
            (bad(|r| r.volume.clear()), "no volume"),
            (bad(|r| r.interval_ms = 999), "each 999 ms"),
            (bad(|r| r.interval_ms = u64::MAX), "can't be made"),
            (bad(|r| r.keep = 0), "for ever"),
            (bad(|r| r.keep = KEEP_MAX + 1), "too many"),
            (bad(|r| r.keep_for_ms = 1), "can't be kept for 1 ms"),
            (bad(|r| r.pattern = "{schedule}".into()), "pattern"),
            (bad(|r| r.pattern = "{time}@".into()), "pattern"),
            (bad(|r| r.pattern = format!("{{time}}{}", "x".repeat(41))), "pattern"),
            (bad(|r| drop(r.labels.insert("farshore.x".into(), "y".into()))), "replicator's own"),
            (api::CreateScheduleRequest { labels: many, ..request() }, "too many for a schedule"),
        ] {
            let error = create(bad).expect_err(part);
            assert!(error.message.contains(part) && !error.remedy.is_empty(), "{part:?} is not in {:?}", error.message);
        }
    }
}
