//! Everyone who may still look at a volume: which version any of them sees is found without asking each.

use super::extent::{Version, View};

pub(super) struct Views {
    /// In the order of where they look.
    sorted: Vec<View>,
}

impl Views {
    pub fn new(views: impl IntoIterator<Item = View>) -> Views {
        let mut sorted: Vec<View> = views.into_iter().collect();
        sorted.sort_unstable_by_key(|view| (view.at, view.barrier));
        sorted.dedup();
        Views { sorted }
    }

    /// Somebody sees this version, whose extent has `newer` as its next one.
    pub fn see(&self, version: Version, newer: Option<Version>) -> bool {
        let from = self.sorted.partition_point(|view| view.at < version);
        let upto = newer.map_or(self.sorted.len(), |newer| self.sorted.partition_point(|view| view.at < newer));
        // A barrier hides it from views of later images; those between are few.
        self.sorted[from..upto.max(from)].iter().any(|view| version.image >= view.barrier)
    }
}

#[cfg(test)]
mod tests {
    use farshore_core::ids::Seq;
    use proptest::prelude::*;

    use super::super::extent::{Entry, Versions, visible};
    use super::*;

    proptest! {
        /// As if each view had been asked.
        #[test]
        fn agrees_with_asking_each(
            views in prop::collection::vec((0_u32..3, 0_u32..3, 0_u64..9), 0..12),
            versions in prop::collection::btree_set((0_u32..3, 0_u64..9), 0..9),
        ) {
            let view = |(barrier, image, seq)| View { barrier, at: Version { image, seq: Seq(seq) } };
            let views: Vec<View> = views.into_iter().map(view).collect();
            let version = |(image, seq)| (Version { image, seq: Seq(seq) }, Entry::EMPTY);
            let versions: Versions = versions.into_iter().map(version).collect();
            let found = Views::new(views.clone());
            let all: Vec<Version> = versions.keys().copied().collect();
            for (at, version) in all.iter().enumerate() {
                let asked = views.iter().any(|view| visible(&versions, view).is_some_and(|(seen, _)| seen == *version));
                prop_assert_eq!(found.see(*version, all.get(at + 1).copied()), asked);
            }
        }
    }
}
