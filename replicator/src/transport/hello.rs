//! The first words on a connection: who we are, which versions we speak, and which connection this is to be.
//!
//! ```text
//!  dialer                          acceptor
//!    │ Hello  name boot versions purpose known │
//!    ├───────────────────────────────────────▶│
//!    │ Welcome  name boot version [generation] │   generation: only if the acceptor chooses
//!    │◀───────────────────────────────────────┤
//!    │ Start  generation                       │   only if the dialer chooses
//!    ├───────────────────────────────────────▶│
//! ```
//! Each message is `length u32, magic "FSH1", kind u8, fields…`, little-endian, on one bidirectional stream. Fields may
//! be added at the end: what a reader does not know it skips. A refusal is the close of the connection, with a code and
//! a text (`refusal`). Which side chooses, and what: see `adoption`. Not here: streams (`hello_stream`).

use bytes::{BufMut, Bytes};
use farshore_core::codec::{DecodeError, Reader, Writer};

use super::name::PeerName;
use super::refusal::{Refusal, RefusalCode};

const MAGIC: [u8; 4] = *b"FSH1";

/// The protocol versions that a node speaks, both ends included. Newer nodes keep the previous one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    pub min: u16,
    pub max: u16,
}

impl Versions {
    /// Since 2 the pages of shipments are packed, and images proven at their end. Since 3 a member may be without a copy.
    pub const SPOKEN: Versions = Versions { min: 1, max: 3 };

    /// The newest version that both speak, or what the operator should do.
    pub fn agree(self, us: &PeerName, theirs: Versions, them: &PeerName) -> Result<u16, Refusal> {
        let version = self.max.min(theirs.max);
        if version >= self.min.max(theirs.min) {
            return Ok(version);
        }
        let older = if self.max < theirs.max { us } else { them };
        let text = format!(
            "{us} speaks protocol versions {}..{}, {them} speaks {}..{}; upgrade {older} first, one version at a time",
            self.min, self.max, theirs.min, theirs.max
        );
        Err(Refusal::new(RefusalCode::Version, text))
    }
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Purpose {
    /// Control and records.
    Main = 1,
    Bulk = 2,
}

/// Which of a pair's main connections is meant: the choosing process, and its count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Generation {
    /// Boot id of the choosing process; 0 when none is known yet.
    pub boot: u128,
    pub count: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hello {
    pub versions: Versions,
    pub name: PeerName,
    /// Random, new for every start of the process.
    pub boot: u128,
    pub purpose: Purpose,
    /// Main: the last generation that the dialer has learnt of, and lost. Bulk: the main connection it belongs to.
    pub known: Generation,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Welcome {
    pub version: u16,
    pub name: PeerName,
    pub boot: u128,
    /// Present where the acceptor chooses; then the connection is chosen.
    pub generation: Option<Generation>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Start {
    pub generation: Generation,
}

const KIND_HELLO: u8 = 1;
const KIND_WELCOME: u8 = 2;
const KIND_START: u8 = 3;

fn begin(kind: u8) -> Writer {
    let mut out = Writer::default();
    out.out.put_slice(&MAGIC);
    out.u8(kind);
    out
}

fn open(what: &'static str, kind: u8, bytes: Bytes) -> Result<Reader, DecodeError> {
    let mut reader = Reader::new(what, bytes);
    if reader.take(MAGIC.len())?[..] != MAGIC {
        return Err(DecodeError::Invalid { what, reason: "no handshake magic" });
    }
    match reader.u8()? {
        found if found == kind => Ok(reader),
        found => Err(reader.unknown(found.into())),
    }
}

fn put_name(out: &mut Writer, name: &PeerName) {
    out.string(&name.site);
    out.string(&name.node);
}

fn get_name(reader: &mut Reader, what: &'static str) -> Result<PeerName, DecodeError> {
    let (site, node) = (reader.string()?, reader.string()?);
    PeerName::new(&site, &node).map_err(|_| DecodeError::Invalid { what, reason: "not a node name" })
}

fn put_generation(out: &mut Writer, generation: &Generation) {
    out.u128(generation.boot);
    out.u64(generation.count);
}

fn get_generation(reader: &mut Reader) -> Result<Generation, DecodeError> {
    Ok(Generation { boot: reader.u128()?, count: reader.u64()? })
}

impl Hello {
    pub fn encode(&self) -> Bytes {
        let mut out = begin(KIND_HELLO);
        out.u16(self.versions.min);
        out.u16(self.versions.max);
        put_name(&mut out, &self.name);
        out.u128(self.boot);
        out.u8(self.purpose as u8);
        put_generation(&mut out, &self.known);
        out.finish()
    }

    pub fn decode(bytes: Bytes) -> Result<Hello, DecodeError> {
        const WHAT: &str = "hello";
        let mut reader = open(WHAT, KIND_HELLO, bytes)?;
        let versions = Versions { min: reader.u16()?, max: reader.u16()? };
        let name = get_name(&mut reader, WHAT)?;
        let boot = reader.u128()?;
        let purpose = match reader.u8()? {
            1 => Purpose::Main,
            2 => Purpose::Bulk,
            found => return Err(reader.unknown(found.into())),
        };
        Ok(Hello { versions, name, boot, purpose, known: get_generation(&mut reader)? })
    }
}

impl Welcome {
    pub fn encode(&self) -> Bytes {
        let mut out = begin(KIND_WELCOME);
        out.u16(self.version);
        put_name(&mut out, &self.name);
        out.u128(self.boot);
        out.option(self.generation, |out, generation| put_generation(out, &generation));
        out.finish()
    }

    pub fn decode(bytes: Bytes) -> Result<Welcome, DecodeError> {
        const WHAT: &str = "welcome";
        let mut reader = open(WHAT, KIND_WELCOME, bytes)?;
        Ok(Welcome {
            version: reader.u16()?,
            name: get_name(&mut reader, WHAT)?,
            boot: reader.u128()?,
            generation: reader.option(get_generation)?,
        })
    }
}

impl Start {
    pub fn encode(&self) -> Bytes {
        let mut out = begin(KIND_START);
        put_generation(&mut out, &self.generation);
        out.finish()
    }

    pub fn decode(bytes: Bytes) -> Result<Start, DecodeError> {
        let mut reader = open("start", KIND_START, bytes)?;
        Ok(Start { generation: get_generation(&mut reader)? })
    }
}

#[cfg(test)]
#[path = "hello_tests.rs"]
mod tests;
