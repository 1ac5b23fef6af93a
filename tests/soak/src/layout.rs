//! Who holds copies and who votes: the layouts that are soaked in turn.

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Layout {
    /// Three copies, any two acknowledge.
    ThreeSites,
    /// Two copies, both acknowledge; a witness votes.
    PairAndWitness,
    /// Two copies, both acknowledge; one of them has two of the three votes.
    WeightedPair,
}

pub const ALL: [Layout; 3] = [Layout::ThreeSites, Layout::PairAndWitness, Layout::WeightedPair];

impl Layout {
    /// Data sites come first.
    pub fn sites(self) -> &'static [&'static str] {
        match self {
            Layout::ThreeSites => &["east", "west", "north"],
            Layout::PairAndWitness => &["east", "west", "arbiter"],
            Layout::WeightedPair => &["east", "west"],
        }
    }

    pub fn data_sites(self) -> usize {
        if self == Layout::ThreeSites { 3 } else { 2 }
    }

    /// What `volume create` is told of the members.
    pub fn members(self) -> &'static [&'static str] {
        match self {
            Layout::ThreeSites => &["--members=east,west,north"],
            Layout::PairAndWitness => &["--members=east,west", "--witness=arbiter"],
            Layout::WeightedPair => &["--members=east,west", "--votes=east=2"],
        }
    }

    /// What a failover from this site needs beside its name; `None`: nobody can take over from it.
    pub fn failover(self, from: &str) -> Option<&'static [&'static str]> {
        match self {
            Layout::ThreeSites => Some(&[]),
            Layout::PairAndWitness => Some(&["--reduce"]),
            // The heavy site's votes are missing; the light one never has any volume for long.
            Layout::WeightedPair if from == "east" => None,
            Layout::WeightedPair => Some(&["--reduce"]),
        }
    }
}
