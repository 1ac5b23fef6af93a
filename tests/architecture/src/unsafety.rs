//! `unsafe` is for what the kernel's interfaces need, in few files, each use with its reason.

use crate::scrub::{line_of, words};
use crate::sources::Source;

/// The files that may hold `unsafe`, and for what. An entry without a use is an error too: the list only shrinks by
/// itself.
pub const ALLOWED: &[(&str, &str)] = &[
    ("benches/src/counting.rs", "an allocator that counts"),
    ("replicator/device/src/fuse/loop_device.rs", "the loop driver's ioctls"),
    ("replicator/src/disk/uring.rs", "buffers handed to the kernel"),
];

/// How far above its `unsafe` a safety comment may begin.
const REASON_LINES: usize = 12;

pub fn complaints(source: &Source, allowed: &[(&str, &str)]) -> Vec<String> {
    if !source.is_rust() {
        return Vec::new();
    }
    let code = source.code();
    let lines: Vec<&str> = source.text.lines().collect();
    let listed = allowed.iter().any(|(path, _)| *path == source.path);
    let mut found = Vec::new();
    for (begin, _) in words(&code).filter(|(_, word)| *word == "unsafe") {
        let line = line_of(&code, begin);
        if !listed {
            found.push(format!("{}:{line}: unsafe outside the files that may hold it", source.path));
        }
        // The lint's attribute, a bound or a function type explain themselves where they are used.
        let reasons = &lines[line.saturating_sub(REASON_LINES)..line];
        if !reasons.iter().any(|text| text.contains("SAFETY:") || text.contains("# Safety")) {
            found.push(format!("{}:{line}: unsafe without a SAFETY comment above it", source.path));
        }
    }
    found
}

/// Entries of the list that no file needs any more.
pub fn stale(sources: &[Source], allowed: &[(&str, &str)]) -> Vec<String> {
    let uses =
        |path: &str| sources.iter().any(|s| s.path == path && words(&s.code()).any(|(_, word)| word == "unsafe"));
    let unused = allowed.iter().filter(|(path, _)| !uses(path));
    unused.map(|(path, _)| format!("{path} is on the list of files with unsafe and has none")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &[(&str, &str)] = &[("a.rs", "ioctl")];

    #[test]
    fn a_file_off_the_list_is_refused() {
        let text = "// SAFETY: none\nunsafe { f() }";
        assert_eq!(complaints(&Source::new("b.rs", text), LIST).len(), 1);
        assert!(complaints(&Source::new("a.rs", text), LIST).is_empty());
        assert!(complaints(&Source::new("b.rs", "// unsafe\nlet s = \"unsafe\";"), LIST).is_empty());
    }

    #[test]
    fn the_reason_must_stand_there() {
        assert_eq!(complaints(&Source::new("a.rs", "unsafe { f() }"), LIST).len(), 1);
    }

    #[test]
    fn the_list_shrinks() {
        assert_eq!(stale(&[Source::new("a.rs", "fn f() {}")], LIST).len(), 1);
        assert!(stale(&[Source::new("a.rs", "unsafe { f() }")], LIST).is_empty());
    }
}
