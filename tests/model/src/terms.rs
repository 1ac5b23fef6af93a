//! Terms in two bytes, and small sets of them.

use std::fmt;

/// `1epp ssss vvvv mmmm`: whether everybody must answer, primary's site, a life bit per sync member, a life bit per voter, the shape's number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct Terms(pub u16);

impl Terms {
    pub fn new(shape: u8, vote_lives: u8, sync_lives: u8, site: u8) -> Terms {
        Terms(
            1 << 15
                | u16::from(site) << 12
                | u16::from(sync_lives) << 8
                | u16::from(vote_lives) << 4
                | u16::from(shape),
        )
    }

    /// Terms of a forced lineage until its first epoch has its say: every voter of the shape must answer, and nothing can
    /// be acknowledged.
    #[must_use]
    pub fn everybody(self) -> Terms {
        Terms(self.0 | 1 << 14)
    }

    pub fn wants_everybody(self) -> bool {
        self.0 >> 14 & 1 == 1
    }

    pub fn shape(self) -> usize {
        usize::from(self.0 & 15)
    }

    pub fn vote_lives(self) -> u8 {
        (self.0 >> 4 & 15) as u8
    }

    pub fn sync_lives(self) -> u8 {
        (self.0 >> 8 & 15) as u8
    }

    pub fn site(self) -> u8 {
        (self.0 >> 12 & 3) as u8
    }
}

/// At most six terms, in order; the rest is zero.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct TermSet(pub [Terms; 6]);

impl TermSet {
    pub fn of(terms: Terms) -> TermSet {
        TermSet::default().with(terms)
    }

    pub fn iter(&self) -> impl Iterator<Item = Terms> + '_ {
        self.0.iter().copied().take_while(|t| t.0 != 0)
    }

    pub fn len(&self) -> usize {
        self.iter().count()
    }

    pub fn is_empty(&self) -> bool {
        self.0[0].0 == 0
    }

    pub fn contains(&self, terms: Terms) -> bool {
        self.iter().any(|t| t == terms)
    }

    #[must_use]
    pub fn with(mut self, terms: Terms) -> TermSet {
        if !self.contains(terms) {
            let end = self.len();
            assert!(end < self.0.len(), "the bounds are too wide: more than six terms at once");
            self.0[end] = terms;
            self.0[..=end].sort_unstable();
        }
        self
    }

    #[must_use]
    pub fn without(self, terms: Terms) -> TermSet {
        self.iter().filter(|t| *t != terms).fold(TermSet::default(), TermSet::with)
    }
}

/// A value of the register.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Value {
    pub current: Terms,
    pub earlier: TermSet,
}

impl Value {
    pub fn all(&self) -> TermSet {
        self.earlier.with(self.current)
    }

    pub fn is_none(&self) -> bool {
        self.current.0 == 0
    }
}

/// Which value: the epoch of its writer, and a number counted from one. Zero is none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct Version(pub u8);

impl Version {
    pub fn new(epoch: u8, k: u8) -> Version {
        Version(epoch << 4 | k)
    }

    pub fn epoch(self) -> u8 {
        self.0 >> 4
    }

    pub fn k(self) -> u8 {
        self.0 & 15
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.epoch(), self.k())
    }
}
