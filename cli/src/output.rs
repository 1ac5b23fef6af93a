//! Writing a view: as a table, JSON or YAML, and never with a panic when the reader went away.

use std::io::{self, Write};

use serde::Serialize;

use crate::args::Format;
use crate::failure::Failure;

/// What a verb answers with. Its serialised fields are stable; its table is for people.
pub trait View: Serialize {
    /// Ends with a newline.
    fn table(&self) -> String;
}

/// Renders one document, which ends with a newline.
pub fn render<V: View>(format: Format, view: &V) -> Result<String, Failure> {
    let failed = |why: String| Failure::failed("the answer can't be written").because(why);
    match format {
        Format::Table => Ok(view.table()),
        Format::Json => serde_json::to_string_pretty(view).map(|text| text + "\n").map_err(|e| failed(e.to_string())),
        Format::Yaml => serde_norway::to_string(view).map_err(|e| failed(e.to_string())),
    }
}

pub fn print<V: View>(format: Format, view: &V) -> Result<(), Failure> {
    write(&render(format, view)?)
}

/// One of a series: JSON on one line, YAML as a document of its own, tables apart.
pub fn print_next<V: View>(format: Format, view: &V, first: bool) -> Result<(), Failure> {
    use std::io::IsTerminal;
    let text = match format {
        Format::Json => serde_json::to_string(view)
            .map(|text| text + "\n")
            .map_err(|e| Failure::failed("the answer can't be written").because(e))?,
        Format::Yaml => format!("---\n{}", render(format, view)?),
        // Home, the text, then erase what is left of the last one: no flicker.
        Format::Table if io::stdout().is_terminal() => {
            let text = view.table().replace('\n', "\x1b[K\n");
            let start = if first { "\x1b[2J\x1b[H" } else { "\x1b[H" };
            format!("{start}{text}\x1b[J")
        }
        Format::Table if first => view.table(),
        Format::Table => format!("\n{}", view.table()),
    };
    write(&text)
}

pub fn write(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::closed_pipe()),
        Err(error) => Err(Failure::failed("the answer can't be written").because(error)),
    }
}
