//! What must be true in every state. Each property looks at what users, operators and readers can see.

use crate::model::Model;
use crate::state::{Phase, State};

impl Model {
    /// What is wrong with this state.
    pub fn violation(&self, state: &State) -> Option<String> {
        self.missing(state)
            .or_else(|| self.unordered(state))
            .or_else(|| self.stale(state))
            .or_else(|| if self.bounds.forces > 0 { self.forked(state) } else { None })
    }

    /// What one epoch acknowledged or let be read is the beginning of every later log of its lineage that opens. So an
    /// acknowledged write is never lost, a read is never unread, and of two holders the lower acknowledges nothing new.
    fn missing(&self, state: &State) -> Option<String> {
        let served = |e: &u8| state.attempt(*e).opened && state.attempt(*e).phase != Phase::Past;
        for low in self.all_epochs().filter(served) {
            for high in (low + 1..=self.bounds.epochs).filter(served) {
                let (a, b) = (state.attempt(low), state.attempt(high));
                let older = b.log.len() > a.served && b.log.epoch_at(a.served + 1) < low;
                if a.lineage == b.lineage && older {
                    return Some(format!(
                        "epoch {low} served {} and epoch {high} has opened with an older record behind it: its log is {}",
                        a.log.cut(a.served),
                        b.log
                    ));
                }
                if a.lineage == b.lineage && !a.log.cut(a.served).is_prefix_of(b.log) {
                    return Some(format!(
                        "epoch {low} served {} and epoch {high} has opened without it: its log is {}",
                        a.log.cut(a.served),
                        b.log
                    ));
                }
            }
        }
        None
    }

    /// Of two configurations that took effect, the later one was made by somebody who knew the earlier.
    fn unordered(&self, state: &State) -> Option<String> {
        if self.bounds.changes == 0 {
            return None;
        }
        let effect = |e: &u8| state.attempt(*e).effect > 0;
        for high in self.all_epochs().filter(effect) {
            for low in (1..high).filter(effect) {
                let lineage = state.attempt(high).lineage;
                if state.attempt(low).lineage != lineage {
                    continue;
                }
                let mut at = state.attempt(high).found;
                while at.epoch() > low {
                    at = state.attempt(at.epoch()).found;
                }
                let known = if at.epoch() == low { at.k() } else { 0 };
                if at.epoch() > 0 && known < state.attempt(low).effect {
                    return Some(format!(
                        "configuration {low}/{} is in force beside {high}/{}, whose writer knew only {at}",
                        state.attempt(low).effect,
                        state.attempt(high).effect
                    ));
                }
            }
        }
        None
    }

    /// Two epochs never have a valid lease at once: the older one's reads would be stale.
    fn stale(&self, state: &State) -> Option<String> {
        if !self.bounds.leases {
            return None;
        }
        let opened = |e: &u8| state.attempt(*e).phase == Phase::Holding && state.attempt(*e).opened;
        let newest = self.all_epochs().filter(|e| state.attempt(*e).opened).max()?;
        let old = self.all_epochs().filter(opened).find(|e| *e < newest && self.lease_valid(state, *e))?;
        Some(format!("epoch {old} may still serve reads, and epoch {newest} has opened"))
    }

    /// What force may never do.
    fn forked(&self, state: &State) -> Option<String> {
        for e in self.all_epochs() {
            let a = state.attempt(e);
            let serves = matches!(a.phase, Phase::Holding | Phase::Gone) && a.opened;
            if serves && a.fence > 0 && a.served > a.fence - 1 {
                return Some(format!(
                    "epoch {e} goes on acknowledging in a lineage that can't be, after the one forced above it opened"
                ));
            }
            let lineage = &state.lineages[usize::from(a.lineage)];
            if !serves || lineage.generation == 0 {
                continue;
            }
            for m in self.all_members().filter(|m| lineage.named >> m & 1 == 1) {
                let held = lineage.held[usize::from(m)];
                for old in self.all_epochs().map(|e| state.attempt(e)).filter(|o| o.lineage == lineage.parent) {
                    let kept = old.log.cut(old.served.min(old.log.common(held)));
                    if old.opened && !kept.is_prefix_of(a.log) {
                        return Some(format!(
                            "{} was named and held {kept}, which was acknowledged; the forced lineage opened with {}",
                            self.layout.members[usize::from(m)],
                            a.log
                        ));
                    }
                }
            }
        }
        let opened = |l: &usize| state.lineages[*l].generation > 0 && state.lineages[*l].opened;
        let (a, b) = (state.lineages[1], state.lineages[2]);
        let share = opened(&1) && opened(&2) && a.generation == b.generation && a.named & b.named != 0;
        share.then(|| "two lineages of one generation have opened and share a member".to_string())
    }
}
