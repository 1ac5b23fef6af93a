//! Who the members are, which terms they may agree on, and the two quorums over them.

/// Members that fit.
pub const MEMBERS_MAX: usize = 4;

/// Votes, sync set and data rule: what a value of the register says. Each copy is in a site of its own.
pub struct Shape {
    pub name: &'static str,
    pub votes: [u8; MEMBERS_MAX],
    /// Bit per member.
    pub sync: u8,
    pub w: u8,
    pub min_remote: u8,
    pub local: bool,
}

pub struct Layout {
    pub name: &'static str,
    pub members: &'static [&'static str],
    /// Bit per member that holds a copy.
    pub data: u8,
    /// The first is in force at the beginning; the others may be asked for.
    pub shapes: &'static [Shape],
    /// What an operator may force: the members named, and the shape of the new lineage.
    pub forced: &'static [(u8, u8)],
    /// Two members that can change places in every state without anybody noticing.
    pub swap: Option<(u8, u8)>,
    /// Does the data rule depend on where the primary is?
    pub by_site: bool,
    /// A member with neither vote nor copy that may hold an epoch, and the one in whose site it is.
    pub diskless: Option<(u8, u8)>,
}

const fn shape(name: &'static str, votes: [u8; 4], sync: u8, (w, min_remote, local): (u8, u8, bool)) -> Shape {
    Shape { name, votes, sync, w, min_remote, local }
}

const ONES: [u8; 4] = [1, 1, 1, 0];
const ABC: &[&str] = &["a", "b", "c"];
/// The fourth has no copy.
const ABCD: &[&str] = &["a", "b", "c", "d"];

pub const LAYOUTS: &[Layout] = &[
    Layout {
        name: "majority-3",
        members: ABC,
        data: 0b111,
        shapes: &[
            shape("all", ONES, 0b111, (2, 1, false)),
            shape("without c", ONES, 0b011, (2, 1, false)),
            shape("without b", ONES, 0b101, (2, 1, false)),
            shape("without a", ONES, 0b110, (2, 1, false)),
            shape("a alone", ONES, 0b001, (1, 0, false)),
            shape("votes 3 1 1", [3, 1, 1, 0], 0b111, (2, 1, false)),
            shape("votes 3 1 1, a alone", [3, 1, 1, 0], 0b001, (1, 0, false)),
            shape("b and c, two votes", [0, 1, 1, 0], 0b110, (2, 1, false)),
            shape("a and c, two votes", [1, 0, 1, 0], 0b101, (2, 1, false)),
            shape("a and b, two votes", [1, 1, 0, 0], 0b011, (2, 1, false)),
        ],
        forced: &[(0b110, 7), (0b101, 8), (0b011, 9)],
        swap: Some((1, 2)),
        by_site: false,
        diskless: None,
    },
    Layout {
        name: "all-remotes-3",
        members: ABC,
        data: 0b111,
        shapes: &[
            shape("all", ONES, 0b111, (2, 2, false)),
            shape("without c", ONES, 0b011, (2, 1, false)),
            shape("without b", ONES, 0b101, (2, 1, false)),
            shape("without a", ONES, 0b110, (2, 1, false)),
        ],
        forced: &[],
        swap: Some((1, 2)),
        by_site: true,
        diskless: None,
    },
    Layout {
        name: "nearest-remote-3",
        members: ABC,
        data: 0b111,
        shapes: &[
            shape("all", ONES, 0b111, (2, 1, true)),
            shape("without c", ONES, 0b011, (2, 1, true)),
            shape("without b", ONES, 0b101, (2, 1, true)),
            shape("without a", ONES, 0b110, (2, 1, true)),
        ],
        forced: &[],
        swap: Some((1, 2)),
        by_site: true,
        diskless: None,
    },
    Layout {
        name: "nearest-remote-weighted",
        members: ABC,
        data: 0b111,
        shapes: &[shape("all, votes 1 3 1", [1, 3, 1, 0], 0b111, (2, 1, true))],
        forced: &[],
        swap: None,
        by_site: true,
        diskless: None,
    },
    Layout {
        name: "pair-witness",
        members: &["a", "b", "w"],
        data: 0b011,
        shapes: &[
            shape("both", ONES, 0b011, (2, 1, false)),
            shape("a alone", ONES, 0b001, (1, 0, false)),
            shape("b alone", ONES, 0b010, (1, 0, false)),
            shape("b and w, two votes", [0, 1, 1, 0], 0b010, (1, 0, false)),
            shape("a and w, two votes", [1, 0, 1, 0], 0b001, (1, 0, false)),
        ],
        forced: &[(0b110, 3), (0b101, 4)],
        swap: None,
        by_site: false,
        diskless: None,
    },
    Layout {
        name: "weighted-pair-witness",
        members: &["a", "b", "w"],
        data: 0b011,
        shapes: &[
            shape("both", [2, 2, 1, 0], 0b011, (2, 1, false)),
            shape("a alone", [2, 2, 1, 0], 0b001, (1, 0, false)),
            shape("b alone", [2, 2, 1, 0], 0b010, (1, 0, false)),
            shape("b and w, votes 2 1", [0, 2, 1, 0], 0b010, (1, 0, false)),
        ],
        forced: &[(0b110, 3)],
        swap: None,
        by_site: false,
        diskless: None,
    },
    Layout {
        name: "weighted-3",
        members: ABC,
        data: 0b111,
        shapes: &[
            shape("all", [2, 2, 1, 0], 0b111, (2, 1, false)),
            shape("b and c, votes 2 1", [0, 2, 1, 0], 0b110, (2, 1, false)),
        ],
        forced: &[(0b110, 1)],
        swap: None,
        by_site: false,
        diskless: None,
    },
    Layout {
        name: "pair-two-witnesses",
        members: &["a", "b", "w", "x"],
        data: 0b0011,
        shapes: &[
            shape("both", [1, 1, 1, 1], 0b0011, (2, 1, false)),
            shape("a alone", [1, 1, 1, 1], 0b0001, (1, 0, false)),
            shape("b alone", [1, 1, 1, 1], 0b0010, (1, 0, false)),
        ],
        forced: &[],
        swap: Some((2, 3)),
        by_site: false,
        diskless: None,
    },
    Layout {
        name: "weighted-pair",
        members: &["a", "b"],
        data: 0b11,
        shapes: &[
            shape("both, votes 2 1", [2, 1, 0, 0], 0b11, (2, 1, false)),
            shape("a alone, votes 2 1", [2, 1, 0, 0], 0b01, (1, 0, false)),
            shape("both, votes 1 2", [1, 2, 0, 0], 0b11, (2, 1, false)),
            shape("b alone, votes 1 2", [1, 2, 0, 0], 0b10, (1, 0, false)),
            shape("b by force", [0, 2, 0, 0], 0b10, (1, 0, false)),
        ],
        forced: &[(0b10, 4)],
        swap: None,
        by_site: false,
        diskless: None,
    },
    Layout {
        name: "diskless-majority-3",
        members: ABCD,
        data: 0b111,
        shapes: &[
            shape("all", ONES, 0b111, (2, 1, false)),
            shape("without c", ONES, 0b011, (2, 1, false)),
            shape("without b", ONES, 0b101, (2, 1, false)),
            shape("without a", ONES, 0b110, (2, 1, false)),
        ],
        forced: &[],
        swap: Some((1, 2)),
        by_site: false,
        diskless: Some((3, 0)),
    },
    Layout {
        name: "diskless-pair-witness",
        members: &["a", "b", "w", "d"],
        data: 0b011,
        shapes: &[
            shape("both", ONES, 0b011, (2, 1, false)),
            shape("a alone", ONES, 0b001, (1, 0, false)),
            shape("b alone", ONES, 0b010, (1, 0, false)),
            shape("b and w, two votes", [0, 1, 1, 0], 0b010, (1, 0, false)),
        ],
        forced: &[(0b110, 3)],
        swap: None,
        by_site: false,
        diskless: Some((3, 0)),
    },
    Layout {
        name: "diskless-nearest-3",
        members: ABCD,
        data: 0b111,
        shapes: &[
            shape("all", ONES, 0b111, (2, 1, true)),
            shape("without c", ONES, 0b011, (2, 1, true)),
            shape("without b", ONES, 0b101, (2, 1, true)),
            shape("without a", ONES, 0b110, (2, 1, true)),
        ],
        forced: &[],
        swap: Some((1, 2)),
        by_site: true,
        diskless: Some((3, 0)),
    },
];

pub fn named(name: &str) -> Option<&'static Layout> {
    LAYOUTS.iter().find(|l| l.name == name)
}

impl Shape {
    /// Do these voters carry more than half of all votes?
    pub fn control_quorum(&self, voters: u8) -> bool {
        let sum = |mask: u8| (0..MEMBERS_MAX).filter(|r| mask >> r & 1 == 1).map(|r| self.votes[r]).sum::<u8>();
        sum(voters) * 2 > sum(0xF)
    }

    /// Do these replicas satisfy the data rule, with the primary in `site`?
    pub fn data_quorum(&self, replicas: u8, site: u8) -> bool {
        let has = replicas & self.sync;
        let remotes = has & !(1 << site);
        has.count_ones() >= u32::from(self.w)
            && remotes.count_ones() >= u32::from(self.min_remote)
            && (!self.local || has >> site & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Terms that can never be satisfied would make a search pass by doing nothing.
    #[test]
    fn every_shape_can_be_satisfied_and_fits_its_layout() {
        for layout in LAYOUTS {
            assert!(layout.members.len() <= MEMBERS_MAX && layout.shapes.len() <= 16);
            for shape in layout.shapes {
                let site = shape.sync.trailing_zeros() as u8;
                assert!(shape.control_quorum(0xF) && shape.data_quorum(0xF, site), "{}: {}", layout.name, shape.name);
                assert_eq!(shape.sync & !layout.data, 0, "{}: a witness in a sync set", layout.name);
                if let Some((d, beside)) = layout.diskless {
                    assert_eq!(shape.votes[usize::from(d)], 0, "{}: a vote without a copy", layout.name);
                    assert_eq!((layout.data >> d & 1, layout.data >> beside & 1), (0, 1), "{}", layout.name);
                }
            }
        }
    }

    #[test]
    fn half_of_the_votes_is_no_majority() {
        let pair = named("pair-two-witnesses").expect("a layout");
        assert!(!pair.shapes[0].control_quorum(0b0011) && pair.shapes[0].control_quorum(0b0111));
        let nearest = &named("nearest-remote-3").expect("a layout").shapes[0];
        assert!(nearest.data_quorum(0b011, 0) && !nearest.data_quorum(0b110, 0) && nearest.data_quorum(0b110, 1));
        let all = &named("all-remotes-3").expect("a layout").shapes[0];
        assert!(all.data_quorum(0b110, 0) && !all.data_quorum(0b011, 0));
    }
}
