//! All checks in order, and how they are shown.

use std::path::Path;

use farshore_replicator::config::{Config, ConfigError};
use serde::Serialize;

use crate::args::Global;
use crate::client::Replicator;
use crate::failure::Failure;
use crate::output::{self, View};
use crate::table::Table;

use super::{certificates, daemon, disk, machine, ports};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Ok,
    Warn,
    Fail,
}

#[derive(Debug, Serialize)]
pub struct Check {
    pub name: String,
    pub verdict: Verdict,
    pub found: String,
    /// Empty when ok.
    pub remedy: String,
}

impl Check {
    pub fn ok(name: &str, found: impl Into<String>) -> Check {
        Check { name: name.into(), verdict: Verdict::Ok, found: found.into(), remedy: String::new() }
    }

    pub fn warn(name: &str, found: impl Into<String>, remedy: impl Into<String>) -> Check {
        Check { name: name.into(), verdict: Verdict::Warn, found: found.into(), remedy: remedy.into() }
    }

    pub fn fail(name: &str, found: impl Into<String>, remedy: impl Into<String>) -> Check {
        Check { name: name.into(), verdict: Verdict::Fail, found: found.into(), remedy: remedy.into() }
    }
}

#[derive(Debug, Serialize)]
struct DoctorView {
    failed: usize,
    warned: usize,
    checks: Vec<Check>,
}

/// Fails when a check does.
pub async fn run(global: &Global, config_path: &Path) -> Result<(), Failure> {
    let mut checks = machine::checks();
    let config = config(config_path, &mut checks);
    let facts = match Replicator::connect(global).await {
        Ok(replicator) => daemon::facts(&replicator, &mut checks).await,
        Err(failure) => {
            checks.push(Check::fail("replicator", format!("{}: {}", failure.message, failure.why), failure.remedy));
            None
        }
    };
    if let Some(config) = &config {
        checks.extend(ports::checks(config, facts.is_some()));
        checks.extend(certificates::checks(config));
        checks.extend(disk::checks(&config.node.data_dir));
    }
    if let Some(facts) = &facts {
        checks.extend(daemon::checks(facts));
    }
    let count = |verdict| checks.iter().filter(|c| c.verdict == verdict).count();
    let (failed, warned) = (count(Verdict::Fail), count(Verdict::Warn));
    output::print(global.output, &DoctorView { failed, warned, checks })?;
    if failed == 0 {
        return Ok(());
    }
    Err(Failure::failed(format!("{failed} checks failed")))
}

fn config(path: &Path, checks: &mut Vec<Check>) -> Option<Config> {
    match Config::load(path) {
        Ok(config) => {
            let found = format!("{} is good: {}/{}", path.display(), config.node.site, config.node.node);
            checks.push(Check::ok("configuration", found));
            Some(config)
        }
        Err(error) => {
            let remedy = match error {
                ConfigError::Read { .. } => "start from deploy/replicator.example.toml, or name the file with --config",
                _ => "correct it; try it with: farshore-replicator --check-config",
            };
            checks.push(Check::fail("configuration", error.to_string(), remedy));
            None
        }
    }
}

impl View for DoctorView {
    fn table(&self) -> String {
        let mut table = Table::new(&["CHECK", "RESULT", "FOUND"]);
        for c in &self.checks {
            let verdict = match c.verdict {
                Verdict::Ok => "ok",
                Verdict::Warn => "WARN",
                Verdict::Fail => "FAIL",
            };
            table.row([c.name.clone(), verdict.into(), c.found.clone()]);
        }
        let mut out = table.render();
        for c in self.checks.iter().filter(|c| !c.remedy.is_empty()) {
            out += &format!("{}\n  do:  {}\n", c.name, c.remedy);
        }
        out
    }
}
