//! Cargo.toml: every version stands in the workspace's, every package takes it from there, and packages know only whom
//! they may.

use toml::{Table, Value};

use crate::sources::Source;

/// Our packages, each with those of ours that it may depend on. Tests may know everything.
const PACKAGES: &[(&str, &[&str])] = &[
    ("farshore-core", &[]),
    ("farshore-proto", &[]),
    ("farshore-device", &["farshore-core"]),
    ("farshore-replicator", &["farshore-core", "farshore-device", "farshore-proto"]),
    ("farshore-csi-driver", &["farshore-proto"]),
    ("farshore-csi", &["farshore-proto"]),
    ("farshore-cli", &["farshore-core", "farshore-proto", "farshore-replicator"]),
];
/// Beside ours, all that the core may depend on. More would be a way for the world to come in.
const CORE_LIBRARIES: &[&str] = &["blake3", "bytes", "crc32fast", "thiserror", "xxhash-rust"];
/// The one place where the core is built so that it can be broken.
const SABOTAGE: &str = "tests/sabotage/";
const SECTIONS: &[&str] = &["dependencies", "dev-dependencies", "build-dependencies"];

pub fn complaints(source: &Source) -> Vec<String> {
    if source.file_name() != "Cargo.toml" {
        return Vec::new();
    }
    let table: Table = match source.text.parse() {
        Ok(table) => table,
        Err(e) => return vec![format!("{}: {e}", source.path)],
    };
    let mut found = Vec::new();
    if let Some(shared) = table.get("workspace").and_then(|w| w.get("dependencies")).and_then(Value::as_table) {
        found.extend(shared.iter().filter_map(|(name, wanted)| pinned(&source.path, name, wanted)));
    }
    for section in SECTIONS {
        let entries = table.get(*section).and_then(Value::as_table);
        found.extend(entries.into_iter().flatten().filter_map(|(name, wanted)| {
            let shared = wanted.get("workspace").and_then(Value::as_bool) == Some(true);
            // Under another name than the workspace's: the same sources over another core.
            let stand_in = source.path.starts_with(SABOTAGE) && wanted.get("path").is_some();
            let said = format!("{}: {section}.{name} must take its version from the workspace", source.path);
            (!shared && !stand_in).then_some(said)
        }));
    }
    found.extend(direction(&source.path, &table));
    found
}

/// Nothing that ships can be built with, or over, a core that can be broken: no other manifest knows of it, but for the
/// list of members and the list of features that the compiler is told of.
pub fn sabotage(source: &Source) -> Vec<String> {
    if source.file_name() != "Cargo.toml" || source.path.starts_with(SABOTAGE) {
        return Vec::new();
    }
    let may = |line: &str| {
        let listed = line.starts_with("\"tests/sabotage") || line.starts_with("unexpected_cfgs");
        source.path == "Cargo.toml" && listed
    };
    let lines = source.text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let naming = lines.filter(|line| line.contains("sabotage") && !may(line));
    naming.map(|line| format!("{}: only {SABOTAGE} may name the sabotage suite: {line}", source.path)).collect()
}

fn pinned(path: &str, name: &str, wanted: &Value) -> Option<String> {
    if wanted.get("path").is_some() {
        return None;
    }
    let version = wanted.as_str().or_else(|| wanted.get("version").and_then(Value::as_str)).unwrap_or_default();
    let exact = version.starts_with(|c: char| c.is_ascii_digit()) && version.contains('.') && !version.contains('*');
    let foreign = wanted.get("git").is_some();
    (!exact || foreign).then(|| format!("{path}: workspace.dependencies.{name} is not pinned to a version"))
}

fn direction(path: &str, table: &Table) -> Vec<String> {
    let Some(package) = table.get("package").and_then(|p| p.get("name")).and_then(Value::as_str) else {
        return Vec::new();
    };
    let Some((_, may)) = PACKAGES.iter().find(|(name, _)| *name == package) else { return Vec::new() };
    let entries = table.get("dependencies").and_then(Value::as_table).into_iter().flatten();
    let mut found = Vec::new();
    for (name, _) in entries {
        let ours = name.starts_with("farshore-");
        if ours && !may.contains(&name.as_str()) {
            found.push(format!("{path}: {package} may not depend on {name}"));
        }
        if package == "farshore-core" && !ours && !CORE_LIBRARIES.contains(&name.as_str()) {
            found.push(format!("{path}: the core may only depend on {CORE_LIBRARIES:?}, not on {name}"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> usize {
        complaints(&Source::new("x/Cargo.toml", text)).len()
    }

    #[test]
    fn versions_are_pinned_in_the_workspace() {
        assert_eq!(said("[workspace.dependencies]\na = \"*\"\nb = \"1\"\nc = { git = \"https://x\" }"), 3);
        assert_eq!(said("[workspace.dependencies]\na = \"1.2\"\nb = { version = \"1.2.3\" }\nc = { path = \"c\" }"), 0);
    }

    #[test]
    fn packages_take_versions_from_the_workspace() {
        assert_eq!(said("[dev-dependencies]\na = \"1.2.3\""), 1);
        assert_eq!(said("[dependencies]\na.workspace = true\nb = { workspace = true, features = [\"x\"] }"), 0);
    }

    #[test]
    fn packages_know_only_whom_they_may() {
        let with = |package: &str, on: &str| {
            said(&format!("[package]\nname = \"{package}\"\n[dependencies]\n{on}.workspace = true"))
        };
        assert_eq!(with("farshore-core", "farshore-proto"), 1);
        assert_eq!(with("farshore-core", "tokio"), 1);
        assert_eq!(with("farshore-csi-driver", "farshore-replicator"), 1);
        assert_eq!(with("farshore-replicator", "farshore-core"), 0);
    }

    #[test]
    fn a_core_that_can_be_broken_stays_where_it_is() {
        let said = |path: &str, text: &str| sabotage(&Source::new(path, text)).len();
        assert_eq!(said("replicator/Cargo.toml", "farshore-core = { workspace = true, features = [\"sabotage\"] }"), 1);
        assert_eq!(said("Cargo.toml", "farshore-core = { package = \"farshore-core-sabotage\", path = \"x\" }"), 1);
        assert_eq!(said("replicator/core/Cargo.toml", "[features]\nsabotage = []"), 1);
        assert_eq!(said("tests/sabotage/core/Cargo.toml", "[features]\nsabotage = []"), 0);
        assert_eq!(said("Cargo.toml", "  \"tests/sabotage/core\",\n# sabotage\nunexpected_cfgs = \"sabotage\""), 0);
    }

    #[test]
    fn what_is_no_toml_is_told() {
        assert_eq!(said("[package"), 1);
    }
}
