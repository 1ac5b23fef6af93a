//! What a snapshot is called after the moment that it was made at.

use std::time::Duration;

/// Of every such name.
pub const MOMENT_NAME_LEN: usize = "2026-11-20t23-59-59.999".len();

/// UTC to the millisecond, of a time since 1970, in letters that a name may have.
pub fn moment_name(since: Duration) -> String {
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days as i64);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}t{hour:02}-{minute:02}-{second:02}.{:03}", since.subsec_millis())
}

/// Year, month and day of a day since 1970 (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_dates() {
        for (days, date) in [
            (0, (1970, 1, 1)),
            (59, (1970, 3, 1)),
            (11_016, (2000, 2, 29)),
            (11_017, (2000, 3, 1)),
            (20_454, (2026, 1, 1)),
            (20_818, (2026, 12, 31)),
        ] {
            assert_eq!(civil(days), date, "{days}");
        }
    }

    #[test]
    fn names_of_moments_sort_as_the_moments_do_and_are_as_long_as_is_said() {
        let name = moment_name(Duration::from_millis(1_795_219_199_999));
        assert_eq!((name.as_str(), name.len()), ("2026-11-20t23-59-59.999", MOMENT_NAME_LEN));
        assert!(moment_name(Duration::from_millis(1_795_219_200_000)) > name);
    }
}
