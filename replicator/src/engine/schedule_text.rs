//! A schedule as it is kept: the value of a label of its volume, so that it is in the register, on every member, and goes
//! wherever the primary goes.
//!
//! ```text
//! farshore.schedule.NAME = 1 id=0123456789abcdef every=3600000 keep=24 keep-for=0 since=1700000000000 name=… label=KEY=VALUE …
//! ```
//! The version comes first, then each field once, in this order; times in milliseconds; labels in the order of their keys.
//! What is not a letter, a digit or one of `-._{}:/` is `%` and two hex digits. A label that users see should be readable,
//! hence text.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use farshore_core::codec::DecodeError;

/// What the label of a schedule begins with; its name follows.
pub const SCHEDULE_LABEL: &str = "farshore.schedule.";
const VERSION: u64 = 1;
const WHAT: &str = "snapshot schedule";
/// Of the text. All schedules of a volume must fit into messages that carry its configuration.
pub const SCHEDULE_TEXT_MAX: usize = 2048;

/// Snapshots that a volume's primary makes by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// Drawn for it: what an earlier schedule of the same name made is not its own.
    pub id: u64,
    pub interval_ms: u64,
    /// Keep the newest so many; 0: however many.
    pub keep: u32,
    /// Keep for so long; 0: for ever.
    pub keep_for_ms: u64,
    pub since_unix_ms: i64,
    /// Of the snapshots' names.
    pub pattern: String,
    pub labels: BTreeMap<String, String>,
}

fn invalid(reason: &'static str) -> DecodeError {
    DecodeError::Invalid { what: WHAT, reason }
}

impl Schedule {
    pub fn encode(&self) -> String {
        let Schedule { id, interval_ms, keep, keep_for_ms, since_unix_ms, pattern, labels } = self;
        let mut out = format!(
            "{VERSION} id={id:016x} every={interval_ms} keep={keep} keep-for={keep_for_ms} since={since_unix_ms} name={}",
            escaped(pattern)
        );
        for (key, value) in labels {
            let _ = write!(out, " label={}={}", escaped(key), escaped(value));
        }
        out
    }

    /// What it accepts encodes to the same text again.
    pub fn decode(text: &str) -> Result<Schedule, DecodeError> {
        if text.len() > SCHEDULE_TEXT_MAX {
            let limit = SCHEDULE_TEXT_MAX as u64;
            return Err(DecodeError::Limit { what: WHAT, found: text.len() as u64, limit });
        }
        let mut fields = text.split(' ');
        let version: u64 = number(fields.next().unwrap_or_default())?;
        if version > VERSION {
            return Err(DecodeError::Newer { what: WHAT, found: version, known: VERSION });
        }
        if version == 0 {
            return Err(DecodeError::Unknown { what: WHAT, found: 0 });
        }
        let mut field = |name: &str| {
            let next = fields.next().and_then(|field| field.split_once('='));
            let (found, value) = next.ok_or_else(|| invalid("a field is missing"))?;
            if found == name { Ok(value) } else { Err(invalid("its fields are not in their order")) }
        };
        let id = field("id")?;
        let id = u64::from_str_radix(id, 16).ok().filter(|n| format!("{n:016x}") == id);
        let mut schedule = Schedule {
            id: id.ok_or_else(|| invalid("its id is not 16 hex digits"))?,
            interval_ms: number(field("every")?)?,
            keep: number(field("keep")?)?,
            keep_for_ms: number(field("keep-for")?)?,
            since_unix_ms: number(field("since")?)?,
            pattern: plain(field("name")?)?,
            labels: BTreeMap::new(),
        };
        if schedule.interval_ms == 0 {
            return Err(invalid("its interval is nothing"));
        }
        for field in fields {
            let label = field.strip_prefix("label=").and_then(|label| label.split_once('='));
            let (key, value) = label.ok_or_else(|| invalid("a field is not known"))?;
            let (key, value) = (plain(key)?, plain(value)?);
            if schedule.labels.last_key_value().is_some_and(|(last, _)| *last >= key) {
                return Err(invalid("its labels are not in the order of their keys"));
            }
            schedule.labels.insert(key, value);
        }
        Ok(schedule)
    }

    /// The same but for what tells one from an earlier one.
    pub fn is_like(&self, other: &Schedule) -> bool {
        *self == Schedule { id: self.id, since_unix_ms: self.since_unix_ms, ..other.clone() }
    }
}

/// A number as it is written here: no sign but of what is negative, no zero before it.
fn number<N: std::str::FromStr + ToString>(text: &str) -> Result<N, DecodeError> {
    text.parse().ok().filter(|n: &N| n.to_string() == text).ok_or_else(|| invalid("a number can't be read"))
}

fn stays(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._{}:/".contains(&byte)
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match stays(byte) {
            true => out.push(byte as char),
            false => drop(write!(out, "%{byte:02x}")),
        }
    }
    out
}

fn plain(text: &str) -> Result<String, DecodeError> {
    let (mut out, mut bytes) = (Vec::with_capacity(text.len()), text.bytes());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            if !stays(byte) {
                return Err(invalid("a byte stands there as it is that must not"));
            }
            out.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| match byte {
            Some(byte @ b'0'..=b'9') => Ok(byte - b'0'),
            Some(byte @ b'a'..=b'f') => Ok(byte - b'a' + 10),
            _ => Err(invalid("a % is not followed by two hex digits")),
        };
        let byte = digit(bytes.next())? << 4 | digit(bytes.next())?;
        if stays(byte) {
            return Err(invalid("a byte is hidden that need not be"));
        }
        out.push(byte);
    }
    String::from_utf8(out).map_err(|_| invalid("text is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn schedule() -> Schedule {
        Schedule {
            id: 0x4f2a,
            interval_ms: 3_600_000,
            keep: 24,
            keep_for_ms: 0,
            since_unix_ms: -1,
            pattern: "{schedule}-{time}".into(),
            labels: [("app".to_string(), "a b=c%".to_string()), ("é".to_string(), String::new())].into(),
        }
    }

    #[test]
    fn a_schedule_is_kept_as_text_that_later_versions_read() {
        let text = "1 id=0000000000004f2a every=3600000 keep=24 keep-for=0 since=-1 name={schedule}-{time} \
                    label=app=a%20b%3dc%25 label=%c3%a9=";
        assert_eq!(schedule().encode(), text);
        assert_eq!(Schedule::decode(text), Ok(schedule()));
    }

    #[test]
    fn what_is_cut_turned_round_or_newer_is_refused() {
        let text = schedule().encode();
        let fields = text.split(" label=").next().expect("a beginning").to_string();
        for end in 0..fields.len() - "{schedule}-{time}".len() {
            assert!(Schedule::decode(&text[..end]).is_err(), "{}", &text[..end]);
        }
        assert!(matches!(Schedule::decode("2 whatever"), Err(DecodeError::Newer { found: 2, known: 1, .. })));
        for (from, into) in [
            ("1 id", "0 id"),
            ("1 id", "01 id"),
            ("every=3600000", "every=0"),
            ("keep=24", "keep=+24"),
            ("keep=24", "keep=99999999999"),
            ("keep=24 keep-for=0", "keep-for=0 keep=24"),
            ("%20", "%"),
            ("%20", "%2G"),
            ("%20", " "),
            ("%20", "%61"),
            ("label=app", "label=%f0%9f%98%80"),
            ("label=app", "table=app"),
        ] {
            let bad = text.replacen(from, into, 1);
            assert!(bad != text && Schedule::decode(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn another_one_of_the_same_kind_is_told_from_the_same() {
        assert!(schedule().is_like(&Schedule { id: 1, since_unix_ms: 1, ..schedule() }));
        assert!(!schedule().is_like(&Schedule { keep: 1, ..schedule() }));
    }

    proptest! {
        #[test]
        fn foreign_text_is_refused_or_encodes_to_itself(
            at in 0_usize..120, with in "[ -~é]{0,3}", cut in 0_usize..4
        ) {
            let mut text: Vec<char> = schedule().encode().chars().collect();
            let at = at.min(text.len());
            text.splice(at..(at + cut).min(text.len()), with.chars());
            let text: String = text.into_iter().collect();
            if let Ok(read) = Schedule::decode(&text) {
                prop_assert_eq!(read.encode(), text);
            }
        }

        #[test]
        fn any_labels_and_pattern_survive(pattern in ".{0,40}", key in ".{1,20}", value in ".{0,40}") {
            let schedule = Schedule { pattern, labels: [(key, value)].into(), ..schedule() };
            if schedule.encode().len() <= SCHEDULE_TEXT_MAX {
                prop_assert_eq!(Schedule::decode(&schedule.encode()), Ok(schedule));
            }
        }
    }
}
