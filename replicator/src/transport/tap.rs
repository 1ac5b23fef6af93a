//! What nodes say to each other, for the test that keeps a conversation of theirs. In no other build.
//!
//! Handshakes are heard where they are written, messages where a stream was cut into them again: below is TLS, above
//! nothing is encoded any more. Only nodes of one name are heard, since other tests talk in the same process.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use super::frame::Lane;
use super::hello::{Hello, Start, Welcome};
use super::name::PeerName;

/// Nodes of this name, in whatever site, are heard.
pub const TAPPED_NODE: &str = "tapped";

pub enum Said {
    Handshake(Bytes),
    Message { from: PeerName, to: PeerName, lane: Lane, bytes: Bytes },
}

#[derive(Default)]
struct Heard {
    said: Vec<Said>,
    /// Processes that are heard: a Start has no name in it.
    boots: BTreeSet<u128>,
}

static HEARD: Mutex<Option<Heard>> = Mutex::new(None);

fn heard<T>(work: impl FnOnce(&mut Heard) -> T) -> T {
    work(HEARD.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default())
}

/// One handshake message, as this version reads it: its kind, who said it, what is in it, and its bytes once more.
pub struct Handshake {
    pub kind: &'static str,
    pub from: Option<PeerName>,
    pub view: String,
    pub again: Bytes,
    boot: u128,
}

pub fn read_handshake(bytes: &Bytes) -> Option<Handshake> {
    let read = |kind, from, boot, view, again| Some(Handshake { kind, from, view, again, boot });
    if let Ok(hello) = Hello::decode(bytes.clone()) {
        return read("hello", Some(hello.name.clone()), hello.boot, format!("{hello:?}"), hello.encode());
    }
    if let Ok(welcome) = Welcome::decode(bytes.clone()) {
        return read("welcome", Some(welcome.name.clone()), welcome.boot, format!("{welcome:?}"), welcome.encode());
    }
    let start = Start::decode(bytes.clone()).ok()?;
    read("start", None, start.generation.boot, format!("{start:?}"), start.encode())
}

pub(super) fn handshake(bytes: &Bytes) {
    let Some(found) = read_handshake(bytes) else { return };
    heard(|heard| {
        if found.from.is_some_and(|from| from.node == TAPPED_NODE) {
            heard.boots.insert(found.boot);
        }
        if heard.boots.contains(&found.boot) {
            heard.said.push(Said::Handshake(bytes.clone()));
        }
    });
}

pub(super) fn message(from: &PeerName, to: &PeerName, lane: Lane, bytes: &Bytes) {
    if to.node == TAPPED_NODE {
        let said = Said::Message { from: from.clone(), to: to.clone(), lane, bytes: bytes.clone() };
        heard(|heard| heard.said.push(said));
    }
}

/// All that was said since the last time, in the order in which it was heard.
pub fn take() -> Vec<Said> {
    heard(|heard| std::mem::take(&mut heard.said))
}
