//! What losses would cost, and would have cost.

use farshore_proto::v1 as api;
use serde::Serialize;

use crate::output::View;
use crate::snapshot_views::moment;
use crate::table::{Table, bytes, time_ms};
use crate::views::{LossView, PlaceView, role};

#[derive(Debug, Serialize)]
pub struct LossesView {
    pub volume: String,
    /// Who remembers it.
    pub reporter: PlaceView,
    /// Oldest first.
    pub spans: Vec<LossSpanView>,
    /// Between two looks it may have been worse.
    pub looked_every_ms: u64,
}

/// The greatest of each figure in the span.
#[derive(Debug, Serialize)]
pub struct LossSpanView {
    pub began_unix_ms: i64,
    pub ended_unix_ms: i64,
    pub role: &'static str,
    pub epoch: String,
    pub loss: Vec<LossView>,
}

impl From<api::LossesResponse> for LossesView {
    fn from(past: api::LossesResponse) -> Self {
        let spans = past.spans.into_iter().map(|s| LossSpanView {
            began_unix_ms: s.began_unix_ms,
            ended_unix_ms: s.ended_unix_ms,
            role: role(s.role()),
            epoch: s.epoch,
            loss: s.losses.into_iter().map(Into::into).collect(),
        });
        let reporter = PlaceView { site: past.reporter_site, node: past.reporter_node };
        let (volume, looked_every_ms) = (past.volume, past.looked_every_ms);
        Self { volume, reporter, spans: spans.collect(), looked_every_ms }
    }
}

/// "41.5 s / 12 MiB / 388 writes", or nothing where there is nothing.
pub fn amount(records: u64, size: Option<u64>, ms: Option<u64>) -> Option<String> {
    if (records, size.unwrap_or(0), ms.unwrap_or(0)) == (0, 0, 0) {
        return None;
    }
    let records = if records == 1 { "1 write".into() } else { format!("{records} writes") };
    Some(match (ms, size) {
        (Some(ms), Some(size)) => format!("{} / {} / {records}", time_ms(ms), bytes(size)),
        _ => format!("{records} of unknown size and age"),
    })
}

/// What that much is, where more may come on top that nobody knows.
pub fn figure(amount: Option<String>, exact: bool, unknown_ms: u64) -> String {
    let unknown = || match unknown_ms {
        u64::MAX => "unknown from here".to_string(),
        ms => format!("unknown for the last {}", time_ms(ms)),
    };
    match (amount, exact) {
        (None, true) => "nothing".into(),
        (Some(cost), true) => cost,
        (None, false) => unknown(),
        (Some(cost), false) => format!("at least {cost}, {}", unknown()),
    }
}

/// The cost of losing the site, and that of promoting it.
fn costs(l: &LossView) -> [String; 2] {
    let lost = match amount(l.records, Some(l.bytes), Some(l.ms)) {
        Some(most) if l.lost_at_most => format!("at most {most}"),
        lost => figure(lost, l.exact || l.lost_at_most, l.lost_unknown_ms),
    };
    let promoted = amount(l.promote_records, l.promote_bytes, l.promote_ms);
    [lost, figure(promoted, l.exact, l.unknown_ms)]
}

pub fn losses(losses: &[LossView]) -> String {
    if losses.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["IF LOST", "COST", "THEN", "IF PROMOTED"]).indented("  ");
    for l in losses {
        let [cost, promote] = costs(l);
        let then = if l.can_continue { "the others can go on" } else { "I/O stops until it is back" };
        table.row([l.site.clone(), cost, then.into(), promote]);
    }
    table.render()
}

impl View for LossesView {
    fn table(&self) -> String {
        let mut table = Table::new(&["SINCE", "AS", "IF LOST", "WORST SEEN", "IF PROMOTED"]);
        for span in &self.spans {
            for loss in &span.loss {
                let [cost, promote] = costs(loss);
                table.row([moment(span.began_unix_ms), span.role.into(), loss.site.clone(), cost, promote]);
            }
        }
        let pause = time_ms(self.looked_every_ms);
        let looks = format!("a look every {pause}, between two it may have been worse");
        format!("{} as {} remembers it ({looks})\n{}", self.volume, self.reporter, table.render())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_figure_says_what_is_not_known_of_it() {
        let frozen = api::SiteLoss {
            records: 8,
            bytes: 32 << 10,
            ms: 4_000,
            lost_at_most: true,
            unknown_ms: 900,
            ..Default::default()
        };
        assert_eq!(costs(&frozen.clone().into()), ["at most 4.0 s / 32 KiB / 8 writes", "unknown for the last 900 ms"]);
        let (nothing, apart) = (
            api::SiteLoss { records: 0, bytes: 0, ms: 0, ..frozen },
            api::SiteLoss { lost_unknown_ms: 7_000, ..Default::default() },
        );
        assert_eq!(costs(&nothing.into())[0], "nothing");
        assert_eq!(costs(&apart.clone().into())[0], "unknown for the last 7.0 s");
        let counted = api::SiteLoss { promote_records: 5, unknown_ms: 900, ..apart };
        let known = api::SiteLoss { promote_bytes: 20 << 10, promote_ms: 70, promote_sized: true, ..counted.clone() };
        let told = [counted, known].map(|loss| costs(&loss.into())[1].clone());
        assert_eq!(told[0], "at least 5 writes of unknown size and age, unknown for the last 900 ms");
        assert_eq!(told[1], "at least 70 ms / 20 KiB / 5 writes, unknown for the last 900 ms");
    }

    #[test]
    fn the_past_is_called_what_was_seen_of_it() {
        let span =
            api::LossSpan { losses: vec![api::SiteLoss { exact: true, ..Default::default() }], ..Default::default() };
        let past = api::LossesResponse {
            volume: "pg".into(),
            spans: vec![span],
            looked_every_ms: 2_000,
            ..Default::default()
        };
        let table = LossesView::from(past).table();
        assert!(table.contains("a look every 2.0 s") && table.contains("WORST SEEN"), "{table}");
        assert!(!table.to_lowercase().contains("at most"), "{table}");
    }
}
