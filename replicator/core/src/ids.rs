//! Newtypes for everything that is counted, named or compared by the protocol.
//!
//! None of them is an address: who sits where is the configuration's business.

use std::fmt;
use std::str::FromStr;

/// Logical blocks carried by records and covered by one checksum in the store, in bytes.
pub const BLOCK_BYTES: u64 = 4096;

/// A volume, for life: 128 random bits drawn at creation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeId(pub u128);

/// A position in the volume's one order of records. The first record has seq 1; 0 means "nothing yet".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Seq(pub u64);

impl Seq {
    pub const ZERO: Seq = Seq(0);

    pub fn next(self) -> Seq {
        // Saturates: a peer may name any seq, and none but a peer's lie is ever that high.
        Seq(self.0.saturating_add(1))
    }

    /// The position before this one; 0 stays 0.
    pub fn prev(self) -> Seq {
        Seq(self.0.saturating_sub(1))
    }

    /// How many records lie in `(earlier, self]`.
    pub fn since(self, earlier: Seq) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// The right to write. Always compared as the pair: two candidates may race to the same `n`, and the
/// writer id, drawn anew for every attempt, keeps them apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch {
    pub n: u64,
    pub writer: u128,
}

impl Epoch {
    /// Below every epoch that was ever granted.
    pub const ZERO: Epoch = Epoch { n: 0, writer: 0 };
}

/// One life of a replica's disk: new after mkfs, restore or a failed sync.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Incarnation(pub u128);

/// One history of a volume. A forced promotion starts generation + 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LineageId {
    pub generation: u64,
    pub uuid: u128,
}

/// A member of one volume. Never reused within the volume, not after the member left either.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u16);

/// The session of an attached device: drawn by the attacher, granted the epoch for I/O.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SessionId(pub u128);

/// Boot-clock time in microseconds. Only differences mean anything, and only on one node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Tick(pub u64);

impl Tick {
    pub fn plus(self, us: u64) -> Tick {
        Tick(self.0.saturating_add(us))
    }

    pub fn minus(self, us: u64) -> Tick {
        Tick(self.0.saturating_sub(us))
    }

    /// Microseconds from `earlier` to `self`; 0 when `earlier` is later.
    pub fn since(self, earlier: Tick) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for VolumeId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u128::from_str_radix(text, 16).map(VolumeId)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:08x}", self.n, (self.writer >> 96) as u32)
    }
}

macro_rules! display_number {
    ($($name:ident $prefix:literal),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}
display_number!(Seq "", MemberId "m", Tick "t");

macro_rules! display_random {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:08x}", (self.0 >> 96) as u32)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}
display_random!(Incarnation, SessionId);

impl fmt::Debug for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for LineageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "g{}.{:08x}", self.generation, (self.uuid >> 96) as u32)
    }
}

impl fmt::Debug for LineageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
