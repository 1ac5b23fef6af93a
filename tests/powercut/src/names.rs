//! One directory: the names in it, those that the disk surely has, and the changes between the two.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use rand::RngExt;
use rand::rngs::StdRng;

#[derive(Debug, Clone)]
enum Change {
    Named(OsString, u64),
    Gone(OsString),
    /// One step, as file systems promise: never both names, never none.
    Renamed(OsString, OsString, u64),
}

#[derive(Debug, Default)]
pub(crate) struct Names {
    now: BTreeMap<OsString, u64>,
    durable: BTreeMap<OsString, u64>,
    pending: Vec<Change>,
}

impl Names {
    pub(crate) fn get(&self, name: &OsStr) -> Option<u64> {
        self.now.get(name).copied()
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (&OsString, u64)> {
        self.now.iter().map(|(name, number)| (name, *number))
    }

    /// What is named now, or would be again after a cut.
    pub(crate) fn reachable(&self) -> impl Iterator<Item = u64> {
        let changed = self.pending.iter().filter_map(|change| match change {
            Change::Named(_, number) | Change::Renamed(_, _, number) => Some(*number),
            Change::Gone(_) => None,
        });
        self.now.values().chain(self.durable.values()).copied().chain(changed)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.now.is_empty()
    }

    pub(crate) fn add(&mut self, name: &OsStr, number: u64) {
        self.change(Change::Named(name.into(), number));
    }

    pub(crate) fn remove(&mut self, name: &OsStr) {
        self.change(Change::Gone(name.into()));
    }

    pub(crate) fn rename(&mut self, from: &OsStr, to: &OsStr, number: u64) {
        self.change(Change::Renamed(from.into(), to.into(), number));
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.now, &change);
        self.pending.push(change);
    }

    pub(crate) fn sync(&mut self) {
        self.durable = self.now.clone();
        self.pending.clear();
    }

    /// Changes reach the disk in order, as with any file system that keeps a journal of them; how many, nobody knows.
    /// Returns how many did not.
    pub(crate) fn cut(&mut self, dice: &mut StdRng, keep_nothing: bool) -> usize {
        let kept = if keep_nothing { 0 } else { dice.random_range(0..=self.pending.len()) };
        self.pending[..kept].iter().for_each(|change| apply(&mut self.durable, change));
        let lost = self.pending.len() - kept;
        self.pending.clear();
        self.now = self.durable.clone();
        lost
    }
}

fn apply(names: &mut BTreeMap<OsString, u64>, change: &Change) {
    match change {
        Change::Named(name, number) => {
            names.insert(name.clone(), *number);
        }
        Change::Gone(name) => {
            names.remove(name);
        }
        Change::Renamed(from, to, number) => {
            names.remove(from);
            names.insert(to.clone(), *number);
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn names_come_and_go_in_order_and_only_a_sync_settles_them() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..100 {
            let mut names = Names::default();
            names.add("kept".as_ref(), 2);
            names.sync();
            names.add("draft".as_ref(), 3);
            names.rename("draft".as_ref(), "whole".as_ref(), 3);
            names.remove("kept".as_ref());
            names.cut(&mut StdRng::seed_from_u64(seed), false);
            seen.insert(names.all().map(|(name, _)| name.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" "));
        }
        let expected = ["draft kept", "kept", "kept whole", "whole"].map(String::from);
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), expected);
    }
}
