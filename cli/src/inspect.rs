//! `farshore inspect …`: what is on disk, read by the code that wrote it. Offline and read-only.

use serde::Serialize;

use crate::args::{Format, InspectVerb};
use crate::failure::Failure;
use crate::output::{self, View};

pub fn run(format: Format, verb: InspectVerb) -> Result<(), Failure> {
    match verb {
        InspectVerb::Journal { dir } => print(format, backend::inspect_journal(&dir)?),
        InspectVerb::Store { dir } => print(format, backend::inspect_store(&dir)?),
    }
}

fn print<R: Serialize>(format: Format, report: R) -> Result<(), Failure> {
    output::print(format, &Report(report))
}

/// Any report; its table is its YAML, which people read well enough.
#[derive(Serialize)]
#[serde(transparent)]
struct Report<R>(R);

impl<R: Serialize> View for Report<R> {
    fn table(&self) -> String {
        serde_norway::to_string(&self.0).unwrap_or_else(|error| format!("the report can't be written: {error}\n"))
    }
}

/// Stands in for `farshore_replicator::{journal, store}::inspect(dir)`.
mod backend {
    use std::path::Path;

    use crate::failure::{Exit, Failure};

    pub fn inspect_journal(dir: &Path) -> Result<(), Failure> {
        Err(absent(dir))
    }

    pub fn inspect_store(dir: &Path) -> Result<(), Failure> {
        Err(absent(dir))
    }

    fn absent(dir: &Path) -> Failure {
        Failure::new(
            Exit::Unsupported,
            format!("{} can't be read by this version", dir.display()),
            "use a later version",
        )
    }
}
