//! What a cluster makes, and takes away again, for one volume. A function of what is seen now, so that it is right after
//! any restart and however often it is asked.
//!
//! ```text
//!                     made by this cluster's provisioner ──► nothing, ever
//!   led in this site ─┬ nobody's PersistentVolume ──► make it, reserved for its claim
//!                     ├ ours, and its claim is gone ──► take it away; the next look makes it anew
//!                     └ ours ── no claim, in a namespace that was named ──► make the claim
//!   led elsewhere, ───┬ ours ── our claim, which no pod names ──► take the claim away
//!   or no more        ├ ours ── no claim ──► take it away
//!                     └ ours ── a user's claim ──► it stays, and is ready for the next failover
//! ```
//!
//! What is attached is never touched, nor what somebody else has made.

/// The PersistentVolume that shows the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    Nowhere,
    /// A user's, or the provisioner's; also when only its name is taken.
    NotByUs,
    ByUs {
        /// A VolumeAttachment names it.
        attached: bool,
        /// It was bound, and the claim is gone.
        released: bool,
    },
}

/// The claim of the volume's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claimed {
    Nowhere,
    /// A user's, or the provisioner's.
    NotByUs {
        /// It is bound to the PersistentVolume, or will be.
        bound: bool,
    },
    ByUs {
        /// A pod that has not ended names it.
        used: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    pub made_here: bool,
    pub led_here: bool,
    pub shown: Shown,
    pub claimed: Claimed,
    /// Its namespace is there, and claims are to be made in it.
    pub claims_wanted: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    MakeVolume,
    MakeClaim,
    RemoveVolume,
    RemoveClaim,
}

/// The next step, or none.
pub fn decide(facts: &Facts) -> Option<Act> {
    use Act::{MakeClaim, MakeVolume, RemoveClaim, RemoveVolume};
    if facts.made_here {
        return None;
    }
    match (facts.led_here, facts.shown, facts.claimed) {
        (_, Shown::NotByUs, _) | (_, Shown::ByUs { attached: true, released: true }, _) => None,
        (true, Shown::Nowhere, _) => Some(MakeVolume),
        (true, Shown::ByUs { released: true, .. }, _) => Some(RemoveVolume),
        (true, Shown::ByUs { released: false, .. }, Claimed::Nowhere) if facts.claims_wanted => Some(MakeClaim),
        (true, Shown::ByUs { .. }, _) => None,
        (false, Shown::Nowhere, _) | (false, Shown::ByUs { attached: true, .. }, _) => None,
        (false, Shown::ByUs { .. }, Claimed::ByUs { used: true } | Claimed::NotByUs { bound: true }) => None,
        (false, Shown::ByUs { .. }, Claimed::ByUs { used: false }) => Some(RemoveClaim),
        (false, Shown::ByUs { .. }, Claimed::Nowhere | Claimed::NotByUs { bound: false }) => Some(RemoveVolume),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Shown = Shown::ByUs { attached: false, released: false };
    const RELEASED: Shown = Shown::ByUs { attached: false, released: true };

    fn facts(led_here: bool, shown: Shown, claimed: Claimed) -> Facts {
        Facts { made_here: false, led_here, shown, claimed, claims_wanted: true }
    }

    fn all() -> Vec<Facts> {
        let both = [false, true];
        let mut shown = vec![Shown::Nowhere, Shown::NotByUs];
        let mut claimed = vec![Claimed::Nowhere];
        for a in both {
            shown.extend(both.map(|released| Shown::ByUs { attached: a, released }));
            claimed.extend([Claimed::NotByUs { bound: a }, Claimed::ByUs { used: a }]);
        }
        let mut out = Vec::new();
        for (made_here, led_here, claims_wanted) in (0..8).map(|n| (n & 1 > 0, n & 2 > 0, n & 4 > 0)) {
            for &shown in &shown {
                out.extend(claimed.iter().map(|&claimed| Facts { made_here, led_here, shown, claimed, claims_wanted }));
            }
        }
        out
    }

    #[test]
    fn a_failover_and_the_way_back() {
        let unused = Claimed::ByUs { used: false };
        let steps = [
            (facts(true, Shown::Nowhere, Claimed::Nowhere), Some(Act::MakeVolume)),
            (facts(true, OURS, Claimed::Nowhere), Some(Act::MakeClaim)),
            (facts(true, OURS, unused), None),
            (facts(false, OURS, Claimed::ByUs { used: true }), None),
            (facts(false, OURS, unused), Some(Act::RemoveClaim)),
            (facts(false, RELEASED, Claimed::Nowhere), Some(Act::RemoveVolume)),
            (facts(false, Shown::Nowhere, Claimed::Nowhere), None),
        ];
        for (seen, act) in steps {
            assert_eq!(decide(&seen), act, "{seen:?}");
        }
    }

    #[test]
    fn a_users_claim_keeps_what_it_is_bound_to() {
        let bound = Claimed::NotByUs { bound: true };
        assert_eq!(decide(&facts(true, OURS, bound)), None);
        assert_eq!(decide(&facts(false, OURS, bound)), None);
        assert_eq!(decide(&facts(false, OURS, Claimed::NotByUs { bound: false })), Some(Act::RemoveVolume));
        // Deleted while the volume is led here, it can be made again, and gets the same volume.
        assert_eq!(decide(&facts(true, RELEASED, Claimed::Nowhere)), Some(Act::RemoveVolume));
    }

    #[test]
    fn claims_are_made_where_that_was_asked_for_only() {
        let seen = Facts { claims_wanted: false, ..facts(true, OURS, Claimed::Nowhere) };
        assert_eq!(decide(&seen), None);
    }

    #[test]
    fn nothing_of_others_and_nothing_in_use_is_removed() {
        for seen in all() {
            let act = decide(&seen);
            let said = format!("{seen:?}: {act:?}");
            assert!(!seen.made_here || act.is_none(), "{said}");
            assert!(seen.shown != Shown::NotByUs || act.is_none(), "{said}");
            let attached = matches!(seen.shown, Shown::ByUs { attached: true, .. });
            if let Some(Act::RemoveVolume | Act::RemoveClaim) = act {
                assert!(!attached && matches!(seen.shown, Shown::ByUs { .. }), "{said}");
            }
            if act == Some(Act::RemoveClaim) {
                assert!(seen.claimed == Claimed::ByUs { used: false } && !seen.led_here, "{said}");
            }
            if let Some(Act::MakeVolume | Act::MakeClaim) = act {
                assert!(seen.led_here, "{said}");
            }
            if act == Some(Act::RemoveVolume) && !seen.led_here {
                assert!(matches!(seen.claimed, Claimed::Nowhere | Claimed::NotByUs { bound: false }), "{said}");
            }
        }
    }
}
