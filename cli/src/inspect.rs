//! `farshore inspect …`: what is on disk, read by the code that wrote it. Offline and read-only.

use std::path::Path;

use farshore_replicator::journal;
use serde::Serialize;

use crate::args::{Format, InspectVerb};
use crate::failure::{Exit, Failure};
use crate::output::{self, View};

/// Fails, after the report is printed, when there is damage.
pub fn run(format: Format, verb: InspectVerb) -> Result<(), Failure> {
    match verb {
        InspectVerb::Journal { dir } => {
            refuse_absent(&dir)?;
            let report = journal::inspect(&dir);
            print(format, &report, report.problems.len())
        }
        InspectVerb::Store { dir } => {
            refuse_absent(&dir)?;
            Err(Failure::new(Exit::Unsupported, "stores can't be read by this version", "use a later version"))
        }
    }
}

fn refuse_absent(dir: &Path) -> Result<(), Failure> {
    match std::fs::read_dir(dir) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Err(Failure::failed(format!("{} can't be read", dir.display())).because(error))
        }
        Err(error) => Err(Failure::new(
            Exit::NotFound,
            format!("{} is not a directory that can be read", dir.display()),
            "name the journal's or the store's directory under the replicator's data_dir",
        )
        .because(error)),
    }
}

fn print<R: Serialize>(format: Format, report: &R, problems: usize) -> Result<(), Failure> {
    output::print(format, &Report(report))?;
    match problems {
        0 => Ok(()),
        n => Err(Failure::failed(format!("{n} problems were found; they stand in the report"))),
    }
}

/// Any report; its table is its YAML, which people read well enough.
#[derive(Serialize)]
#[serde(transparent)]
struct Report<'a, R>(&'a R);

impl<R: Serialize> View for Report<'_, R> {
    fn table(&self) -> String {
        serde_norway::to_string(&self.0).unwrap_or_else(|error| format!("the report can't be written: {error}\n"))
    }
}
