//! The rules, held over this repository.

use farshore_architecture::sources::{Source, all, root};
use farshore_architecture::{changelog, hosts, imports, manifests, shape, unsafety};

fn sources() -> Vec<Source> {
    let found = all(&root()).expect("the repository can be read");
    let rust = found.iter().filter(|source| source.is_rust()).count();
    assert!(rust > 20, "only {rust} Rust files found under {}", root().display());
    found
}

fn hold(rule: impl Fn(&Source) -> Vec<String>) {
    let complaints: Vec<String> = sources().iter().flat_map(rule).collect();
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn imports_go_in_one_direction() {
    hold(imports::complaints);
}

#[test]
fn packages_are_pinned_and_know_only_whom_they_may() {
    hold(manifests::complaints);
}

#[test]
fn nothing_that_ships_can_be_broken_on_purpose() {
    hold(manifests::sabotage);
}

#[test]
fn unsafe_is_where_it_may_be_and_says_why() {
    hold(|source| unsafety::complaints(source, unsafety::ALLOWED));
    let stale = unsafety::stale(&sources(), unsafety::ALLOWED);
    assert!(stale.is_empty(), "\n{}", stale.join("\n"));
}

#[test]
fn places_are_named_for_what_they_hold() {
    hold(shape::names);
}

#[test]
fn every_file_says_what_is_in_it() {
    hold(shape::docs);
}

#[test]
fn listings_hold_no_logic() {
    hold(shape::listing);
}

#[test]
fn files_stay_short() {
    hold(|source| shape::length(source, shape::LONG));
}

#[test]
fn no_registry_is_named() {
    hold(hosts::complaints);
}

#[test]
fn the_changelog_keeps_its_form() {
    let text = std::fs::read_to_string(root().join("CHANGELOG.md")).expect("there is a CHANGELOG.md");
    let complaints = changelog::complaints(&text);
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}
