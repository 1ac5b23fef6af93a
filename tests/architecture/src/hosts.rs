//! Where packages come from is a matter of the machine that builds, not of this repository.

use crate::sources::Source;

/// Written in two halves, so that this file does not name them.
const HOSTS: &[&str] = &[
    concat!("crates", ".io"),
    concat!("proxy.golang", ".org"),
    concat!("pypi", ".org"),
    concat!("pythonhosted", ".org"),
    concat!("registry.npmjs", ".org"),
    concat!("deb.debian", ".org"),
    concat!("archive.ubuntu", ".com"),
];
/// They name where each package was found, and are written by tools.
const LOCK_FILES: &[&str] = &["Cargo.lock", "go.sum", "Chart.lock"];

pub fn complaints(source: &Source) -> Vec<String> {
    if LOCK_FILES.contains(&source.file_name()) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (number, line) in source.text.lines().enumerate() {
        let named = HOSTS.iter().filter(|host| line.contains(**host));
        found.extend(named.map(|host| format!("{}:{}: names the registry {host}", source.path, number + 1)));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_found_and_a_lock_file_is_not_read() {
        let text = format!("see https://{}/crates/bytes", HOSTS[0]);
        assert_eq!(complaints(&Source::new("README.md", &text)).len(), 1);
        assert!(complaints(&Source::new("Cargo.lock", &text)).is_empty());
        assert!(complaints(&Source::new("README.md", "docs.example")).is_empty());
    }
}
