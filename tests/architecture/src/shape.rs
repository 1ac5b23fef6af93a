//! Names, sizes, docs, and files that only list others.

use crate::scrub::{line_of, words};
use crate::sources::Source;

/// A module with such a name collects what nobody placed.
const BANNED: &[&str] = &["util", "utils", "common", "helper", "helpers", "types", "manager", "misc"];

/// What one can hold in the head. Longer files stand in [`LONG`] with the size they may not pass.
const LINES_MAX: usize = 700;
/// Files that are longer today. The numbers only go down.
pub const LONG: &[(&str, usize)] = &[];

/// In mod.rs and lib.rs nothing happens.
const LOGIC: &[&str] = &["fn", "impl", "struct", "enum", "trait", "union", "static", "macro_rules", "match", "loop"];

/// A rule over one file: what is wrong with it.
pub type Rule = fn(&Source) -> Vec<String>;

pub fn names(source: &Source) -> Vec<String> {
    let in_path = source.path.split('/').map(|part| part.trim_end_matches(".rs"));
    let mut found: Vec<String> = in_path
        .filter(|part| BANNED.contains(part))
        .map(|part| format!("{}: {part} is no name for a place: say what it holds", source.path))
        .collect();
    if source.is_rust() {
        let code = source.code();
        let list: Vec<(usize, &str)> = words(&code).collect();
        let inline = list.windows(2).filter(|pair| pair[0].1 == "mod" && BANNED.contains(&pair[1].1));
        found.extend(inline.map(|pair| {
            format!("{}:{}: mod {}: say what it holds", source.path, line_of(&code, pair[1].0), pair[1].1)
        }));
    }
    found
}

pub fn docs(source: &Source) -> Vec<String> {
    if !source.is_rust() {
        return Vec::new();
    }
    let first = source.text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let good = first.starts_with("//!") && first.trim_end().len() > "//! ".len();
    if good { Vec::new() } else { vec![format!("{}: begins without a //! that says what is here", source.path)] }
}

pub fn listing(source: &Source) -> Vec<String> {
    // The mod.rs of a tests folder is where its tests share their set-up.
    if !["mod.rs", "lib.rs"].contains(&source.file_name()) || source.path.contains("/tests/") {
        return Vec::new();
    }
    let code = source.code();
    let logic = words(&code).filter(|(_, word)| LOGIC.contains(word));
    let said = logic.map(|(at, word)| {
        format!(
            "{}:{}: {word}: mod.rs and lib.rs only list modules and what they export",
            source.path,
            line_of(&code, at)
        )
    });
    said.collect()
}

pub fn length(source: &Source, long: &[(&str, usize)]) -> Vec<String> {
    if !source.is_rust() {
        return Vec::new();
    }
    let lines = source.text.lines().count();
    let path = &source.path;
    match long.iter().find(|(listed, _)| listed == path) {
        None if lines > LINES_MAX => vec![format!("{path}: {lines} lines, more than {LINES_MAX}: split it by meaning")],
        Some((_, max)) if lines > *max => vec![format!("{path}: {lines} lines; it may shrink from {max}, not grow")],
        Some(_) if lines <= LINES_MAX => vec![format!("{path}: {lines} lines: take it off the list of long files")],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_say_nothing_are_refused() {
        assert_eq!(names(&Source::new("replicator/src/utils/a.rs", "")).len(), 1);
        assert_eq!(names(&Source::new("replicator/src/types.rs", "")).len(), 1);
        assert_eq!(names(&Source::new("a.rs", "mod helpers { fn f() {} }")).len(), 1);
        assert!(names(&Source::new("a.rs", "// mod utils\nmod util_linux {}")).is_empty());
    }

    #[test]
    fn a_file_says_what_it_is() {
        assert_eq!(docs(&Source::new("a.rs", "use x::y;\n//! late")).len(), 1);
        assert_eq!(docs(&Source::new("a.rs", "//!\nfn f() {}")).len(), 1);
        assert_eq!(docs(&Source::new("a.rs", "")).len(), 1);
        assert!(docs(&Source::new("a.rs", "\n//! What is here.\nfn f() {}")).is_empty());
    }

    #[test]
    fn a_listing_holds_no_logic() {
        assert_eq!(listing(&Source::new("a/mod.rs", "pub mod b;\nfn f() {}")).len(), 1);
        assert_eq!(listing(&Source::new("a/lib.rs", "impl X for Y {}")).len(), 1);
        assert!(listing(&Source::new("a/b.rs", "fn f() {}")).is_empty());
        assert!(listing(&Source::new("a/tests/mod.rs", "fn f() {}")).is_empty());
        assert!(listing(&Source::new("a/mod.rs", "//! fn\nmod b;\npub use b::{C, D};\n")).is_empty());
    }

    #[test]
    fn files_stay_short_and_the_long_ones_shrink() {
        let of = |lines: usize| Source::new("a.rs", &"//! x\n".repeat(lines));
        assert!(length(&of(LINES_MAX), &[]).is_empty());
        assert_eq!(length(&of(LINES_MAX + 1), &[]).len(), 1);
        assert!(length(&of(800), &[("a.rs", 800)]).is_empty());
        assert_eq!(length(&of(801), &[("a.rs", 800)]).len(), 1);
        assert_eq!(length(&of(LINES_MAX), &[("a.rs", 800)]).len(), 1);
    }
}
