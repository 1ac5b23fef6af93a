//! The daemon's configuration file.

use std::path::Path;

use crate::config::Config;

pub fn parse(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Config::parse(Path::new("replicator.toml"), text) {
        Ok(config) => assert!(!config.summary().is_empty()),
        Err(error) => assert!(error.to_string().contains("replicator.toml"), "an error names the file: {error}"),
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let example = include_str!("../../deploy/replicator.example.toml");
    let bare: Vec<&str> = example.lines().filter(|line| !line.is_empty() && !line.starts_with("# ")).collect();
    vec![b"[node]\nsite = \"east\"\nnode = \"n1\"\n".to_vec(), bare.join("\n").into_bytes()]
}
