//! The metric families: their names, units and labels. Names are an interface; they only ever gain.
//!
//! Units are base units (bytes, seconds) and stand at the end; counters end in `_total`; what has states is one
//! gauge of 1 with the state as a label.

use std::fmt;

use farshore_proto::v1 as api;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, NoLabelSet};
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::readings::{IoReading, NodeReading, Readings, VolumeReading};
use crate::latency::LatencyReading;

/// The text of `/metrics`, in the OpenMetrics format.
pub fn encode(readings: Readings) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("farshore");
    registry.register_collector(Box::new(Scrape(readings)));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Scrape(Readings);

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut out = Families(encoder);
        out.node(&self.0.node)?;
        out.volumes(&self.0.volumes)?;
        out.members(&self.0.volumes)?;
        out.losses(&self.0.volumes)?;
        out.io(&self.0.volumes)?;
        out.peers(&self.0.peers)
    }
}

type Label<'a> = (&'a str, &'a str);

struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    fn gauges<L: EncodeLabelSet, V: EncodeGaugeValue>(
        &mut self,
        (name, unit, help): (&str, Option<&Unit>, &str),
        samples: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for (labels, value) in samples {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn counters<L: EncodeLabelSet, V: EncodeCounterValue>(
        &mut self,
        (name, unit, help): (&str, Option<&Unit>, &str),
        samples: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, unit, MetricType::Counter)?;
        for (labels, value) in samples {
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        Ok(())
    }

    fn latencies<'r, L: EncodeLabelSet>(
        &mut self,
        (name, help): (&str, &str),
        samples: impl IntoIterator<Item = (L, &'r LatencyReading)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        for (labels, read) in samples {
            let (sum_s, buckets) = (read.sum_us as f64 / 1e6, read.buckets_s());
            family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum_s, read.count(), &buckets, None)?;
        }
        Ok(())
    }

    fn node(&mut self, node: &NodeReading) -> fmt::Result {
        let bytes = Some(&Unit::Bytes);
        let info = [("site", node.site.as_str()), ("node", &node.node), ("version", env!("CARGO_PKG_VERSION"))];
        self.gauges(("node_info", None, "Which replicator this is; always 1"), [(info, 1u64)])?;
        let engine = [("engine", node.journal.engine.as_str())];
        self.gauges(("journal_engine", None, "How the journal does its I/O; always 1"), [(engine, 1u64)])?;
        let none = || [] as [Label; 0];
        self.gauges(
            ("journal_used", bytes, "Journal space that is not recycled yet"),
            [(none(), node.journal.used_bytes)],
        )?;
        self.gauges(("journal_budget", bytes, "What the journal may take"), [(none(), node.journal.budget_bytes)])?;
        let poisoned = u64::from(node.journal.poisoned);
        self.gauges(
            ("journal_poisoned", None, "1 after a failed sync, until the daemon restarts"),
            [(none(), poisoned)],
        )?;
        self.counters(
            ("journal_written", bytes, "Bytes written to the journal"),
            [(none(), node.journal.written_bytes_total)],
        )?;
        self.counters(
            ("journal_records", None, "Records written to the journal"),
            [(none(), node.journal.records_total)],
        )?;
        self.latencies(("journal_sync", "How long the journal's syncs take"), [(none(), &node.journal.sync)])?;
        self.gauges(
            ("store_capacity", bytes, "What replicas may take on this node"),
            [(none(), node.store.capacity_bytes)],
        )?;
        self.gauges(("store_used", bytes, "What replicas take on this node"), [(none(), node.store.used_bytes)])?;
        let errors = node.store.checksum_errors_total;
        self.counters(("store_checksum_errors", None, "Blocks whose checksum did not match"), [(none(), errors)])?;
        let repaired = node.store.repaired_blocks_total;
        self.counters(("store_repaired_blocks", None, "Blocks repaired from a peer"), [(none(), repaired)])?;
        let scrubbed = node.store.scrubbed_bytes_total;
        self.counters(("store_scrubbed", bytes, "Bytes verified by scrubs"), [(none(), scrubbed)])?;
        let resync = &node.resync;
        self.counters(
            ("resync_sent", bytes, "Bytes of blocks shipped to members that the journal can't serve"),
            [(none(), resync.sent_bytes_total)],
        )?;
        self.counters(
            ("resync_packed", bytes, "What these blocks took on the link, compressed where that helped"),
            [(none(), resync.packed_bytes_total)],
        )?;
        self.counters(
            ("resync_zero", bytes, "Bytes of blocks that were not shipped, being all zeroes"),
            [(none(), resync.zero_bytes_total)],
        )?;
        self.counters(
            ("resync_same", bytes, "Bytes of blocks that were not shipped, being there already"),
            [(none(), resync.same_bytes_total)],
        )?;
        self.counters(
            ("resync_received", bytes, "Bytes of blocks that were shipped to this node"),
            [(none(), resync.received_bytes_total)],
        )?;
        self.counters(
            ("resync_mismatches", None, "Images that were not as at their source when all had come, and came anew"),
            [(none(), resync.mismatches_total)],
        )?;
        self.counters(
            ("resync_resumed", None, "Shipments that were cut short and went on"),
            [(none(), resync.resumed_total)],
        )?;
        let conditions = node.conditions.iter().map(|c| ([("condition", c.name.as_str())], 1u64));
        self.gauges(("node_condition", None, "Conditions of the node that hold; always 1"), conditions)
    }

    fn volumes(&mut self, volumes: &[VolumeReading]) -> fmt::Result {
        let bytes = Some(&Unit::Bytes);
        let seconds = Some(&Unit::Seconds);
        let each = |value: fn(&api::VolumeStatus) -> u64| volumes.iter().map(move |v| (volume(v), value(&v.status)));
        let role = |v: &api::VolumeStatus| match v.role() {
            api::Role::Primary => "primary",
            api::Role::Secondary => "secondary",
            api::Role::Candidate => "candidate",
            api::Role::Witness => "witness",
            api::Role::Observer => "observer",
            api::Role::Diskless => "diskless",
            api::Role::Unspecified => "unknown",
        };
        let roles = volumes.iter().map(|v| ([("volume", v.status.name.as_str()), ("role", role(&v.status))], 1u64));
        self.gauges(("volume_role", None, "The local member's role; always 1"), roles)?;
        let states = volumes.iter().map(|v| ([("volume", v.status.name.as_str()), ("state", &v.status.state)], 1u64));
        self.gauges(("volume_state", None, "The volume's state as status shows it; always 1"), states)?;
        let mode = |v: &api::VolumeStatus| match v.policy.as_ref().map_or(api::Mode::Unspecified, api::Policy::mode) {
            api::Mode::Async => "async",
            api::Mode::Adaptive => "adaptive",
            api::Mode::Sync | api::Mode::Unspecified => "sync",
        };
        let modes = volumes.iter().map(|v| ([("volume", v.status.name.as_str()), ("mode", mode(&v.status))], 1u64));
        self.gauges(("volume_mode", None, "Who is waited for; always 1"), modes)?;
        self.counters(
            (
                "sync_set_departures",
                None,
                "Members put out of the sync set by themselves, since this node leads the volume",
            ),
            volumes.iter().map(|v| (volume(v), v.status.sync_set_departures)),
        )?;
        self.gauges(("volume_size", bytes, "The volume's size"), each(|v| v.size_bytes))?;
        self.gauges(("volume_allocated", bytes, "Space that the local replica takes"), each(|v| v.allocated_bytes))?;
        self.gauges(
            ("volume_snapshot_held", bytes, "Space of the local replica beside what it shows"),
            each(|v| v.snapshot_held_bytes),
        )?;
        self.gauges(
            ("volume_snapshot_limit", bytes, "What snapshots may hold; 0: as much as there is"),
            each(|v| v.snapshot_limit_bytes),
        )?;
        let epoch = |v: &api::VolumeStatus| v.epoch.split('.').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        self.gauges(("volume_epoch", None, "Number of the epoch"), each(epoch))?;
        self.gauges(("volume_appended_seq", None, "Newest record appended"), each(|v| v.appended_seq))?;
        self.gauges(("volume_durable_seq", None, "Newest record durable here"), each(|v| v.durable_seq))?;
        self.gauges(
            ("volume_acked_seq", None, "Newest record on a data quorum, as known here"),
            each(|v| v.acked_seq),
        )?;
        self.gauges(("volume_applied_seq", None, "Newest record in the local image"), each(|v| v.applied_seq))?;
        self.gauges(("volume_checkpointed_seq", None, "Redo starts after it"), each(|v| v.checkpointed_seq))?;
        let valid = |v: &api::VolumeStatus| v.lease.as_ref().is_some_and(|l| l.valid).into();
        self.gauges(("volume_lease_valid", None, "1 while reads may be served here"), each(valid))?;
        let remaining = volumes.iter().map(|v| {
            let ms = v.status.lease.as_ref().map_or(0, |l| l.remaining_ms);
            (volume(v), ms as f64 / 1e3)
        });
        self.gauges(("volume_lease_remaining", seconds, "How long the lease still holds"), remaining)?;
        self.scrubs(volumes)?;
        self.schedules(volumes)?;
        let attached = |v: &api::VolumeStatus| v.attached.is_some().into();
        self.gauges(("volume_attached", None, "1 while a device is attached somewhere"), each(attached))?;
        let conditions = volumes.iter().flat_map(|v| {
            let name = v.status.name.as_str();
            v.status.conditions.iter().map(move |c| ([("volume", name), ("condition", c.name.as_str())], 1u64))
        });
        self.gauges(("volume_condition", None, "Conditions of the volume that hold; always 1"), conditions)
    }

    fn scrubs(&mut self, volumes: &[VolumeReading]) -> fmt::Result {
        let each = |value: fn(&api::ScrubStatus) -> f64| {
            volumes.iter().filter_map(move |v| Some((volume(v), value(v.status.scrub.as_ref()?))))
        };
        self.gauges(("volume_scrub_running", None, "1 while the local copy is verified"), each(|s| flag(s.running)))?;
        self.gauges(("volume_scrub_progress_ratio", None, "Of the pass under way"), each(|s| s.progress))?;
        let finished = each(|s| s.finished_unix_s as f64);
        let seconds = Some(&Unit::Seconds);
        self.gauges(
            ("volume_scrub_finished_timestamp", seconds, "When the last pass ended, since 1970; 0: never"),
            finished,
        )?;
        let lost = each(|s| s.lost_blocks as f64);
        self.gauges(("volume_lost_blocks", None, "Damaged blocks here that no member could repair"), lost)
    }

    /// Of schedules that are run from here: others would tell what they knew last.
    fn schedules(&mut self, volumes: &[VolumeReading]) -> fmt::Result {
        // As in the words of the API.
        const FAILING: &str = "failing";
        let led = |s: &&api::Schedule| ["waiting", FAILING].contains(&s.state.as_str());
        let all = || {
            volumes.iter().flat_map(move |v| {
                let name = v.status.name.as_str();
                v.status
                    .schedules
                    .iter()
                    .filter(led)
                    .map(move |s| ([("volume", name), ("schedule", s.name.as_str())], s))
            })
        };
        let seconds = Some(&Unit::Seconds);
        self.gauges(
            ("schedule_failing", None, "1 while its last run made no snapshot"),
            all().map(|(l, s)| (l, flag(s.state == FAILING))),
        )?;
        self.gauges(
            ("schedule_last_timestamp", seconds, "When its newest snapshot was made, since 1970; 0: there is none"),
            all().map(|(l, s)| (l, s.last_unix_ms as f64 / 1e3)),
        )?;
        self.gauges(
            ("schedule_interval", seconds, "From one snapshot to the next"),
            all().map(|(l, s)| (l, s.interval_ms as f64 / 1e3)),
        )?;
        self.gauges(
            ("schedule_snapshots", None, "Snapshots that it made and that are there"),
            all().map(|(l, s)| (l, u64::from(s.snapshots))),
        )?;
        self.counters(
            ("schedule_failures", None, "Runs that made no snapshot, since this node leads the volume"),
            all().map(|(l, s)| (l, s.failures)),
        )
    }

    fn members(&mut self, volumes: &[VolumeReading]) -> fmt::Result {
        let bytes = Some(&Unit::Bytes);
        let seconds = Some(&Unit::Seconds);
        let all = || volumes.iter().flat_map(|v| v.status.members.iter().map(move |m| (v.status.name.as_str(), m)));
        let each = |value: fn(&api::MemberStatus) -> f64| all().map(move |(v, m)| (member(v, m), value(m)));
        let states = all().map(|(volume, m)| {
            let [volume, site, node] = member(volume, m);
            ([volume, site, node, ("state", m.state.as_str())], 1u64)
        });
        self.gauges(("member_state", None, "The member's state as status shows it; always 1"), states)?;
        self.gauges(
            ("member_in_sync_set", None, "1 if it counts for acknowledgements"),
            each(|m| flag(m.in_sync_set)),
        )?;
        self.gauges(("member_connected", None, "1 while it is reached"), each(|m| flag(m.connected)))?;
        self.gauges(("member_durable_seq", None, "Newest record known durable there"), each(|m| m.durable_seq as f64))?;
        self.gauges(("member_applied_seq", None, "Newest record known in its image"), each(|m| m.applied_seq as f64))?;
        self.gauges(("member_lag_records", None, "How far it is behind"), each(|m| m.lag_records as f64))?;
        self.gauges(("member_lag", bytes, "How far it is behind"), each(|m| m.lag_bytes as f64))?;
        self.gauges(("member_lag", seconds, "How far it is behind"), each(|m| m.lag_ms as f64 / 1e3))?;
        self.gauges(
            ("member_progress_ratio", None, "Of a catch-up or resync; 1 when there is none"),
            each(|m| m.progress),
        )
    }

    fn losses(&mut self, volumes: &[VolumeReading]) -> fmt::Result {
        let of = |wanted: fn(&&api::SiteLoss) -> bool, value: fn(&api::SiteLoss) -> f64| {
            volumes.iter().flat_map(move |v| {
                let name = v.status.name.as_str();
                let losses = v.status.loss.iter().filter(wanted);
                losses.map(move |l| ([("volume", name), ("site", l.site.as_str())], value(l)))
            })
        };
        let each = |value: fn(&api::SiteLoss) -> f64| of(|_| true, value);
        // Where nobody in reach can tell how much it is, nothing is said.
        let sized = |value: fn(&api::SiteLoss) -> f64| of(|l| l.promote_sized, value);
        let (bytes, seconds) = (Some(&Unit::Bytes), Some(&Unit::Seconds));
        self.gauges(
            ("site_loss_records", None, "Acknowledged records that losing the site would cost"),
            each(|l| l.records as f64),
        )?;
        self.gauges(
            ("site_loss", bytes, "Acknowledged bytes that losing the site would cost"),
            each(|l| l.bytes as f64),
        )?;
        self.gauges(
            ("site_loss", seconds, "Acknowledged time that losing the site would cost"),
            each(|l| l.ms as f64 / 1e3),
        )?;
        self.gauges(
            ("site_loss_unknown", seconds, "Of what was acknowledged for so long nothing is known here"),
            each(|l| if l.unknown_ms == u64::MAX { f64::INFINITY } else { l.unknown_ms as f64 / 1e3 }),
        )?;
        self.gauges(
            ("site_promote_records", None, "Acknowledged records that promoting the site would give up"),
            each(|l| l.promote_records as f64),
        )?;
        self.gauges(
            ("site_promote", bytes, "Acknowledged bytes that promoting the site would give up"),
            sized(|l| l.promote_bytes as f64),
        )?;
        self.gauges(
            ("site_promote", seconds, "Acknowledged time that promoting the site would give up"),
            sized(|l| l.promote_ms as f64 / 1e3),
        )?;
        self.gauges(
            (
                "site_loss_last_seq",
                None,
                "The last record that would be left without the site; 0 where that can't be told",
            ),
            each(|l| l.last_seq as f64),
        )?;
        self.gauges(
            (
                "site_promote_last_seq",
                None,
                "The last record that promoting the site would keep; 0 where that can't be told",
            ),
            each(|l| l.promote_last_seq as f64),
        )?;
        self.gauges(("site_loss_exact", None, "0 if the cost is a lower bound"), each(|l| flag(l.exact)))?;
        self.gauges(("site_loss_can_continue", None, "1 if the others could go on"), each(|l| flag(l.can_continue)))
    }

    fn io(&mut self, volumes: &[VolumeReading]) -> fmt::Result {
        let all = || {
            volumes.iter().flat_map(|v| {
                let kinds = [("read", &v.read), ("write", &v.write), ("flush", &v.flush), ("discard", &v.discard)];
                kinds.map(|(op, io): (&str, &IoReading)| ([("volume", v.status.name.as_str()), ("op", op)], io))
            })
        };
        let bytes = Some(&Unit::Bytes);
        self.counters(("volume_io", bytes, "Bytes asked for at the device"), all().map(|(l, io)| (l, io.bytes_total)))?;
        self.counters(("volume_io_errors", None, "Requests that failed"), all().map(|(l, io)| (l, io.errors_total)))?;
        self.latencies(
            ("volume_io", "From a request's arrival to its completion"),
            all().map(|(l, io)| (l, &io.latency)),
        )
    }

    fn peers(&mut self, peers: &[api::Peer]) -> fmt::Result {
        let each = |value: fn(&api::Peer) -> f64| {
            peers.iter().map(move |p| ([("site", p.site.as_str()), ("node", p.node.as_str())], value(p)))
        };
        let (bytes, seconds) = (Some(&Unit::Bytes), Some(&Unit::Seconds));
        self.gauges(("peer_connected", None, "1 while it is connected"), each(|p| flag(p.connected)))?;
        self.gauges(("peer_rtt", seconds, "Round trip to it"), each(|p| p.rtt_us as f64 / 1e6))?;
        self.gauges(
            ("peer_silent", seconds, "For how long it has not been connected; 0 while it is"),
            each(|p| p.silent_ms as f64 / 1e3),
        )?;
        let expires = each(|p| p.certificate_expires_unix_s as f64);
        self.gauges(("peer_certificate_expiry_timestamp", seconds, "When its certificate ends, since 1970"), expires)?;
        self.counters(("peer_sent", bytes, "Bytes sent to it"), each(|p| p.sent_bytes as f64))?;
        self.counters(("peer_received", bytes, "Bytes received from it"), each(|p| p.received_bytes as f64))?;
        self.counters(("peer_sent_packets", None, "Packets sent to it"), each(|p| p.sent_packets as f64))?;
        self.counters(("peer_lost_packets", None, "Packets to it that were lost"), each(|p| p.lost_packets as f64))?;
        self.gauges(("peer_mtu", bytes, "Largest datagram that the path carries"), each(|p| f64::from(p.mtu_bytes)))?;
        self.gauges(("peer_window", bytes, "What may be under way to it"), each(|p| p.window_bytes as f64))
    }
}

fn volume(v: &VolumeReading) -> [Label<'_>; 1] {
    [("volume", v.status.name.as_str())]
}

fn member<'a>(volume: &'a str, m: &'a api::MemberStatus) -> [Label<'a>; 3] {
    [("volume", volume), ("site", m.site.as_str()), ("node", m.node.as_str())]
}

fn flag(set: bool) -> f64 {
    f64::from(u8::from(set))
}
