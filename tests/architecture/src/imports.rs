//! Direction: who may name whom.
//!
//! Everything may depend on core, core on none of ours. The adapters (disk, journal, store, device, transport) know
//! core's words and not each other; the engine knows them all; the binary builds. Libraries with a large surface are
//! named in one place each, so that they can be replaced in one place.

use crate::scrub::{line_of, words};
use crate::sources::Source;

/// The replicator's modules, each with those it may name beside core and itself.
const MODULES: &[(&str, &[&str])] = &[
    ("config", &[]),
    ("disk", &[]),
    ("latency", &[]),
    ("journal", &["disk", "latency"]),
    ("store", &["disk"]),
    // A package of its own, named as if it were here.
    ("device", &[]),
    ("transport", &[]),
    ("snapshot", &["store", "transport"]),
    ("control", &[]),
    ("telemetry", &["config", "latency"]),
    (
        "engine",
        &["config", "disk", "latency", "journal", "store", "device", "transport", "snapshot", "control", "telemetry"],
    ),
];

/// Libraries, each with the places (files, or folders with a / at the end) that alone may name it.
const LIBRARIES: &[(&str, &[&str])] = &[
    ("rocksdb", &["replicator/src/store/"]),
    ("io_uring", &["replicator/src/disk/", "replicator/device/src/ublk/"]),
    ("quinn", &["replicator/src/transport/", "benches/src/echo.rs"]),
    ("quinn_proto", &["replicator/src/transport/"]),
    ("quinn_udp", &["replicator/src/transport/", "tests/wan/src/port.rs"]),
    // The NBD tests and the benchmark's echo make certificates that no CA of ours would.
    ("rcgen", &["replicator/src/transport/", "replicator/device/src/nbd/protocol_tests.rs", "benches/src/echo.rs"]),
    ("fuser", &["replicator/device/src/", "tests/powercut/src/mount.rs"]),
    ("axum", &["replicator/src/telemetry/"]),
    ("prometheus_client", &["replicator/src/telemetry/"]),
    ("tonic", &["proto/", "replicator/src/control/", "csi-driver/", "cli/", "tests/"]),
    ("zstd", &["replicator/src/engine/packing.rs"]),
    ("indicatif", &["cli/"]),
    ("kube", &["csi-driver/src/claims/", "csi-driver/tests/grpc/apiserver.rs"]),
    ("k8s_openapi", &["csi-driver/src/claims/"]),
];

/// What the core may name beside itself. Tests may also name proptest.
const CORE_LIBRARIES: &[&str] = &["blake3", "bytes", "crc32fast", "thiserror", "xxhash_rust", "std", "core", "alloc"];
/// Parts of std that bring a clock, a thread, a file, a socket, chance, or an order that is not ours.
const CORE_BANNED: &[(&str, &[&str])] = &[
    ("std", &["fs", "net", "thread", "process", "env", "os", "io"]),
    ("time", &["Instant", "SystemTime", "UNIX_EPOCH"]),
    ("collections", &["HashMap", "HashSet", "hash_map", "hash_set"]),
];

const REPLICATOR: &str = "replicator/src/";
const CORE: &str = "replicator/core/src/";

pub fn complaints(source: &Source) -> Vec<String> {
    if !source.is_rust() {
        return Vec::new();
    }
    let code = source.code();
    let mut found = libraries(&source.path, &code);
    if let Some(inner) = source.path.strip_prefix(REPLICATOR) {
        found.extend(modules(&source.path, inner, &code));
    }
    if source.path.starts_with(CORE) {
        found.extend(core(&source.path, &code));
    }
    found
}

fn libraries(path: &str, code: &str) -> Vec<String> {
    let may = |places: &[&str]| places.iter().any(|place| path.starts_with(place));
    let mut found = Vec::new();
    for (begin, first, _) in paths(code) {
        if let Some((name, places)) = LIBRARIES.iter().find(|(name, _)| *name == first)
            && !may(places)
        {
            found.push(format!("{path}:{}: {name} may only be named in {}", line_of(code, begin), places.join(", ")));
        }
    }
    found
}

fn modules(path: &str, inner: &str, code: &str) -> Vec<String> {
    let own = inner.split('/').next().unwrap_or(inner).trim_end_matches(".rs").trim_end_matches("_tests");
    let Some((_, may)) = MODULES.iter().find(|(name, _)| *name == own) else {
        let known = own == "bin" || own == "lib";
        return if known { Vec::new() } else { vec![format!("{path}: {own} is not in the table of modules")] };
    };
    let mut found = Vec::new();
    for (begin, first, rest) in paths(code) {
        let heads = match first {
            "crate" => heads(rest),
            "super" => match above(inner, rest) {
                Some(rest) => heads(rest),
                None => continue,
            },
            _ => continue,
        };
        for named in heads {
            let ours = MODULES.iter().any(|(name, _)| *name == named);
            if ours && named != own && !may.contains(&named) {
                let line = line_of(code, begin);
                found.push(format!("{path}:{line}: {own} may not name {named} (only {may:?} beside core and itself)"));
            }
        }
    }
    found
}

fn core(path: &str, code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (begin, first, rest) in paths(code) {
        let line = line_of(code, begin);
        if let Some((_, banned)) = CORE_BANNED.iter().find(|(name, _)| *name == first) {
            for head in heads(rest).into_iter().filter(|head| banned.contains(head)) {
                found.push(format!("{path}:{line}: the core is sans-IO and must not name {first}::{head}"));
            }
        }
        // A library is what a `use` begins with; elsewhere the first word of a path may be a module or a type.
        let used = code[..begin].trim_end().ends_with("use");
        let own = ["crate", "super", "self", "proptest"].contains(&first) || CORE_LIBRARIES.contains(&first);
        let local = code[..begin].contains(&format!("mod {first}")) || first.starts_with(char::is_uppercase);
        if used && !own && !local {
            found.push(format!("{path}:{line}: the core may only use {CORE_LIBRARIES:?}, not {first}"));
        }
    }
    found
}

/// Every path's first word, where it stands, and what follows its `::`. Segments after the first are given as well when
/// they are followed by `::` themselves (`std::time::Instant` gives `std` and `time`).
fn paths(code: &str) -> impl Iterator<Item = (usize, &str, &str)> {
    words(code).filter_map(|(begin, word)| {
        let after = code[begin + word.len()..].trim_start();
        let used = code[..begin].trim_end().ends_with("use");
        match after.strip_prefix("::") {
            Some(rest) => Some((begin, word, rest)),
            None if used && (after.starts_with(';') || after.starts_with("as ")) => Some((begin, word, "")),
            None => None,
        }
    })
}

/// The first words of what follows a `::`: one, or those of a group in braces.
fn heads(rest: &str) -> Vec<&str> {
    let rest = rest.trim_start();
    let Some(group) = rest.strip_prefix('{') else {
        return words(rest).take(1).filter(|(at, _)| *at == 0).map(|(_, word)| word).collect();
    };
    let (mut depth, mut fresh, mut found) = (0usize, true, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => fresh = true,
            c if fresh && depth == 0 && (c.is_alphanumeric() || c == '_') => {
                fresh = false;
                found.extend(words(&group[at..]).next().map(|(_, word)| word));
            }
            _ => {}
        }
    }
    found
}

/// What is named at the crate's root by `super::rest` in the file `inner`, when the chain of supers leads there. A test
/// module inside a file is one deeper: both depths are taken as the root, since a sibling's name at the wrong depth would
/// not compile.
fn above<'a>(inner: &str, mut rest: &'a str) -> Option<&'a str> {
    let file = inner.rsplit('/').next().unwrap_or(inner);
    let depth = inner.split('/').count() - usize::from(file == "mod.rs");
    let mut supers = 1;
    while let Some(more) = rest.trim_start().strip_prefix("super") {
        rest = more.trim_start().strip_prefix("::")?;
        supers += 1;
    }
    (supers >= depth).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(path: &str, text: &str) -> Vec<String> {
        complaints(&Source::new(path, text))
    }

    #[test]
    fn adapters_do_not_name_each_other() {
        let bad = [
            ("replicator/src/journal/scan.rs", "use crate::store::Extent;"),
            ("replicator/src/journal/scan.rs", "use crate::{disk::File, store};"),
            ("replicator/src/store/apply.rs", "fn f() { crate::engine::go() }"),
            ("replicator/src/device/nbd/serve.rs", "use super::super::super::transport::Peer;"),
            ("replicator/src/control/mod.rs", "use super::engine::Engine;"),
            ("replicator/src/disk/file.rs", "mod t { use super::super::journal::Journal; }"),
        ];
        for (path, text) in bad {
            assert_eq!(said(path, text).len(), 1, "{path}: {text}");
        }
        let good = [
            (
                "replicator/src/journal/scan.rs",
                "use crate::disk::File; use crate::journal::index; use super::store_of;",
            ),
            ("replicator/src/engine/volume.rs", "use crate::{store, journal::Journal, transport};"),
            ("replicator/src/store/apply.rs", "// crate::journal is elsewhere\nconst A: &str = \"crate::journal\";"),
            ("replicator/src/device/nbd/serve.rs", "use super::transport::Framing;"),
        ];
        for (path, text) in good {
            assert!(said(path, text).is_empty(), "{path}: {:?}", said(path, text));
        }
    }

    #[test]
    fn a_new_module_must_enter_the_table() {
        assert_eq!(said("replicator/src/gossip/mod.rs", "").len(), 1);
        assert!(said("replicator/src/bin/farshore-replicator.rs", "use farshore_replicator::engine;").is_empty());
    }

    #[test]
    fn libraries_have_their_places() {
        assert_eq!(said("replicator/src/journal/a.rs", "use rocksdb::DB;").len(), 1);
        assert_eq!(said("replicator/src/engine/a.rs", "fn f() -> tonic::Status { x }").len(), 1);
        assert_eq!(said("replicator/src/engine/a.rs", "use quinn as q;").len(), 1);
        assert!(said("replicator/src/store/index.rs", "use rocksdb::DB;").is_empty());
        assert!(said("replicator/src/engine/a.rs", "let quinn = 3; f(rocksdb)").is_empty());
    }

    #[test]
    fn the_core_is_sans_io() {
        let file = "replicator/core/src/volume.rs";
        let bad = [
            "use std::time::Instant;",
            "use std::{collections::BTreeMap, fs};",
            "use std::collections::{BTreeMap, HashMap};",
            "fn f() { std::thread::sleep(d) }",
            "use tokio::sync::mpsc;",
            "use farshore_proto::v1;",
        ];
        for text in bad {
            assert_eq!(said(file, text).len(), 1, "{text}: {:?}", said(file, text));
        }
        let good = "use std::collections::BTreeMap; use bytes::Bytes; use crate::ids::Seq; use std::time::Duration;";
        assert!(said(file, good).is_empty(), "{:?}", said(file, good));
    }
}
