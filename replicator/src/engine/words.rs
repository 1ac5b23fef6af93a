//! What the members in reach make together of the cost of a loss. Where no primary can be asked they may know more than one
//! of them: what is acknowledged, how far each of them has it, and who heard the primary last.

use farshore_core::ids::Seq;
use farshore_core::loss::{self, Testimony};
use farshore_proto::v1 as api;

/// What this node and the members that it asked say of one lineage.
pub(super) struct Words {
    own: Testimony,
    /// The own word among them, unless it is a witness's.
    all: Vec<Testimony>,
}

/// What is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cost {
    pub records: u64,
    pub bytes: u64,
    pub ms: u64,
    /// Otherwise it is at least so much, and what was acknowledged during the last `unknown_ms`.
    pub exact: bool,
    pub unknown_ms: u64,
}

impl Words {
    pub fn of(view: &api::VolumeStatus, own: Testimony, theirs: &[Option<api::VolumeStatus>]) -> Words {
        let counts = |theirs: &&api::VolumeStatus| theirs.lineage == view.lineage && theirs.role() != api::Role::Witness;
        let mut all: Vec<Testimony> = theirs.iter().flatten().filter(counts).map(testimony).collect();
        all.extend((view.role() != api::Role::Witness).then(|| own.clone()));
        Words { own, all }
    }

    pub fn narrow_losses(&self, view: &mut api::VolumeStatus) {
        for figure in view.loss.iter_mut().filter(|figure| !figure.exact) {
            if let Some((records, unknown_ms, last)) = loss::narrowed(&figure.site, &self.all) {
                (figure.promote_records, figure.unknown_ms, figure.promote_last_seq) = (records, unknown_ms, last.0);
            }
        }
    }

    /// What a force gives up that goes on from the copy here, whatever those hold that it does not name. Not what promoting
    /// the site gives up: then the others are asked for what the copy lacks.
    pub fn cost_of_force(&self, view: &api::VolumeStatus) -> Cost {
        match view.members.iter().find(|member| member.here && member.lag_exact) {
            // What completed is in its own log.
            Some(_) if view.role() == api::Role::Primary => {
                Cost { records: 0, bytes: 0, ms: 0, exact: true, unknown_ms: 0 }
            }
            Some(here) => Cost {
                records: here.lag_records,
                bytes: here.lag_bytes,
                ms: here.lag_ms,
                exact: true,
                unknown_ms: 0,
            },
            None => {
                let (records, unknown_ms, _) = loss::forced_among(&self.own, &self.all);
                Cost { records, bytes: 0, ms: 0, exact: false, unknown_ms }
            }
        }
    }
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
        let member = |node: &str, here| api::MemberStatus { site: "west".into(), node: node.into(), here, ..Default::default() };
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
        assert_eq!(here.loss[0].promote_records, 0, "promoted, n2 is given the rest by n1");
        let cost = words.cost_of_force(&here);
        assert_eq!((cost.records, cost.exact, cost.unknown_ms), (40, false, 700));
    }

    #[test]
    fn beside_a_live_primary_a_force_gives_up_what_that_says_the_copy_lacks() {
        let mut here = view(50);
        here.loss[0].exact = true;
        let lag = api::MemberStatus { lag_exact: true, lag_records: 40, lag_bytes: 160, lag_ms: 3, ..here.members[1].clone() };
        here.members[1] = lag;
        let words = Words::of(&here, testimony(&here), &[]);
        let told = Cost { records: 40, bytes: 160, ms: 3, exact: true, unknown_ms: 0 };
        assert_eq!(words.cost_of_force(&here), told);
        here.set_role(api::Role::Primary);
        assert_eq!(words.cost_of_force(&here).records, 0, "its own log has all that it acknowledged");
    }
}
