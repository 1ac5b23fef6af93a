//! The kept conversation is understood, a live one says nothing else, and nothing that can be said is missing in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::line::Line;
use super::story;
use crate::engine::samples;

/// What is said only when things go wrong in a rare way, or by verbs that the story does not tell; it has golden bytes of
/// its own. Pages and beginnings of shipments that are not packed come from version 1 of the protocol; the last four are for
/// a holder without a copy, and the story's sites have one node each.
const RARE: &[&str] = &[
    "reject",
    "need-elect",
    "join-clone",
    "ship-begin",
    "ship-begin-on-a-basis",
    "ship-page",
    "ship-page-placed",
    "ship",
    "shipped",
    "read",
    "catalogue",
];
/// Of what one says to another about a volume again and again, so much is kept of each kind.
const KEPT_MAX: usize = 6;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/engine/golden/v1").join(name)
}

/// Reads every line and says it again. Returns what kinds there were, and the whole as this version reads it.
fn read(lines: &[Line]) -> (BTreeSet<String>, String) {
    let (mut kinds, mut view, mut asked) = (BTreeSet::new(), String::new(), Vec::new());
    for (at, line) in lines.iter().enumerate() {
        let reading = line.read(&mut asked).unwrap_or_else(|why| panic!("line {}: {why}: {}", at + 1, line.text()));
        assert_eq!(reading.again, line.bytes, "line {} is said otherwise: {}", at + 1, reading.view);
        let _ = writeln!(view, "{} {} {} {}", line.way, line.lane, reading.kind, reading.view);
        kinds.insert(reading.kind);
    }
    (kinds, view)
}

/// Without what was repeated; calls and answers belong together and all stay.
fn shortened(lines: &[Line]) -> Vec<Line> {
    let mut said: BTreeMap<(String, String), usize> = BTreeMap::new();
    let mut asked = Vec::new();
    let mut is_kept = |line: &&Line| {
        let kind = line.read(&mut asked).map_or_else(|why| why, |reading| reading.kind);
        let count = said.entry((line.way.clone(), kind)).or_default();
        *count += 1;
        !line.is_of_a_volume() || *count <= KEPT_MAX
    };
    lines.iter().filter(|line| is_kept(line)).cloned().collect()
}

/// A later version reads these bytes as this one did. If it says things otherwise, it has a conversation of its own, and
/// of this one only what it reads is held. FARSHORE_BLESS=1 records it anew, as long as this version is not released.
#[test]
fn what_was_said_is_understood() {
    let live = story::tell();
    let (said, _) = read(&live);
    let (bytes, view) = (file("conversation.txt"), file("conversation-read.txt"));
    if std::env::var_os("FARSHORE_BLESS").is_some() {
        let kept = shortened(&live);
        let text: String = kept.iter().map(|line| line.text() + "\n").collect();
        std::fs::write(&bytes, text).expect("it can be written");
        std::fs::write(&view, read(&kept).1).expect("it can be written");
    }
    let text = |path: &Path| std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let line = |text: &str| Line::of_text(text).unwrap_or_else(|| panic!("a line that can't be read: {text}"));
    let kept: Vec<Line> = text(&bytes).lines().map(line).collect();
    let (kinds, found) = read(&kept);
    for (at, (now, then)) in found.lines().zip(text(&view).lines()).enumerate() {
        assert_eq!(now, then, "line {} is read otherwise than when it was kept", at + 1);
    }
    assert_eq!(found.lines().count(), text(&view).lines().count());
    println!("kept: {} lines, {kinds:?}", kept.len());
    let bodies = crate::samples::messages().into_iter().map(|message| message.body.name());
    let calls = samples::calls().into_iter().map(|(name, _)| name);
    let all = bodies.chain(calls).chain(["hello", "welcome", "start", "refused"]);
    let missing: Vec<&str> = all.filter(|kind| !RARE.contains(kind) && !kinds.contains(*kind)).collect();
    assert!(missing.is_empty(), "the kept conversation has no {missing:?}");
    let new: Vec<&String> = said.difference(&kinds).filter(|kind| !kind.ends_with("-error")).collect();
    assert!(new.iter().all(|kind| RARE.contains(&kind.as_str())), "the kept conversation has no {new:?}");
}
