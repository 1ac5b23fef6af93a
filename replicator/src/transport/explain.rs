//! From quinn's errors to a refusal that an operator can act on.

use quinn::ConnectionError;

use super::refusal::{Refusal, RefusalCode};

/// QUIC transport error codes from here on carry a TLS alert in their last byte (RFC 9001, 4.8).
const CRYPTO_ERRORS: std::ops::Range<u64> = 0x100..0x200;
/// CONNECTION_REFUSED: the endpoint takes no more connections (RFC 9000, 20.1).
const CONNECTION_REFUSED: u64 = 0x2;
/// What an attempt that was given up closes with: its handles were dropped.
const GIVEN_UP: u64 = 0;

/// Why the connection with `who` ended or never came to be.
pub(super) fn explain(error: &ConnectionError, who: &str) -> Refusal {
    match error {
        ConnectionError::TransportError(error) => {
            // Our own verdict, raised in a verifier, or what the peer's packets broke.
            Refusal::from_wire(error.reason.as_bytes())
                .unwrap_or_else(|| by_code(u64::from(error.code), &error.to_string(), who))
        }
        ConnectionError::ConnectionClosed(close) => match Refusal::from_wire(&close.reason) {
            Some(refusal) => Refusal::new(refusal.code, format!("refused by {who}: {}", refusal.text)),
            None => {
                let text = format!("refused by {who}: {}", super::name::shown(&close.to_string()));
                by_code(u64::from(close.error_code), &text, who)
            }
        },
        ConnectionError::ApplicationClosed(close) => {
            let code = close.error_code.into_inner();
            if code == GIVEN_UP && close.reason.is_empty() {
                return Refusal::new(RefusalCode::Duplicate, format!("{who} gave this attempt up"));
            }
            let text = Refusal::from_wire(&close.reason)
                .map_or_else(|| super::name::shown(&String::from_utf8_lossy(&close.reason)), |refusal| refusal.text);
            let code = RefusalCode::from_code(code).unwrap_or(RefusalCode::Other);
            Refusal::new(code, format!("closed by {who}: {text}"))
        }
        ConnectionError::TimedOut => {
            Refusal::new(RefusalCode::Timeout, format!("no packet came from {who} within the idle timeout"))
        }
        ConnectionError::Reset => Refusal::new(
            RefusalCode::Reset,
            format!("{who} does not know the connection any more: its process has restarted"),
        ),
        ConnectionError::VersionMismatch => {
            Refusal::new(RefusalCode::Version, format!("{who} speaks another QUIC version; is it a Farshore node?"))
        }
        ConnectionError::LocallyClosed => Refusal::new(RefusalCode::Other, "closed by this node"),
        ConnectionError::CidsExhausted => Refusal::new(RefusalCode::Other, "no connection ids are left"),
    }
}

fn by_code(code: u64, text: &str, who: &str) -> Refusal {
    use RefusalCode as C;
    let text = text.to_owned();
    if code == CONNECTION_REFUSED {
        return Refusal::new(C::Busy, format!("{who} sets up too many connections already; trying again"));
    }
    if !CRYPTO_ERRORS.contains(&code) {
        return Refusal::new(C::Protocol, text);
    }
    // TLS alerts: RFC 8446, 6.
    match code & 0xff {
        44 | 46 | 42 | 43 => Refusal::new(C::BadCertificate, text),
        45 => Refusal::new(C::Expired, text),
        48 => Refusal::new(C::WrongCa, text),
        116 => Refusal::new(C::BadCertificate, format!("{who} presents no certificate; is it a Farshore node?")),
        120 => Refusal::new(
            C::Version,
            format!("{who} does not speak farshore/1: another program answers there, or another major version"),
        ),
        _ => Refusal::new(C::Protocol, text),
    }
}
