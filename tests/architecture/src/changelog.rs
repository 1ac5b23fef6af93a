//! CHANGELOG.md keeps to its form: newest first, one section for what is not released yet, known kinds of change.

const KINDS: &[&str] = &["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"];

pub fn complaints(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    if lines.next() != Some("# Changelog") {
        found.push("CHANGELOG.md: begins with # Changelog".to_string());
    }
    let mut versions = Vec::new();
    for line in text.lines() {
        if let Some(version) = line.strip_prefix("## ") {
            versions.push(version);
        } else if let Some(kind) = line.strip_prefix("### ")
            && !KINDS.contains(&kind)
        {
            found.push(format!("CHANGELOG.md: {kind} is not one of {}", KINDS.join(", ")));
        } else if line.starts_with("- ") && versions.is_empty() {
            found.push(format!("CHANGELOG.md: belongs to no version: {line}"));
        }
    }
    if versions.first() != Some(&"[Unreleased]") {
        found.push("CHANGELOG.md: the first version is ## [Unreleased]".to_string());
    }
    let rest = versions.iter().skip(1).map(|version| (version, released(version)));
    let bad = rest.filter(|(_, dated)| dated.is_none());
    found.extend(bad.map(|(version, _)| format!("CHANGELOG.md: not ## [1.2.3] - 2026-01-31: {version}")));
    found
}

/// `[1.2.3] - 2026-01-31`
fn released(version: &str) -> Option<()> {
    let (number, date) = version.strip_prefix('[')?.split_once("] - ")?;
    let parts = |text: &str, by: char, lengths: &[usize]| {
        let parts: Vec<&str> = text.split(by).collect();
        let fits = |(part, len): (&&str, &usize)| {
            part.chars().all(|c| c.is_ascii_digit()) && !part.is_empty() && (*len == 0 || part.len() == *len)
        };
        parts.len() == lengths.len() && parts.iter().zip(lengths).all(fits)
    };
    (parts(number, '.', &[0, 0, 0]) && parts(date, '-', &[4, 2, 2])).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_held() {
        let good = "# Changelog\n\nText.\n\n## [Unreleased]\n\n### Added\n\n- x\n\n## [0.1.0] - 2026-11-20\n\n### Fixed\n- y\n";
        assert!(complaints(good).is_empty(), "{:?}", complaints(good));
        let bad = [
            "## [Unreleased]\n",
            "# Changelog\n- x\n## [Unreleased]\n",
            "# Changelog\n## [0.1.0] - 2026-11-20\n",
            "# Changelog\n## [Unreleased]\n### New\n",
            "# Changelog\n## [Unreleased]\n## [0.1] - 2026-11-20\n",
            "# Changelog\n## [Unreleased]\n## 0.1.0\n",
        ];
        for text in bad {
            assert_eq!(complaints(text).len(), 1, "{text:?}: {:?}", complaints(text));
        }
    }
}
