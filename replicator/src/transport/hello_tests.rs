//! Handshake messages: golden, of other versions, foreign, damaged.

use std::path::Path;

use proptest::prelude::*;

use super::*;

fn name() -> PeerName {
    PeerName::new("east", "n1").unwrap()
}

fn hello() -> Hello {
    Hello {
        versions: Versions { min: 1, max: 2 },
        name: name(),
        boot: 0x0102_0304,
        purpose: Purpose::Bulk,
        known: Generation { boot: 7, count: 9 },
    }
}

#[test]
fn messages_are_read_back_and_unknown_fields_at_the_end_are_skipped() {
    let mut bytes = hello().encode().to_vec();
    bytes.extend(b"from the future");
    assert_eq!(Hello::decode(bytes.into()).unwrap(), hello());
    for generation in [None, Some(Generation { boot: 1, count: 2 })] {
        let welcome = Welcome { version: 1, name: name(), boot: 3, generation };
        assert_eq!(Welcome::decode(welcome.encode()).unwrap(), welcome);
    }
    let start = Start { generation: Generation { boot: 1, count: 2 } };
    assert_eq!(Start::decode(start.encode()).unwrap(), start);
    assert!(Start::decode(hello().encode()).is_err());
}

#[test]
fn golden_bytes_of_version_1() {
    let hex: String = hello().encode().iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(
        hex,
        "465348310101000200040000006561737402000000\
         6e310403020100000000000000000000000002070000000000000000000000000000000900000000000000"
    );
}

#[test]
fn golden_bytes_of_every_message() {
    let generation = Generation { boot: 0x0506_0708, count: 9 };
    let welcome = |generation| Welcome { version: 1, name: name(), boot: 3, generation };
    let main = Hello { purpose: Purpose::Main, known: Generation::default(), ..hello() };
    let (followed, chosen, start) = (welcome(None), welcome(Some(generation)), Start { generation });
    let samples = [
        ("hello-main", main.encode().to_vec()),
        ("hello-bulk", hello().encode().to_vec()),
        ("welcome", followed.encode().to_vec()),
        ("welcome-chosen", chosen.encode().to_vec()),
        ("start", start.encode().to_vec()),
    ];
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/transport/golden/v1/hello.txt");
    let golden = crate::bytes_file::hold(&path, &samples);
    let bytes = |at: usize| Bytes::from(golden[at].1.clone());
    assert_eq!(Hello::decode(bytes(0)), Ok(main));
    assert_eq!(Hello::decode(bytes(1)), Ok(hello()));
    assert_eq!(Welcome::decode(bytes(2)), Ok(followed));
    assert_eq!(Welcome::decode(bytes(3)), Ok(chosen));
    assert_eq!(Start::decode(bytes(4)), Ok(start));
}

#[test]
fn versions_agree_on_the_newest_common_one() {
    let (a, b) = (name(), PeerName::new("west", "n2").unwrap());
    let v = |min, max| Versions { min, max };
    assert_eq!(v(1, 3).agree(&a, v(2, 5), &b), Ok(3));
    assert_eq!(v(2, 2).agree(&a, v(1, 2), &b), Ok(2));
    let refusal = v(1, 1).agree(&a, v(2, 3), &b).unwrap_err();
    assert!(refusal.text.contains("upgrade east/n1 first"), "{refusal}");
    let refusal = v(4, 5).agree(&a, v(2, 3), &b).unwrap_err();
    assert!(refusal.text.contains("upgrade west/n2 first"), "{refusal}");
    // A peer that states its range upside down speaks nothing.
    assert!(v(1, 3).agree(&a, v(3, 2), &b).is_err());
}

proptest! {
    #[test]
    fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Hello::decode(bytes.clone().into());
        let _ = Welcome::decode(bytes.clone().into());
        let _ = Start::decode(bytes.into());
    }

    #[test]
    fn damaged_hellos_never_panic(at in 0usize..80, byte in any::<u8>(), cut in 0usize..90) {
        let mut bytes = hello().encode().to_vec();
        if let Some(place) = bytes.get_mut(at) { *place = byte; }
        bytes.truncate(cut);
        let _ = Hello::decode(bytes.into());
    }
}
