//! Which of a pair's main connections is the one. Pure: no clock, no socket.
//!
//! Both sides may dial at once. The node with the smaller name *chooses*: it numbers each connection that it takes with
//! a *generation*, and tells the other side in its Welcome (it was dialled) or Start (it dialled). The other side
//! follows: it takes what was chosen last. So both always agree, whoever dialled, and nothing is taken and dropped in
//! turns.
//!
//! The chooser keeps a connection that it already has, unless the peer's process is a new one, or the peer says that it
//! knew that very connection and lost it. A peer that dialled before it heard of the choice is a duplicate.

use std::collections::VecDeque;

use super::hello::Generation;
use super::name::PeerName;

/// Earlier processes of a peer that are remembered, so that their late packets change nothing.
const RETIRED_MAX: usize = 8;

/// The main connection in use, as this rule sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Taken {
    peer_boot: u128,
    generation: Generation,
}

/// Why a connection is taken or not. The name goes into logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// None was in use.
    First,
    /// The peer's process is a new one.
    PeerRestarted,
    /// The peer knew the one in use, and has lost it.
    PeerLostIt,
    /// The chooser has moved on.
    ChosenLater,
    /// The pair is connected already.
    Duplicate,
    /// From a process of the peer that has been replaced since.
    Retired,
    /// Chosen before the one in use.
    ChosenEarlier,
}

impl Rule {
    pub fn takes(self) -> bool {
        matches!(self, Rule::First | Rule::PeerRestarted | Rule::PeerLostIt | Rule::ChosenLater)
    }

    pub fn text(self) -> &'static str {
        match self {
            Rule::First => "no connection was in use",
            Rule::PeerRestarted => "the peer has restarted",
            Rule::PeerLostIt => "the peer lost the connection in use and dialled anew",
            Rule::ChosenLater => "the peer chose a newer connection",
            Rule::Duplicate => "the pair is connected already",
            Rule::Retired => "it is from a process of the peer that has been replaced",
            Rule::ChosenEarlier => "a newer connection is in use",
        }
    }
}

pub(super) struct Adoption {
    chooser: bool,
    our_boot: u128,
    taken: Option<Taken>,
    /// The last generation that we numbered (chooser) or learnt of (follower).
    last: Generation,
    /// The peer's process in use, or in use last.
    last_peer_boot: Option<u128>,
    retired: VecDeque<u128>,
}

impl Adoption {
    pub fn new(us: &PeerName, peer: &PeerName, our_boot: u128) -> Adoption {
        assert_ne!(us, peer, "a node is not its own peer");
        let chooser = us < peer;
        let last = Generation { boot: if chooser { our_boot } else { 0 }, count: 0 };
        Adoption { chooser, our_boot, taken: None, last, last_peer_boot: None, retired: VecDeque::new() }
    }

    pub fn is_chooser(&self) -> bool {
        self.chooser
    }

    /// What a Hello of ours says: the last generation that we know.
    pub fn known(&self) -> Generation {
        self.last
    }

    /// The chooser decides on a connection with the process `peer_boot`; `known` is what that side said it knew, the
    /// last generation of ours where it did not say (we dialled it, because we have none).
    pub fn choose(&self, peer_boot: u128, known: Generation) -> Rule {
        assert!(self.chooser, "only the chooser chooses");
        if self.retired.contains(&peer_boot) {
            return Rule::Retired;
        }
        match self.taken {
            None => Rule::First,
            Some(taken) if taken.peer_boot != peer_boot => Rule::PeerRestarted,
            Some(taken) if taken.generation == known => Rule::PeerLostIt,
            Some(_) => Rule::Duplicate,
        }
    }

    /// The follower decides on a connection that the process `peer_boot` chose.
    pub fn follow(&self, peer_boot: u128, generation: Generation) -> Rule {
        assert!(!self.chooser, "the chooser does not follow");
        if self.retired.contains(&peer_boot) || generation.boot != peer_boot {
            return Rule::Retired;
        }
        match self.taken {
            _ if self.last.boot == peer_boot && generation.count <= self.last.count => Rule::ChosenEarlier,
            None => Rule::First,
            Some(taken) if taken.peer_boot != peer_boot => Rule::PeerRestarted,
            Some(_) => Rule::ChosenLater,
        }
    }

    /// The number of the connection that the chooser is about to take.
    pub fn next_generation(&self) -> Generation {
        Generation { boot: self.our_boot, count: self.last.count + 1 }
    }

    /// The connection is in use from now on.
    pub fn take(&mut self, peer_boot: u128, generation: Generation) {
        if let Some(old) = self.last_peer_boot.replace(peer_boot).filter(|&old| old != peer_boot) {
            if self.retired.len() == RETIRED_MAX {
                self.retired.pop_front();
            }
            self.retired.push_back(old);
        }
        self.taken = Some(Taken { peer_boot, generation });
        self.last = generation;
        self.check_invariants();
    }

    /// The connection in use is gone.
    pub fn lose(&mut self) {
        self.taken = None;
    }

    fn check_invariants(&self) {
        if let Some(taken) = self.taken {
            assert!(!self.retired.contains(&taken.peer_boot), "a retired process is in use");
            assert_eq!(taken.generation, self.last, "the connection in use is the last one chosen");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NONE: Generation = Generation { boot: 0, count: 0 };

    fn pair() -> (Adoption, Adoption) {
        let (a, b) = (PeerName::new("a", "n").unwrap(), PeerName::new("b", "n").unwrap());
        (Adoption::new(&a, &b, 1), Adoption::new(&b, &a, 2))
    }

    #[test]
    fn both_dial_at_once_and_one_connection_remains() {
        let (mut a, b) = pair();
        assert!(a.is_chooser() && !b.is_chooser());
        // a's own dial is answered first; b's Hello was sent before it knew.
        assert_eq!(a.choose(2, a.known()), Rule::First);
        let generation = a.next_generation();
        a.take(2, generation);
        assert_eq!(a.choose(2, NONE), Rule::Duplicate);
        assert_eq!(b.follow(1, generation), Rule::First);
    }

    #[test]
    fn a_peer_that_lost_the_connection_gets_a_new_one_at_once() {
        let (mut a, mut b) = pair();
        let first = a.next_generation();
        a.take(2, first);
        b.take(1, first);
        b.lose();
        assert_eq!(a.choose(2, b.known()), Rule::PeerLostIt);
        let second = a.next_generation();
        a.take(2, second);
        assert_eq!(b.follow(1, second), Rule::First);
        b.take(1, second);
        assert_eq!(b.follow(1, first), Rule::ChosenEarlier);
        assert_eq!(a.choose(2, first), Rule::Duplicate);
    }

    #[test]
    fn a_new_process_replaces_the_old_one_and_the_old_one_does_not_come_back() {
        let (mut a, _) = pair();
        a.take(2, a.next_generation());
        assert_eq!(a.choose(3, NONE), Rule::PeerRestarted);
        a.take(3, a.next_generation());
        assert_eq!(a.choose(2, NONE), Rule::Retired);
        // Also when the old connection was given up before the new one was taken.
        a.lose();
        a.take(4, a.next_generation());
        assert_eq!(a.choose(3, NONE), Rule::Retired);

        let (_, mut b) = pair();
        b.take(1, Generation { boot: 1, count: 5 });
        let new = Generation { boot: 9, count: 1 };
        assert_eq!(b.follow(9, new), Rule::PeerRestarted);
        b.take(9, new);
        assert_eq!(b.follow(1, Generation { boot: 1, count: 6 }), Rule::Retired);
        // A peer that claims another process's numbering is not believed.
        assert_eq!(b.follow(9, Generation { boot: 1, count: 7 }), Rule::Retired);
    }

    proptest! {
        /// Random losses, dials and late arrivals: the two sides never both hold, for good, different connections, and
        /// with nothing under way and neither holding one, the next dial is taken.
        #[test]
        fn both_sides_converge(steps in proptest::collection::vec(0u8..6, 0..60)) {
            let (mut a, mut b) = pair();
            let mut to_b: Vec<Generation> = Vec::new();
            let mut hellos: Vec<Generation> = Vec::new();
            for step in steps {
                match step {
                    0 if a.taken.is_none() => { let g = a.next_generation(); a.take(2, g); to_b.push(g); }
                    1 if b.taken.is_none() && hellos.len() < 3 => hellos.push(b.known()),
                    2 => if let Some(known) = hellos.pop() && a.choose(2, known).takes() {
                        let g = a.next_generation(); a.take(2, g); to_b.push(g);
                    },
                    3 if !to_b.is_empty() => {
                        let g = to_b.remove(0);
                        if b.follow(1, g).takes() { b.take(1, g); }
                    }
                    4 => a.lose(),
                    5 => b.lose(),
                    _ => {}
                }
            }
            for g in to_b { if b.follow(1, g).takes() { b.take(1, g); } }
            if let (Some(x), Some(y)) = (a.taken, b.taken) {
                prop_assert!(x.generation.count >= y.generation.count, "b follows, it never leads");
            }
            if a.taken.is_none() {
                let g = a.next_generation();
                a.take(2, g);
                prop_assert!(b.follow(1, g).takes());
            }
        }
    }
}
