//! What a schedule asks for now: when the next snapshot is due, and which of those it made have outlived their time.
//!
//! The wall clock is looked at for two things only. *When somebody begins to lead:* how old the newest snapshot is, so
//! that a takeover neither doubles nor skips one. From then on the boot clock counts, so wall clocks that jump make no
//! storm and no gap longer than one interval. *What is too old:* a clock that jumped ahead would call everything too old,
//! so a few go at a time, with each run, and the newest never does.

use farshore_core::ids::Tick;

use super::schedule_text::Schedule;
use crate::store::SnapshotRow;

/// Of a snapshot: the id of the schedule that made it, which is the one that deletes it.
pub const MADE_BY_LABEL: &str = "farshore.schedule-id";
/// Of a snapshot: that schedule's name, for people.
pub const MADE_AS_LABEL: &str = "farshore.schedule";
/// Snapshots that are given up for their age in one run. More than one: else what has piled up would stay.
const AGED_AT_ONCE: usize = 2;

/// When the first run under a new leader is due. Missed ones are made up for by one, at once.
pub fn first_due(schedule: &Schedule, newest_unix_ms: Option<i64>, unix_ms: i64, now: Tick) -> Tick {
    let interval_ms = schedule.interval_ms;
    let left_ms = match newest_unix_ms {
        None => 0,
        Some(newest) => match u64::try_from(unix_ms.saturating_sub(newest)) {
            Ok(age_ms) => interval_ms.saturating_sub(age_ms),
            // It lies ahead: this clock was set back, or the other one was wrong. Nobody can say how old it is.
            Err(_) => interval_ms,
        },
    };
    after(now, left_ms)
}

/// When the run after this one is due: an interval after it was, or, when that is over too, an interval from now.
pub fn next_due(schedule: &Schedule, due: Tick, now: Tick) -> Tick {
    let next = after(due, schedule.interval_ms);
    if next > now { next } else { after(now, schedule.interval_ms) }
}

pub fn after(now: Tick, ms: u64) -> Tick {
    now.plus(ms.saturating_mul(1000))
}

/// Those that a schedule made, oldest first.
pub fn own<'a>(schedule: &Schedule, rows: &'a [SnapshotRow]) -> Vec<&'a SnapshotRow> {
    let id = id_text(schedule);
    rows.iter().filter(|row| row.labels.get(MADE_BY_LABEL) == Some(&id)).collect()
}

pub fn id_text(schedule: &Schedule) -> String {
    format!("{:016x}", schedule.id)
}

/// What is over, of a schedule's own snapshots.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outlived<'a> {
    pub to_delete: Vec<&'a SnapshotRow>,
    /// Somebody holds them: they stay.
    pub held: Vec<&'a SnapshotRow>,
}

pub fn outlived<'a>(schedule: &Schedule, own: &[&'a SnapshotRow], unix_ms: i64) -> Outlived<'a> {
    let mut out = Outlived::default();
    let Some((_newest, older)) = own.split_last() else { return out };
    let by_count = if schedule.keep == 0 { 0 } else { own.len().saturating_sub(schedule.keep as usize) };
    let mut aged = 0;
    for (at, row) in older.iter().enumerate() {
        let age_ms = u64::try_from(unix_ms.saturating_sub(row.created_unix_ms)).unwrap_or(0);
        let old = schedule.keep_for_ms > 0 && age_ms > schedule.keep_for_ms;
        if at >= by_count && !old {
            continue;
        }
        if !row.holds.is_empty() {
            out.held.push(row);
            continue;
        }
        if at >= by_count {
            if aged == AGED_AT_ONCE {
                continue;
            }
            aged += 1;
        }
        out.to_delete.push(row);
    }
    out
}

#[cfg(test)]
mod tests {
    use farshore_core::ids::Seq;
    use farshore_core::mark::SnapshotId;

    use super::*;
    use crate::store::SnapshotState;

    const HOUR_MS: u64 = 3_600_000;
    const NOW: Tick = Tick(5_000_000_000);

    fn schedule(keep: u32, keep_for_ms: u64) -> Schedule {
        Schedule {
            id: 7,
            interval_ms: HOUR_MS,
            keep,
            keep_for_ms,
            since_unix_ms: 0,
            pattern: "{time}".into(),
            labels: Default::default(),
        }
    }

    /// One each hour, the last one now.
    fn rows(count: u64) -> Vec<SnapshotRow> {
        let row = |at: u64| SnapshotRow {
            id: SnapshotId(u128::from(at) + 1),
            group: None,
            name: at.to_string(),
            labels: [(MADE_BY_LABEL.to_string(), id_text(&schedule(0, 0)))].into(),
            holds: Default::default(),
            created_unix_ms: (at * HOUR_MS) as i64,
            seq: Seq(at + 1),
            size_bytes: 4096,
            state: SnapshotState::Ready,
        };
        (0..count).map(row).collect()
    }

    fn names(rows: &[&SnapshotRow]) -> Vec<String> {
        rows.iter().map(|row| row.name.clone()).collect()
    }

    #[test]
    fn a_leader_goes_on_where_the_last_one_was() {
        let first = |newest, unix_ms| first_due(&schedule(1, 0), newest, unix_ms, NOW);
        let hour = HOUR_MS as i64;
        assert_eq!(first(None, 9 * hour), NOW, "the first one of all, at once");
        assert_eq!(first(Some(9 * hour), 9 * hour), after(NOW, HOUR_MS), "made just now: not twice");
        assert_eq!(first(Some(9 * hour), 9 * hour + 600_000), after(NOW, HOUR_MS - 600_000));
        assert_eq!(first(Some(0), 100 * hour), NOW, "a hundred were missed: one, at once");
        assert_eq!(
            first(Some(1000 * hour), 9 * hour),
            after(NOW, HOUR_MS),
            "a clock that was set back costs an interval"
        );
        assert_eq!(first(Some(i64::MIN), i64::MAX), NOW);
        assert_eq!(first(Some(i64::MAX), i64::MIN), after(NOW, HOUR_MS));
    }

    #[test]
    fn runs_keep_their_rhythm_and_what_was_missed_is_made_up_for_once() {
        let (due, hour_us) = (NOW, HOUR_MS * 1000);
        let next = |now: u64| next_due(&schedule(1, 0), due, Tick(NOW.0 + now)).0 - NOW.0;
        assert_eq!(next(0), hour_us);
        assert_eq!(next(hour_us / 2), hour_us, "a late run is no reason for the next one to be late");
        assert_eq!(next(hour_us), 2 * hour_us);
        assert_eq!(next(50 * hour_us), 51 * hour_us, "fifty were missed, and one was made");
        assert_eq!(next_due(&Schedule { interval_ms: u64::MAX, ..schedule(1, 0) }, due, NOW), Tick(u64::MAX));
    }

    #[test]
    fn so_many_are_kept_or_for_so_long_and_held_ones_always() {
        let mut rows = rows(10);
        let all: Vec<&SnapshotRow> = rows.iter().collect();
        let now = 9 * HOUR_MS as i64;
        let gone = |schedule: &Schedule, all: &[&SnapshotRow], now| names(&outlived(schedule, all, now).to_delete);
        assert_eq!(gone(&schedule(7, 0), &all, now), ["0", "1", "2"]);
        assert!(gone(&schedule(10, 0), &all, now).is_empty() && gone(&schedule(0, 0), &all, now).is_empty());
        assert_eq!(gone(&schedule(0, 7 * HOUR_MS), &all, now), ["0", "1"]);
        assert_eq!(gone(&schedule(9, 7 * HOUR_MS), &all, now), ["0", "1"], "whichever bound comes first");
        // A clock that jumped ten years.
        let jumped = now + 87_600 * HOUR_MS as i64;
        assert_eq!(gone(&schedule(0, 7 * HOUR_MS), &all, jumped), ["0", "1"], "never all of them at once");
        assert!(gone(&schedule(0, HOUR_MS), &all[9..], jumped).is_empty(), "the newest stays however old it is");
        assert!(gone(&schedule(0, HOUR_MS), &all, -jumped).is_empty(), "nothing is younger than new");

        rows[1].holds.insert("backup".into());
        let all: Vec<&SnapshotRow> = rows.iter().collect();
        let found = outlived(&schedule(7, 0), &all, now);
        assert_eq!((names(&found.to_delete), names(&found.held)), (vec!["0".into(), "2".into()], vec!["1".into()]));
        let aged = outlived(&schedule(0, 6 * HOUR_MS), &all, now);
        assert_eq!((names(&aged.to_delete), names(&aged.held)), (vec!["0".into(), "2".into()], vec!["1".into()]));
    }

    #[test]
    fn only_its_own_are_a_schedules_business() {
        let mut rows = rows(4);
        rows[1].labels.clear();
        rows[2].labels.insert(MADE_BY_LABEL.into(), "0000000000000008".into());
        assert_eq!(names(&own(&schedule(1, 0), &rows)), ["0", "3"]);
    }
}
