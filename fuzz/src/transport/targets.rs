//! Handshake messages, message boundaries, and the reasons of closed connections.

use bytes::Bytes;

use super::cutter::Cutter;
use super::hello::{Generation, Hello, Purpose, Start, Versions, Welcome};
use super::name::PeerName;
use super::refusal::{REASON_BYTES_MAX, Refusal, RefusalCode};

fn name() -> PeerName {
    PeerName::new("east", "n1").expect("a good name")
}

pub fn hello_messages(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    if let Ok(hello) = Hello::decode(bytes.clone()) {
        assert_eq!(Hello::decode(hello.encode()), Ok(hello.clone()));
        let agreed = Versions::SPOKEN.agree(&name(), hello.versions, &hello.name);
        assert!(agreed.is_err() || agreed == Ok(1));
    }
    if let Ok(welcome) = Welcome::decode(bytes.clone()) {
        assert_eq!(Welcome::decode(welcome.encode()), Ok(welcome));
    }
    if let Ok(start) = Start::decode(bytes) {
        assert_eq!(Start::decode(start.encode()), Ok(start));
    }
}

pub fn hello_seeds() -> Vec<Vec<u8>> {
    let generation = Generation { boot: 1, count: 2 };
    let versions = Versions::SPOKEN;
    let welcome = |generation| Welcome { version: 1, name: name(), boot: 3, generation };
    vec![
        Hello { versions, name: name(), boot: 3, purpose: Purpose::Main, known: generation }.encode().to_vec(),
        welcome(None).encode().to_vec(),
        welcome(Some(generation)).encode().to_vec(),
        Start { generation }.encode().to_vec(),
    ]
}

/// However a stream is cut, the same messages come out of it. The first byte says how it is cut.
pub fn frames(data: &[u8]) {
    let Some((&step, wire)) = data.split_first() else { return };
    let cut = |step: usize| {
        let (mut cutter, mut out) = (Cutter::default(), Vec::new());
        for piece in wire.chunks(step) {
            let mut chunk = Bytes::copy_from_slice(piece);
            while !chunk.is_empty() {
                match cutter.feed(&mut chunk) {
                    Ok(message) => out.extend(message),
                    Err(error) => return (out, Some(error)),
                }
            }
        }
        (out, None)
    };
    let (whole, error) = cut(wire.len().max(1));
    assert_eq!((whole.clone(), error), cut(usize::from(step) + 1));
    let bytes: usize = whole.iter().map(|message| 4 + message.len()).sum();
    assert!(bytes <= wire.len());
}

pub fn frame_seeds() -> Vec<Vec<u8>> {
    let framed = |messages: &[&[u8]]| {
        let parts = messages.iter().flat_map(|m| [&(m.len() as u32).to_le_bytes()[..], m].concat());
        [&[2][..], &parts.collect::<Vec<u8>>()].concat()
    };
    vec![framed(&[b"hello"]), framed(&[b"", b"a", b"some more"]), framed(&[&[0; 300]])]
}

pub fn refusals(data: &[u8]) {
    if let Some(refusal) = Refusal::from_wire(data) {
        assert!(!refusal.text.contains(char::is_control), "fit for a log line");
        let again = refusal.on_wire();
        assert!(again.len() <= REASON_BYTES_MAX);
        assert_eq!(Refusal::from_wire(&again).map(|refusal| refusal.code), Some(refusal.code));
    }
}

pub fn refusal_seeds() -> Vec<Vec<u8>> {
    let all = RefusalCode::ALL.iter();
    all.map(|code| Refusal::new(*code, "upgrade east/n1 first").on_wire()).collect()
}
