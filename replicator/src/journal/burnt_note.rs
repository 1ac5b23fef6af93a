//! The text of the note that a journal's disk failed.
//!
//! ```text
//! farshore burnt 1
//! journal 0123456789abcdef0123456789abcdef
//! reason  write to segment /var/lib/farshore/journal/segment-0001: Input/output error
//! ```

const FIRST_LINE: &str = "farshore burnt 1";
/// A longer file is not one of ours; it counts all the same.
pub(super) const NOTE_BYTES_MAX: usize = 4096;

/// What is found where a note would be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// This journal's disk failed, and why.
    Ours(String),
    Anothers,
    /// Counts as ours: damage is no proof that nothing happened.
    Unreadable,
}

pub(super) fn write(journal: u128, reason: &str) -> String {
    let mut text = format!("{FIRST_LINE}\njournal {journal:032x}\nreason  {}\n", reason.replace('\n', " "));
    let mut end = text.len().min(NOTE_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

pub(super) fn read(journal: u128, bytes: &[u8]) -> Said {
    let ours = format!("journal {journal:032x}");
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.lines();
    match (lines.next(), lines.next()) {
        (Some(FIRST_LINE), Some(named)) if named.starts_with("journal ") && named.len() == ours.len() => {
            if named != ours {
                return Said::Anothers;
            }
            let reason = lines.next().and_then(|line| line.strip_prefix("reason  ")).unwrap_or("unknown");
            Said::Ours(reason.to_string())
        }
        _ => Said::Unreadable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As every version must read it.
    const GOLDEN: &str = "farshore burnt 1\njournal 0123456789abcdef0123456789abcdef\nreason  no good\n";
    const JOURNAL: u128 = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef;

    #[test]
    fn golden_text_of_version_1() {
        assert_eq!(write(JOURNAL, "no\ngood"), GOLDEN);
        assert_eq!(read(JOURNAL, GOLDEN.as_bytes()), Said::Ours("no good".into()));
        assert_eq!(read(JOURNAL + 1, GOLDEN.as_bytes()), Said::Anothers);
        let long = write(JOURNAL, &"é".repeat(5000));
        assert!(long.len() <= NOTE_BYTES_MAX && matches!(read(JOURNAL, long.as_bytes()), Said::Ours(_)));
    }

    /// A note cut short or changed may say less. It must not say that nothing happened, unless it names another journal.
    #[test]
    fn a_damaged_note_counts() {
        for len in 0..GOLDEN.len() {
            assert_ne!(read(JOURNAL, &GOLDEN.as_bytes()[..len]), Said::Anothers, "cut to {len} bytes");
        }
        for at in 0..FIRST_LINE.len() {
            let mut bad = GOLDEN.as_bytes().to_vec();
            bad[at] ^= 0x10;
            assert_eq!(read(JOURNAL, &bad), Said::Unreadable, "byte {at}");
        }
    }
}
