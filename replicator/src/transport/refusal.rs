//! Why a connection was refused: a stable code, a sentence for the operator, and the log that says it once.
//!
//! The same text reaches both sides: our verdict on a peer travels in the CONNECTION_CLOSE frame as `code: text`.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use super::name::shown;

/// Refusals kept for the operator; beyond it the oldest is forgotten.
pub const REFUSALS_MAX: usize = 128;
/// A refusal that was quiet for so long is news again.
const QUIET: Duration = Duration::from_secs(600);
/// Lines that refusals may write in a minute: strangers can make up addresses, not fill a disk.
const LINES_PER_MINUTE_MAX: u32 = 60;
/// What a CONNECTION_CLOSE frame is given as text; a handshake packet must hold it.
pub const REASON_BYTES_MAX: usize = 700;

/// The word and the QUIC application error code of each reason. Both are protocol: never renumber.
macro_rules! refusal_codes {
    ($($(#[$doc:meta])* $name:ident $code:literal $word:literal),* $(,)?) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum RefusalCode { $($(#[$doc])* $name),* }

        impl RefusalCode {
            pub const ALL: &'static [RefusalCode] = &[$(RefusalCode::$name),*];

            pub fn code(self) -> u32 {
                match self { $(RefusalCode::$name => $code),* }
            }

            /// The word used in logs, metrics and the API.
            pub fn word(self) -> &'static str {
                match self { $(RefusalCode::$name => $word),* }
            }
        }
    };
}

refusal_codes! {
    /// The certificate is signed by a CA that the refusing side does not trust.
    WrongCa 1 "wrong-ca",
    Expired 2 "expired",
    /// Not valid yet: one of the clocks is wrong.
    NotYetValid 3 "not-yet-valid",
    /// Another trust domain than ours.
    WrongDomain 4 "wrong-domain",
    /// Another node answered than the one dialled, or a node speaks for another.
    WrongName 5 "wrong-name",
    /// Our CA signed it, but no peer of that name is configured.
    UnknownPeer 6 "unknown-peer",
    /// No protocol version in common.
    Version 7 "version",
    /// A certificate that is malformed or not made for this.
    BadCertificate 8 "bad-certificate",
    /// Too many connections are being set up.
    Busy 9 "busy",
    /// The pair is connected already.
    Duplicate 10 "duplicate",
    /// A newer connection took this one's place.
    Replaced 11 "replaced",
    /// The peer sent what the protocol does not allow.
    Protocol 12 "protocol",
    /// The node is going down in good order.
    Shutdown 13 "shutdown",
    /// Nobody answered in time.
    Timeout 14 "timeout",
    /// The address does not resolve, or nothing can be sent there.
    Unreachable 15 "unreachable",
    /// The peer's process is gone: it answered with a stateless reset.
    Reset 16 "reset",
    Other 17 "other",
}

impl RefusalCode {
    pub fn from_code(code: u64) -> Option<RefusalCode> {
        Self::ALL.iter().copied().find(|c| u64::from(c.code()) == code)
    }

    pub fn from_word(word: &str) -> Option<RefusalCode> {
        Self::ALL.iter().copied().find(|c| c.word() == word)
    }

    /// Ends a connection without anything being wrong with it; not worth a warning.
    pub fn is_routine(self) -> bool {
        matches!(self, RefusalCode::Duplicate | RefusalCode::Replaced | RefusalCode::Shutdown)
    }
}

/// One refusal: what is wrong and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub code: RefusalCode,
    pub text: String,
}

impl Refusal {
    pub fn new(code: RefusalCode, text: impl Into<String>) -> Refusal {
        Refusal { code, text: text.into() }
    }

    /// As it travels in a CONNECTION_CLOSE frame, cut to fit one packet.
    pub fn on_wire(&self) -> Vec<u8> {
        let mut text = self.to_string();
        let mut end = REASON_BYTES_MAX.min(text.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.into_bytes()
    }

    /// Reads what a peer put into a CONNECTION_CLOSE frame. `None` where it is not one of ours.
    pub fn from_wire(reason: &[u8]) -> Option<Refusal> {
        let text = shown(&String::from_utf8_lossy(&reason[..reason.len().min(2 * REASON_BYTES_MAX)]));
        // A verdict raised inside the TLS library carries its prefix.
        let text = text.strip_prefix("unexpected error: ").unwrap_or(&text);
        let (word, rest) = text.split_once(": ")?;
        Some(Refusal { code: RefusalCode::from_word(word)?, text: rest.to_owned() })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.word(), self.text)
    }
}

/// A refusal as status shows it.
#[derive(Debug, Clone)]
pub struct RefusalEntry {
    /// The peer's name where it is proven, else its IP address.
    pub who: String,
    pub refusal: Refusal,
    pub count: u64,
    pub last: SystemTime,
}

/// Says each (who, code) once, until it is cleared; keeps what was said for status.
pub(super) struct RefusalLog {
    entries: BTreeMap<(String, RefusalCode), RefusalEntry>,
    minute: SystemTime,
    lines: u32,
}

impl Default for RefusalLog {
    fn default() -> RefusalLog {
        RefusalLog { entries: BTreeMap::new(), minute: SystemTime::now(), lines: 0 }
    }
}

impl RefusalLog {
    /// Notes a refusal and logs it if it is news. True: it was logged.
    pub fn note(&mut self, who: &str, refusal: &Refusal) -> bool {
        let (key, now) = ((who.to_owned(), refusal.code), SystemTime::now());
        let entry = match self.entries.get(&key) {
            Some(entry) => {
                RefusalEntry { refusal: refusal.clone(), count: entry.count + 1, last: now, ..entry.clone() }
            }
            None => RefusalEntry { who: who.to_owned(), refusal: refusal.clone(), count: 1, last: now },
        };
        let before = self.entries.insert(key, entry);
        if self.entries.len() > REFUSALS_MAX
            && let Some(oldest) = self.entries.iter().min_by_key(|(_, entry)| entry.last).map(|(key, _)| key.clone())
        {
            self.entries.remove(&oldest);
        }
        let quiet = |last: SystemTime| now.duration_since(last).unwrap_or_default() >= QUIET;
        if before.is_some_and(|before| !quiet(before.last)) || !self.may_log(now) {
            return false;
        }
        if refusal.code.is_routine() {
            tracing::debug!(peer = who, reason = refusal.code.word(), "{}", refusal.text);
        } else {
            tracing::warn!(peer = who, reason = refusal.code.word(), "no connection: {}", refusal.text);
        }
        true
    }

    fn may_log(&mut self, now: SystemTime) -> bool {
        // A clock that was set back begins a new minute as well.
        if now.duration_since(self.minute).map_or(true, |since| since >= Duration::from_secs(60)) {
            (self.minute, self.lines) = (now, 0);
        }
        self.lines += 1;
        self.lines <= LINES_PER_MINUTE_MAX
    }

    /// The peer is connected: what was wrong is over, and would be news again.
    pub fn clear(&mut self, who: &str) {
        self.entries.retain(|(name, _), _| name != who);
    }

    pub fn entries(&self) -> Vec<RefusalEntry> {
        self.entries.values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_words_are_unique_and_read_back() {
        for &code in RefusalCode::ALL {
            assert_eq!(RefusalCode::from_code(code.code().into()), Some(code));
            assert_eq!(RefusalCode::from_word(code.word()), Some(code));
        }
        assert_eq!(RefusalCode::from_code(9999), None);
    }

    #[test]
    fn golden_codes_and_words() {
        let text = |code: &RefusalCode| {
            (code.word(), [&[code.code() as u8][..], &Refusal::new(*code, "x").on_wire()].concat())
        };
        let samples: Vec<(&str, Vec<u8>)> = RefusalCode::ALL.iter().map(text).collect();
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/transport/golden/v1/refusal.txt");
        for (word, bytes) in crate::bytes_file::hold(&path, &samples) {
            let refusal = Refusal::from_wire(&bytes[1..]).expect("golden");
            assert_eq!((refusal.code.word(), refusal.code.code()), (word.as_str(), bytes[0].into()));
        }
    }

    #[test]
    fn a_refusal_crosses_the_wire_and_garbage_does_not_become_one() {
        let refusal = Refusal::new(RefusalCode::WrongCa, "signed by X; we trust Y");
        assert_eq!(Refusal::from_wire(&refusal.on_wire()), Some(refusal.clone()));
        let tls = format!("unexpected error: {refusal}");
        assert_eq!(Refusal::from_wire(tls.as_bytes()), Some(refusal));
        for garbage in [&b""[..], b"\xff\xff: x", b"nonsense", b"nope: text"] {
            assert_eq!(Refusal::from_wire(garbage), None);
        }
        let long = Refusal::new(RefusalCode::Other, "é".repeat(5000));
        assert!(long.on_wire().len() <= REASON_BYTES_MAX);
    }

    #[test]
    fn the_log_is_bounded_and_forgets_what_was_cleared() {
        let mut log = RefusalLog::default();
        let refusal = Refusal::new(RefusalCode::Expired, "x");
        let mut lines = 0;
        for i in 0..10 * REFUSALS_MAX {
            lines += u32::from(log.note(&format!("peer-{i}"), &refusal));
        }
        assert_eq!(log.entries().len(), REFUSALS_MAX);
        assert!(lines <= 2 * LINES_PER_MINUTE_MAX, "{lines} lines");
        let mut log = RefusalLog::default();
        assert!(log.note("a", &refusal));
        assert!(!log.note("a", &refusal), "said once");
        assert_eq!(log.entries()[0].count, 2);
        log.clear("a");
        assert!(log.entries().is_empty());
        assert!(log.note("a", &refusal), "news again");
    }
}
