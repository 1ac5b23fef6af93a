//! What a drill says of itself: of one volume, or of several.

use std::fmt::Write as _;

use farshore_proto::v1 as api;
use serde::Serialize;

use crate::loss_views::{amount, figure};
use crate::output::View;
use crate::report::steps;
use crate::table::Table;
use crate::views::{PlaceView, StepView};

/// What had been acknowledged when a drill took an image, and is not in it.
#[derive(Debug, Clone, Serialize)]
pub struct MissedView {
    pub records: u64,
    /// Absent: nobody in reach knows.
    pub bytes: Option<u64>,
    pub ms: Option<u64>,
    /// Otherwise it is at least so much, and whatever was acknowledged during the last `unknown_ms`.
    pub exact: bool,
    pub unknown_ms: u64,
}

impl MissedView {
    /// As a volume's status had it when the image was still to be taken.
    pub fn of(volume: &api::VolumeStatus) -> MissedView {
        let own = volume.loss.iter().find(|loss| loss.site == volume.reporter_site).cloned().unwrap_or_default();
        // A promotion would keep what this copy holds and does not show yet.
        let held = volume.appended_seq.saturating_sub(volume.applied_seq);
        let sized = own.exact || own.promote_sized;
        let [bytes, ms] = [own.promote_bytes, own.promote_ms].map(|known| sized.then_some(known));
        MissedView { records: own.promote_records + held, bytes, ms, exact: own.exact, unknown_ms: own.unknown_ms }
    }

    fn text(&self) -> String {
        figure(amount(self.records, self.bytes, self.ms), self.exact, self.unknown_ms)
    }
}

/// One volume of a drill.
#[derive(Debug, Clone, Serialize)]
pub struct DrilledView {
    pub volume: String,
    pub clone: String,
    /// What was cloned: `volume@name`, or `volume at record SEQ`.
    pub image: String,
    /// Of an image that is not of now, where that can be told.
    pub missed: Option<MissedView>,
    pub device: String,
}

#[derive(Debug, Clone, Serialize)]
pub struct DrillView {
    #[serde(flatten)]
    pub of: DrilledView,
    pub here: PlaceView,
    /// Why the image is not of now; empty where it is.
    pub note: String,
    pub steps: Vec<StepView>,
    pub seconds: f64,
    /// Of the command, if one was run.
    pub exit: Option<i32>,
    pub removed: bool,
}

#[derive(Debug, Clone, Serialize)]
pub struct DrillsView {
    pub volumes: Vec<DrilledView>,
    /// All images are of one moment.
    pub one_moment: bool,
    pub here: PlaceView,
    pub note: String,
    pub steps: Vec<StepView>,
    pub seconds: f64,
    pub exit: Option<i32>,
    pub removed: bool,
}

fn missed(out: &mut String, of: &DrilledView) {
    if let Some(missed) = &of.missed {
        let _ = writeln!(out, "  not in the image of {}: {}", of.volume, missed.text());
    }
}

fn end(out: &mut String, note: &str, done: &[StepView], exit: Option<i32>) {
    if !note.is_empty() {
        let _ = writeln!(out, "  {note}");
    }
    steps(out, done);
    if let Some(exit) = exit {
        let _ = writeln!(out, "  the command ended with {exit}");
    }
}

impl View for DrillView {
    fn table(&self) -> String {
        let DrilledView { volume, clone, image, device, .. } = &self.of;
        let here = &self.here;
        let mut out = match (image.is_empty(), self.removed) {
            (true, _) => format!("the drill of {volume} in {here} is ended: {clone} is removed\n"),
            (false, true) => format!(
                "drill of {volume} in {here}: {image} was used, and {clone} is removed, {:.2} s\n",
                self.seconds
            ),
            (false, false) => format!("drill of {volume} in {here}: {image} is {clone} on {device}\n"),
        };
        missed(&mut out, &self.of);
        end(&mut out, &self.note, &self.steps, self.exit);
        if !self.removed {
            let _ = writeln!(out, "  end it with: farshore drill {volume} --end");
        }
        out
    }
}

impl View for DrillsView {
    fn table(&self) -> String {
        let (here, count) = (&self.here, self.volumes.len());
        let names: Vec<&str> = self.volumes.iter().map(|of| of.volume.as_str()).collect();
        if self.volumes.iter().all(|of| of.image.is_empty()) {
            let mut out = format!("the drill of {} in {here} is ended\n", names.join(", "));
            end(&mut out, &self.note, &self.steps, self.exit);
            return out;
        }
        let moment = if self.one_moment { "as of one moment" } else { "each as of a moment of its own" };
        let mut out = match self.removed {
            true => {
                format!("drill of {count} volumes in {here}, {moment}; the clones are removed, {:.2} s\n", self.seconds)
            }
            false => format!("drill of {count} volumes in {here}, {moment}\n"),
        };
        let mut table = Table::new(&["VOLUME", "IMAGE", "CLONE", "DEVICE"]).indented("  ");
        for of in &self.volumes {
            table.row([of.volume.clone(), of.image.clone(), of.clone.clone(), of.device.clone()]);
        }
        out += &table.render();
        self.volumes.iter().for_each(|of| missed(&mut out, of));
        end(&mut out, &self.note, &self.steps, self.exit);
        if !self.removed {
            let _ = writeln!(out, "  end it with: farshore drill {} --end", names.join(" "));
        }
        out
    }
}
