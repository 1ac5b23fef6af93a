//! How the views look as tables.

use std::fmt::Write;

use crate::loss_views::{amount, figure, losses};
use crate::output::View;
use crate::table::{NONE, Table, bytes, or_none, time_ms, time_us};
use crate::views::{
    AttachView, AttachmentView, ConditionView, DeletedView, FailbackView, FailbacksView, ForcePlanView, MemberView,
    PlaceView, PolicyView, ResultsView, ScrubView, SitesView, StatusView, StepView, VolumeListView, VolumeView,
};

impl std::fmt::Display for PlaceView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.site.as_str(), self.node.as_str()) {
            ("", _) => f.write_str(NONE),
            (site, "") => f.write_str(site),
            (site, node) => write!(f, "{site}/{node}"),
        }
    }
}

impl View for StatusView {
    fn table(&self) -> String {
        let mut out = format!("{}/{}\n", self.site, self.node);
        conditions(&mut out, &self.conditions, "");
        if self.volumes.is_empty() {
            out += "\nno volumes; make one with: farshore volume create\n";
        }
        for volume in &self.volumes {
            out.push('\n');
            out += &volume.table();
        }
        out
    }
}

/// A String never fails to be written to.
macro_rules! line {
    ($out:expr, $($arg:tt)*) => { let _ = writeln!($out, $($arg)*); };
}

/// Nothing for what every volume has that was told nothing else.
fn mode_text(policy: &PolicyView) -> Option<String> {
    let limits = [
        (policy.rpo_ms, format!("shipped every {}", time_ms(policy.rpo_ms))),
        (policy.max_commit_latency_ms, format!("commit latency up to {}", time_ms(policy.max_commit_latency_ms))),
        (policy.max_lag_bytes, format!("lag up to {}", bytes(policy.max_lag_bytes))),
        (policy.fallback_after_ms, format!("fallback after {}", time_ms(policy.fallback_after_ms))),
        (
            policy.promote_observer_after_ms,
            format!("observer promoted after {}", time_ms(policy.promote_observer_after_ms)),
        ),
    ];
    let set: Vec<String> = limits.into_iter().filter(|(value, _)| *value > 0).map(|(_, text)| text).collect();
    let told = policy.mode != "sync" || !set.is_empty();
    told.then(|| std::iter::once(policy.mode.to_string()).chain(set).collect::<Vec<_>>().join(", "))
}

impl View for VolumeView {
    fn table(&self) -> String {
        let mut out = String::new();
        let reason = if self.reason.is_empty() { String::new() } else { format!(" ({})", self.reason) };
        line!(out, "{}  {}  {}  {}{reason}", self.name, bytes(self.size_bytes), self.role, self.state);
        line!(out, "  id        {}", self.id);
        line!(
            out,
            "  primary   {}, epoch {}, lineage {}, config {}",
            self.primary,
            self.epoch,
            self.lineage,
            self.config_version
        );
        let policy = &self.policy;
        let local = if policy.local_required { ", local" } else { "" };
        let loss = match policy.fence_after_ms {
            0 => policy.on_quorum_loss.to_string(),
            ms => format!("{} after {}", policy.on_quorum_loss, time_ms(ms)),
        };
        let next = policy.next_durability.map(|next| format!(" ({next} from the next attach on)")).unwrap_or_default();
        line!(
            out,
            "  quorum    {} (w={}, minRemote={}{local}), durability {}{next}, on its loss {loss}",
            policy.quorum,
            policy.w,
            policy.min_remote,
            policy.durability
        );
        if policy.iops > 0 || policy.bytes_per_second > 0 {
            let iops = (policy.iops > 0).then(|| format!("{} iops", policy.iops));
            let rate = (policy.bytes_per_second > 0).then(|| format!("{} a second", bytes(policy.bytes_per_second)));
            let both: Vec<String> = iops.into_iter().chain(rate).collect();
            line!(out, "  limits    {}", both.join(", "));
        }
        if let Some(mode) = mode_text(policy) {
            line!(out, "  mode      {mode}");
        }
        let lease =
            if self.lease.valid { format!("valid for {}", time_ms(self.lease.remaining_ms)) } else { NONE.into() };
        line!(out, "  lease     {lease}");
        line!(
            out,
            "  seq       appended {}, durable {}, acked {}, applied {}",
            self.appended_seq,
            self.durable_seq,
            self.acked_seq,
            self.applied_seq
        );
        if self.read_only {
            line!(out, "  access    read-only, on every node that holds a copy");
        }
        line!(out, "  attached  {}", attached(self));
        if !self.source.is_empty() {
            line!(out, "  source    {}", self.source);
        }
        if self.snapshots > 0 || self.snapshot_limit_bytes > 0 {
            let held = match (self.snapshot_held_bytes, self.snapshot_limit_bytes) {
                (0, 0) => String::new(),
                (held, 0) => format!(", which hold {}", bytes(held)),
                (held, limit) => format!(", which hold {} of at most {}", bytes(held), bytes(limit)),
            };
            line!(out, "  snapshots {}{held}", self.snapshots);
        }
        if let Some(scrub) = &self.scrub {
            line!(out, "  scrub     {}", scrubbed(scrub));
        }
        out += &members(&self.members);
        out += &losses(&self.loss);
        conditions(&mut out, &self.conditions, "  ");
        out
    }
}

fn scrubbed(scrub: &ScrubView) -> String {
    let found = match (scrub.damaged_blocks, scrub.lost_blocks) {
        (0, 0) => "no damage".to_string(),
        (damaged, lost) => {
            format!("{damaged} blocks damaged, {} repaired, {lost} beyond repair", scrub.repaired_blocks)
        }
    };
    match (scrub.running, scrub.finished_unix_s) {
        (true, _) => {
            format!("{:.0} % verified ({}), {found}", scrub.progress * 100.0, bytes(scrub.checked_bytes))
        }
        (false, 0) => "not yet".into(),
        (false, at) => format!("{} verified on {}, {found}", bytes(scrub.checked_bytes), day(at)),
    }
}

fn attached(volume: &VolumeView) -> String {
    let places: Vec<String> = volume.attached.iter().chain(&volume.readers).map(attached_at).collect();
    or_none(&places.join("; "))
}

fn attached_at(at: &AttachmentView) -> String {
    let place = if at.device.path.is_empty() { &at.device.socket } else { &at.device.path };
    let read_only = if at.device.read_only { ", read-only" } else { "" };
    let served =
        if at.served_by_node.is_empty() { String::new() } else { format!(", served by {}", at.served_by_node) };
    format!("{}/{} as {} ({}{read_only}){served}", at.site, at.node, or_none(place), at.device.kind)
}

fn members(members: &[MemberView]) -> String {
    let mut table =
        Table::new(&["MEMBER", "KIND", "SYNC SET", "STATE", ">DURABLE", ">APPLIED", "LAG", "RTT"]).indented("  ");
    for m in members {
        let here = if m.here { " *" } else { "" };
        let progress = match (m.progress < 1.0, m.to_ship_bytes) {
            (false, _) => String::new(),
            (true, 0) => format!(" {:.0} %", m.progress * 100.0),
            (true, all) => {
                format!(" {:.0} % ({} of {})", m.progress * 100.0, bytes(m.shipped_bytes), bytes(all))
            }
        };
        let silent = if m.connected || m.silent_ms == 0 {
            String::new()
        } else {
            format!(", silent for {}", time_ms(m.silent_ms))
        };
        let data = m.kind != "witness";
        let kind = match m.stands_in_for.as_str() {
            "" => m.kind.to_string(),
            lost => format!("{} for {lost}", m.kind),
        };
        table.row([
            format!("{}/{}{here}", m.site, m.node),
            kind,
            if m.in_sync_set { "yes".into() } else { "no".into() },
            format!("{}{progress}{silent}", m.state),
            if data { m.durable_seq.to_string() } else { NONE.into() },
            if data { m.applied_seq.to_string() } else { NONE.into() },
            if data {
                amount(m.lag_records, Some(m.lag_bytes), Some(m.lag_ms)).unwrap_or_else(|| NONE.into())
            } else {
                NONE.into()
            },
            if m.rtt_us == 0 { NONE.into() } else { time_us(m.rtt_us) },
        ]);
    }
    let mut out = table.render();
    for m in members.iter().filter(|m| !m.reason.is_empty()) {
        line!(out, "    {}/{}: {}", m.site, m.node, m.reason);
    }
    out
}

fn conditions(out: &mut String, conditions: &[ConditionView], indent: &str) {
    for c in conditions {
        line!(out, "{indent}! {}: {}", c.name, c.text);
        if !c.remedy.is_empty() {
            line!(out, "{indent}  do: {}", c.remedy);
        }
    }
}

impl View for VolumeListView {
    fn table(&self) -> String {
        let mut table = Table::new(&["NAME", ">SIZE", "ROLE", "STATE", "PRIMARY", "SYNC SET", "QUORUM", "DEVICE"]);
        for v in &self.volumes {
            let sync_set: Vec<_> = v.members.iter().filter(|m| m.in_sync_set).map(|m| m.site.as_str()).collect();
            let device = attached(v);
            table.row([
                v.name.clone(),
                bytes(v.size_bytes),
                v.role.into(),
                v.state.clone(),
                v.primary.to_string(),
                or_none(&sync_set.join(",")),
                v.policy.quorum.clone(),
                device,
            ]);
        }
        table.render()
    }
}

impl View for AttachView {
    fn table(&self) -> String {
        let place = if self.device.path.is_empty() { &self.device.socket } else { &self.device.path };
        let read_only = if self.device.read_only { ", read-only" } else { "" };
        format!("{} is {} ({}{read_only}), session {}\n", self.volume, or_none(place), self.device.kind, self.session)
    }
}

impl View for DeletedView {
    fn table(&self) -> String {
        format!("{} is deleted\n", self.deleted)
    }
}

impl View for ForcePlanView {
    fn table(&self) -> String {
        let mut out = String::new();
        let (verb, gives) = if self.done { ("was begun", "gave") } else { ("would be begun", "gives") };
        line!(
            out,
            "{}: lineage generation {} {verb} from {} at seq {}",
            self.volume,
            self.new_generation,
            self.donor,
            self.fork_seq
        );
        let lost = figure(amount(self.lost_records, self.lost_bytes, self.lost_ms), self.exact, self.unknown_ms);
        line!(out, "  {gives} up  acknowledged data: {lost}");
        for warning in &self.warnings {
            line!(out, "  ! {warning}");
        }
        out
    }
}

pub fn steps(out: &mut String, steps: &[StepView]) {
    for step in steps {
        line!(out, "  {:<12}{:>8.2} s", step.name, step.seconds);
    }
}

impl View for FailbacksView {
    fn table(&self) -> String {
        let mut out = String::new();
        for FailbackView { volume, ok, steps: done, error, remedy } in &self.volumes {
            out += &match (ok, done.is_empty()) {
                (true, true) => format!("{volume}: its primary is in {} already\n", self.to),
                (true, false) => format!("{volume}: its primary is in {} again\n", self.to),
                (false, _) => format!("{volume}: did not go back: {error}\n  {remedy}\n"),
            };
            steps(&mut out, done);
        }
        out
    }
}

impl View for ResultsView {
    fn table(&self) -> String {
        let mut table = Table::new(&["VOLUME", "RESULT", "PRIMARY", "EPOCH"]);
        for r in &self.results {
            let (primary, epoch) = match &r.status {
                Some(v) => (v.primary.to_string(), v.epoch.clone()),
                None => (NONE.into(), NONE.into()),
            };
            let result = if r.ok { "ok" } else { "failed" };
            table.row([r.volume.clone(), result.into(), primary, epoch]);
        }
        let mut out = table.render();
        for r in &self.results {
            if let Some(e) = &r.error {
                line!(out, "{}: {}", r.volume, e.message);
                if !e.why.is_empty() {
                    line!(out, "  why: {}", e.why);
                }
                if !e.remedy.is_empty() {
                    line!(out, "  do:  {}", e.remedy);
                }
            }
        }
        out
    }
}

impl View for SitesView {
    fn table(&self) -> String {
        let mut table = Table::new(&["SITE", "NODE", "ADDRESS", "STATE", "RTT", "CERTIFICATE ENDS", "VERSION"]);
        let here = env!("CARGO_PKG_VERSION").to_string();
        table.row([
            self.site.clone(),
            self.node.clone(),
            NONE.into(),
            "this node".into(),
            NONE.into(),
            NONE.into(),
            here,
        ]);
        for p in &self.peers {
            let state = match (p.connected, p.reason.as_str()) {
                (true, "") => "connected".into(),
                (true, reason) => format!("connected ({reason})"),
                (false, reason) => {
                    let since = if p.silent_ms > 0 { format!(" for {}", time_ms(p.silent_ms)) } else { String::new() };
                    let reason = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
                    format!("away{since}{reason}")
                }
            };
            let address = if p.address.is_empty() { "it dials us".into() } else { p.address.clone() };
            let rtt = if p.rtt_us == 0 { NONE.into() } else { time_us(p.rtt_us) };
            table.row([
                p.site.clone(),
                p.node.clone(),
                address,
                state,
                rtt,
                day(p.certificate_expires_unix_s),
                or_none(&p.version),
            ]);
        }
        table.render()
    }
}

/// The UTC day of a unix time; 0 is unknown.
pub fn day(unix_s: i64) -> String {
    match time::OffsetDateTime::from_unix_timestamp(unix_s) {
        Ok(at) if unix_s > 0 => at.date().to_string(),
        _ => NONE.into(),
    }
}
