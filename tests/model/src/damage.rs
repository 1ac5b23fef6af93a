//! Crashes and lost disks.
//!
//! A process that merely stops is not a step: its attempt going on for ever without doing anything is the same history.

use crate::bug::Bug;
use crate::model::Model;
use crate::state::{Phase, Replica, State};
use crate::step::Step;

impl Model {
    pub(crate) fn damage_steps(&self, state: &State, out: &mut Vec<(Step, State)>) {
        for at in self.all_members() {
            self.crash(state, at, out);
            let r = &state.replicas[usize::from(at)];
            if state.wipes < self.bounds.wipes && r.life == 0 {
                let mut next = *state;
                next.wipes += 1;
                self.stop(&mut next, at);
                next.replicas[usize::from(at)] = Replica { life: 1, ..Replica::default() };
                out.push((Step::Wipe { at }, next));
            }
        }
    }

    /// What was not synced is lost, and the process with what it knew.
    fn crash(&self, state: &State, at: u8, out: &mut Vec<(Step, State)>) {
        let mut next = *state;
        let r = &mut next.replicas[usize::from(at)];
        r.log = r.log.cut(r.durable);
        match self.bug {
            Some(Bug::PromiseForgotten) => r.promised = r.log.last_epoch(),
            // What it owes is not on the disk: a restart owes a whole lease, to whomever.
            Some(Bug::LeaseForgotten) => r.told = u8::from(r.owed != 0),
            _ => {}
        }
        if *r != state.replicas[usize::from(at)] {
            self.stop(&mut next, at);
            out.push((Step::Crash { at }, next));
        }
    }

    fn stop(&self, state: &mut State, node: u8) {
        for epoch in self.all_epochs() {
            let a = state.attempt(epoch);
            if a.node == node && matches!(a.phase, Phase::Preparing | Phase::Forking | Phase::Holding) {
                state.retire(epoch);
            }
        }
    }
}
