//! What the loss of each site would have cost, over time: the worst that was seen in every minute, and in every hour before
//! the last one. It is looked at every so often: a peak between two looks is not seen.
//! Kept in memory, by each node for itself: a node that is cut off goes on saying what it can't know. A span ends with the
//! epoch and the role that it is of, so no figure of before a change is taken for one of after it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use farshore_core::api::Status;
use farshore_core::ids::VolumeId;
use farshore_proto::v1 as api;

use super::clock::unix_ms;
use super::driver::lock;
use super::node::Node;
use super::view::{losses, role_of};
use crate::control::OpError;

/// Between two looks.
const LOOK_PAUSE: Duration = Duration::from_secs(2);
const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
/// So many of each are kept, for each volume.
const MINUTES: usize = 60;
const HOURS: usize = 48;

#[derive(Default)]
pub struct LossHistory {
    volumes: Mutex<BTreeMap<VolumeId, Past>>,
}

/// Newest last.
#[derive(Debug, Default, Clone)]
struct Past {
    hours: VecDeque<api::LossSpan>,
    minutes: VecDeque<api::LossSpan>,
}

fn same_hour(a: &api::LossSpan, b: &api::LossSpan) -> bool {
    same_place(a, b) && a.began_unix_ms.div_euclid(HOUR_MS) == b.began_unix_ms.div_euclid(HOUR_MS)
}

fn same_minute(a: &api::LossSpan, b: &api::LossSpan) -> bool {
    same_place(a, b) && a.began_unix_ms.div_euclid(MINUTE_MS) == b.began_unix_ms.div_euclid(MINUTE_MS)
}

fn same_place(a: &api::LossSpan, b: &api::LossSpan) -> bool {
    (a.role, &a.epoch) == (b.role, &b.epoch)
}

/// The worse of two words about one site.
fn worse(a: &api::SiteLoss, b: &api::SiteLoss) -> api::SiteLoss {
    api::SiteLoss {
        site: a.site.clone(),
        records: a.records.max(b.records),
        bytes: a.bytes.max(b.bytes),
        ms: a.ms.max(b.ms),
        exact: a.exact && b.exact,
        unknown_ms: a.unknown_ms.max(b.unknown_ms),
        can_continue: a.can_continue && b.can_continue,
        text: String::new(),
        promote_records: a.promote_records.max(b.promote_records),
        promote_bytes: a.promote_bytes.max(b.promote_bytes),
        promote_ms: a.promote_ms.max(b.promote_ms),
        promote_sized: a.promote_sized && b.promote_sized,
        last_seq: a.last_seq.min(b.last_seq),
        promote_last_seq: a.promote_last_seq.min(b.promote_last_seq),
        lost_unknown_ms: a.lost_unknown_ms.max(b.lost_unknown_ms),
        lost_at_most: [a, b].iter().all(|l| l.exact || l.lost_at_most) && !(a.exact && b.exact),
    }
}

/// `later` becomes part of `span`. A site that only one of them knows came or went meanwhile.
fn join(span: &mut api::LossSpan, later: api::LossSpan) {
    span.ended_unix_ms = later.ended_unix_ms.max(span.ended_unix_ms);
    for loss in later.losses {
        match span.losses.iter_mut().find(|known| known.site == loss.site) {
            Some(known) => *known = worse(known, &loss),
            None => span.losses.push(loss),
        }
    }
}

fn push(spans: &mut VecDeque<api::LossSpan>, span: api::LossSpan, same: fn(&api::LossSpan, &api::LossSpan) -> bool) {
    match spans.back_mut() {
        Some(last) if same(last, &span) => join(last, span),
        _ => spans.push_back(span),
    }
}

impl Past {
    fn add(&mut self, span: api::LossSpan) {
        push(&mut self.minutes, span, same_minute);
        if self.minutes.len() > MINUTES
            && let Some(oldest) = self.minutes.pop_front()
        {
            push(&mut self.hours, oldest, same_hour);
        }
        if self.hours.len() > HOURS {
            self.hours.pop_front();
        }
    }

    fn spans(&self) -> Vec<api::LossSpan> {
        self.hours.iter().chain(&self.minutes).cloned().collect()
    }
}

fn span_now(status: &Status, now_ms: i64) -> api::LossSpan {
    let losses = losses(status).into_iter().map(|loss| api::SiteLoss { text: String::new(), ..loss }).collect();
    let epoch = status.epoch.to_string();
    api::LossSpan { began_unix_ms: now_ms, ended_unix_ms: now_ms, role: role_of(status.role).into(), epoch, losses }
}

pub async fn run(node: Arc<Node>) {
    loop {
        tokio::time::sleep(LOOK_PAUSE).await;
        let all = node.catalog.all();
        for handle in &all {
            let Some(status) = handle.status().await else { continue };
            let span = span_now(&status, unix_ms());
            lock(&node.loss_history.volumes).entry(handle.id).or_default().add(span);
        }
        lock(&node.loss_history.volumes).retain(|id, _| all.iter().any(|handle| handle.id == *id));
    }
}

impl Node {
    pub(super) async fn losses_of(self: &Arc<Self>, volume: &str) -> Result<api::LossesResponse, OpError> {
        let request = api::LossesRequest { volume: volume.into() };
        if let Some(answer) = self.by_neighbour::<api::LossesResponse>(volume, "losses", &request).await? {
            return Ok(answer);
        }
        let handle = self.find(volume)?;
        let spans = lock(&self.loss_history.volumes).get(&handle.id).map(Past::spans).unwrap_or_default();
        let (reporter_site, reporter_node) = (self.shared.me.site.clone(), self.shared.me.node.clone());
        let looked_every_ms = LOOK_PAUSE.as_millis() as u64;
        Ok(api::LossesResponse { volume: handle.name(), reporter_site, reporter_node, spans, looked_every_ms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(at_ms: i64, epoch: &str, records: u64, exact: bool) -> api::LossSpan {
        let loss = api::SiteLoss { site: "west".into(), promote_records: records, exact, ..Default::default() };
        let (began_unix_ms, ended_unix_ms) = (at_ms, at_ms);
        api::LossSpan { began_unix_ms, ended_unix_ms, role: 1, epoch: epoch.into(), losses: vec![loss] }
    }

    fn told(past: &Past) -> Vec<(i64, i64, u64, bool)> {
        let of = |s: &api::LossSpan| (s.began_unix_ms, s.ended_unix_ms, s.losses[0].promote_records, s.losses[0].exact);
        past.spans().iter().map(of).collect()
    }

    #[test]
    fn the_worst_of_a_minute_is_kept_and_no_figure_outlives_its_epoch() {
        let mut past = Past::default();
        past.add(span(1_000, "1.a", 3, true));
        past.add(span(3_000, "1.a", 90, true));
        past.add(span(5_000, "1.a", 2, true));
        assert_eq!(told(&past), [(1_000, 5_000, 90, true)]);
        // The role changed within the minute.
        past.add(span(7_000, "2.b", 0, false));
        past.add(span(61_000, "2.b", 0, true));
        assert_eq!(told(&past), [(1_000, 5_000, 90, true), (7_000, 7_000, 0, false), (61_000, 61_000, 0, true)]);
    }

    #[test]
    fn old_minutes_become_hours_and_old_hours_go() {
        let mut past = Past::default();
        let minutes = (HOURS as i64 + 10) * 60;
        for minute in 0..minutes {
            past.add(span(minute * MINUTE_MS, "1.a", minute as u64, minute % 60 != 7));
        }
        assert_eq!((past.minutes.len(), past.hours.len()), (MINUTES, HOURS));
        let first = &told(&past)[0];
        assert_eq!((first.2 % 60, first.3), (59, false), "the worst of an hour, which was not exact throughout");
        assert_eq!(told(&past).last().map(|span| span.2), Some(minutes as u64 - 1));
    }
}
