//! Golden bytes in a text file: one line for each sample, its name and its bytes in hex. A run of at least sixteen equal
//! bytes is written as `(00*4000)`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

const RUN_MIN: usize = 16;

pub fn to_text(bytes: &[u8]) -> String {
    let mut out = String::new();
    for run in bytes.chunk_by(|a, b| a == b) {
        if run.len() >= RUN_MIN {
            let _ = write!(out, "({:02x}*{})", run[0], run.len());
        } else {
            for byte in run {
                let _ = write!(out, "{byte:02x}");
            }
        }
    }
    out
}

pub fn from_text(mut text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    while !text.is_empty() {
        if let Some(run) = text.strip_prefix('(') {
            let (run, rest) = run.split_once(')')?;
            let (byte, count) = run.split_once('*')?;
            out.resize(out.len() + count.parse::<usize>().ok()?, u8::from_str_radix(byte, 16).ok()?);
            text = rest;
        } else {
            out.push(u8::from_str_radix(text.get(..2)?, 16).ok()?);
            text = &text[2..];
        }
    }
    Some(out)
}

/// Holds the samples to the bytes in the file, which is rewritten first where FARSHORE_BLESS is set. Returns what the
/// file holds, so that it can be decoded.
pub fn hold(path: &Path, samples: &[(&str, Vec<u8>)]) -> Vec<(String, Vec<u8>)> {
    if std::env::var_os("FARSHORE_BLESS").is_some() {
        let lines = samples.iter().map(|(name, bytes)| format!("{name} {}\n", to_text(bytes)));
        std::fs::write(path, lines.collect::<String>()).expect("the golden file can be written");
    }
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let lines = text.lines().map(|line| {
        let (name, bytes) = line.split_once(' ').expect("a name and bytes");
        (name.to_string(), from_text(bytes).expect("hex and runs"))
    });
    let golden: Vec<(String, Vec<u8>)> = lines.collect();
    let now: BTreeMap<&str, &[u8]> = samples.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
    assert_eq!(now.len(), samples.len(), "two samples of one name: only one of them would be held");
    let then: BTreeMap<&str, &[u8]> = golden.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    let differ: Vec<&str> =
        now.keys().chain(then.keys()).filter(|name| now.get(*name) != then.get(*name)).copied().collect();
    assert!(
        differ.is_empty(),
        "{}: the bytes of {differ:?} are not what they were.\n\
         A version that was released has them on disks and wires: give the format a new version number, keep this file \
         and the code that reads it, and put the new bytes into a file of their own.\n\
         Only before the first release of this version: set FARSHORE_BLESS=1 and run this test again.",
        path.display()
    );
    golden
}
