//! What the members in reach make together of the cost of a loss. Where no primary can be asked they may know more than one
//! of them: what is acknowledged, how far each of them has it, and who heard the primary last.

use farshore_core::ids::Seq;
use farshore_core::loss::{self, Testimony};
use farshore_proto::v1 as api;
use prost::Message;

use super::driver::VolumeHandle;
use super::node::Node;
use super::view::HOLDER_PATIENCE;
use crate::transport::PeerName;

/// What this node and the members that it asked say of one lineage.
pub(super) struct Words {
    own: Testimony,
    /// The own word among them, unless it is a witness's.
    all: Vec<Testimony>,
    /// Where the logs of the others end.
    logs: Vec<(PeerName, u64)>,
}

/// What is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cost {
    pub records: u64,
    pub bytes: u64,
    pub ms: u64,
    /// `bytes` and `ms` are known.
    pub sized: bool,
    /// Otherwise it is at least so much, and what was acknowledged during the last `unknown_ms`.
    pub exact: bool,
    pub unknown_ms: u64,
    /// The last record that is kept.
    pub last: u64,
}

impl Words {
    pub fn of(view: &api::VolumeStatus, own: Testimony, theirs: &[Option<api::VolumeStatus>]) -> Words {
        let counts = |theirs: &&api::VolumeStatus| theirs.lineage == view.lineage && is_of_copy(theirs);
        let mut all: Vec<Testimony> = theirs.iter().flatten().filter(counts).map(testimony).collect();
        all.extend(is_of_copy(view).then(|| own.clone()));
        let log = |theirs: &api::VolumeStatus| {
            let peer = PeerName::new(&theirs.reporter_site, &theirs.reporter_node).ok()?;
            Some((peer, theirs.appended_seq))
        };
        let logs = theirs.iter().flatten().filter(counts).filter_map(log).collect();
        Words { own, all, logs }
    }

    pub fn narrow_losses(&self, view: &mut api::VolumeStatus) {
        for figure in view.loss.iter_mut().filter(|figure| !figure.exact) {
            if let Some((records, unknown_ms, last)) = loss::narrowed(&figure.site, &self.all) {
                (figure.promote_records, figure.unknown_ms, figure.promote_last_seq) = (records, unknown_ms, last.0);
                (figure.promote_bytes, figure.promote_ms, figure.promote_sized) = (0, 0, records == 0);
            }
        }
    }

    /// What a force gives up that goes on from the copy here, whatever those hold that it does not name. Not what promoting
    /// the site gives up: then the others are asked for what the copy lacks.
    pub fn cost_of_force(&self, view: &api::VolumeStatus) -> Cost {
        let last = view.appended_seq;
        let nothing = Cost { records: 0, bytes: 0, ms: 0, sized: true, exact: true, unknown_ms: 0, last };
        match view.members.iter().find(|member| member.here && member.lag_exact) {
            // What completed is in its own log.
            Some(_) if view.role() == api::Role::Primary => nothing,
            Some(here) => Cost { records: here.lag_records, bytes: here.lag_bytes, ms: here.lag_ms, ..nothing },
            None => {
                let (records, unknown_ms, last) = loss::forced_among(&self.own, &self.all);
                Cost { records, sized: records == 0, exact: false, unknown_ms, last: last.0, ..nothing }
            }
        }
    }
}

/// What another node's log holds after a record, and up to one.
#[derive(Clone, PartialEq, Message)]
pub(super) struct SpanAsked {
    #[prost(string, tag = "1")]
    pub volume: String,
    #[prost(uint64, tag = "2")]
    pub after: u64,
    #[prost(uint64, tag = "3")]
    pub upto: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SpanTold {
    /// Absent: it holds none of them, or has held them since before its start.
    #[prost(uint64, optional, tag = "1")]
    pub bytes: Option<u64>,
    #[prost(uint64, tag = "2")]
    pub ms: u64,
}

impl SpanTold {
    pub async fn here(handle: &VolumeHandle, after: u64, upto: u64) -> SpanTold {
        let span = handle.span(Seq(after), Seq(upto)).await;
        SpanTold { bytes: span.map(|(bytes, _)| bytes), ms: span.map_or(0, |(_, us)| us / 1000) }
    }
}

impl Node {
    /// How many bytes so many records after one are at least, and how many milliseconds old, by the word of whoever has them,
    /// this node included. `None`: nobody in reach that can tell.
    pub(super) async fn span_among(
        &self,
        handle: &VolumeHandle,
        words: &Words,
        after: u64,
        records: u64,
    ) -> Option<(u64, u64)> {
        let asked = SpanAsked { volume: handle.id.to_string(), after, upto: after + records };
        let holders = words.logs.iter().filter(|(_, end)| *end > after);
        let answers = holders.map(|(peer, _)| self.forward_within(HOLDER_PATIENCE, peer, "log-span", &asked));
        let mut told: Vec<SpanTold> = futures_util::future::join_all(answers).await.into_iter().flatten().collect();
        told.push(SpanTold::here(handle, after, after + records).await);
        told.iter().filter_map(|t| Some((t.bytes?, t.ms))).reduce(|a, b| (a.0.max(b.0), a.1.max(b.1)))
    }
}

/// Who says it has a copy: a witness, or a holder without one, has nothing that could be gone on with.
fn is_of_copy(view: &api::VolumeStatus) -> bool {
    let here = view.members.iter().find(|member| member.here);
    here.map_or(view.role() != api::Role::Witness, api::MemberStatus::holds_copy)
}

pub(super) fn testimony(view: &api::VolumeStatus) -> Testimony {
    let own = view.loss.iter().find(|figure| figure.site == view.reporter_site);
    Testimony {
        site: view.reporter_site.clone(),
        acked: Seq(view.acked_seq),
        durable: Seq(view.durable_seq),
        end: Seq(view.appended_seq),
        unknown: own.map_or(u64::MAX, |figure| figure.unknown_ms),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a copy in west says when it knows 90 to be acknowledged, and its log ends there.
    fn view(end: u64) -> api::VolumeStatus {
        let loss = api::SiteLoss { site: "west".into(), unknown_ms: 700, ..Default::default() };
        let member =
            |node: &str, here| api::MemberStatus { site: "west".into(), node: node.into(), here, ..Default::default() };
        api::VolumeStatus {
            role: api::Role::Secondary.into(),
            lineage: "g1.a".into(),
            reporter_site: "west".into(),
            appended_seq: end,
            durable_seq: end,
            acked_seq: 90,
            loss: vec![loss],
            members: vec![member("n1", false), member("n2", true)],
            ..Default::default()
        }
    }

    #[test]
    fn a_force_does_not_get_what_a_neighbour_holds() {
        let (mut here, there) = (view(50), view(90));
        let words = Words::of(&here, testimony(&here), &[Some(there), None]);
        words.narrow_losses(&mut here);
        let loss = &here.loss[0];
        assert_eq!((loss.promote_records, loss.promote_sized), (0, true), "promoted, n2 is given the rest by n1");
        let cost = words.cost_of_force(&here);
        assert_eq!((cost.records, cost.sized, cost.exact, cost.unknown_ms), (40, false, false, 700));
    }

    #[test]
    fn beside_a_live_primary_a_force_gives_up_what_that_says_the_copy_lacks() {
        let mut here = view(50);
        here.loss[0].exact = true;
        let lag = api::MemberStatus {
            lag_exact: true,
            lag_records: 40,
            lag_bytes: 160,
            lag_ms: 3,
            ..here.members[1].clone()
        };
        here.members[1] = lag;
        let words = Words::of(&here, testimony(&here), &[]);
        let told = Cost { records: 40, bytes: 160, ms: 3, sized: true, exact: true, unknown_ms: 0, last: 50 };
        assert_eq!(words.cost_of_force(&here), told);
        here.set_role(api::Role::Primary);
        assert_eq!(words.cost_of_force(&here).records, 0, "its own log has all that it acknowledged");
    }
}
