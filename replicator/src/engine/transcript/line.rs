//! One thing that was said: its line in the kept conversation, and what this version reads in it.

use bytes::Bytes;

use crate::bytes_file::{from_text, to_text};
use crate::engine::answers::{self, Holding};
use crate::engine::rpc::{self, Arrival, Call};
use crate::engine::samples;
use crate::transport::Lane;
use crate::transport::tap::{Said, read_handshake};

/// A character said more often than this in a row is counted.
const RUN_MAX: usize = 32;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// `east>west`; the sender alone in a handshake.
    pub way: String,
    pub lane: String,
    pub bytes: Bytes,
}

/// What this version reads in a line.
pub struct Reading {
    /// Which of all that can be said it is.
    pub kind: String,
    pub view: String,
    /// As this version would say it.
    pub again: Bytes,
}

impl Line {
    pub fn of(said: Said) -> Line {
        match said {
            Said::Handshake(bytes) => {
                let from = read_handshake(&bytes).and_then(|found| found.from);
                let way = from.map_or_else(|| "-".into(), |from| from.site);
                Line { way, lane: "handshake".into(), bytes }
            }
            Said::Message { from, to, lane, bytes } => {
                let lane = match lane {
                    Lane::Control => "control",
                    Lane::Records => "records",
                    Lane::Bulk => "bulk",
                };
                Line { way: format!("{}>{}", from.site, to.site), lane: lane.into(), bytes }
            }
        }
    }

    pub fn text(&self) -> String {
        format!("{} {} {}", self.way, self.lane, to_text(&self.bytes))
    }

    pub fn of_text(text: &str) -> Option<Line> {
        let (way, rest) = text.split_once(' ')?;
        let (lane, bytes) = rest.split_once(' ')?;
        Some(Line { way: way.into(), lane: lane.into(), bytes: from_text(bytes)?.into() })
    }

    /// A message of the volumes' protocol.
    pub fn is_of_a_volume(&self) -> bool {
        self.lane != "handshake" && self.bytes.first() == Some(&0)
    }

    /// `asked` are the calls that wait for an answer, which says nothing of what was asked.
    pub fn read(&self, asked: &mut Vec<(u64, Call)>) -> Result<Reading, String> {
        if self.lane == "handshake" {
            let found = read_handshake(&self.bytes).ok_or("not a handshake message")?;
            return Ok(Reading { kind: found.kind.into(), view: found.view, again: found.again });
        }
        let arrival = rpc::decode(self.bytes.clone()).map_err(|error| error.to_string())?;
        let again = samples::encoded(&arrival);
        let (kind, view) = match arrival {
            Arrival::Volume(message) => (message.body.name().to_string(), format!("{message:?}")),
            Arrival::Refused { volume, why } => ("refused".into(), format!("volume {volume}: {why}")),
            Arrival::Call { nonce, call } => {
                let (kind, view) = (name(&call).to_string(), format!("{call:?}"));
                asked.push((nonce, call));
                (kind, view)
            }
            Arrival::Answer { nonce, result } => {
                let at = asked.iter().position(|(other, _)| *other == nonce).ok_or("nobody asked")?;
                let (_, call) = asked.remove(at);
                match result {
                    Ok(bytes) => (format!("{}-answer", name(&call)), answer(&call, bytes)?),
                    Err(error) => (format!("{}-error", name(&call)), format!("{error:?}")),
                }
            }
        };
        Ok(Reading { kind, view: shortened(&view), again })
    }
}

fn name(call: &Call) -> &'static str {
    match call {
        Call::Join { .. } => "join",
        Call::JoinClone { .. } => "join-clone",
        Call::Forget { .. } => "forget",
        Call::SetAside { .. } => "set-aside",
        Call::Forward { .. } => "forward",
        Call::ShipBegin { basis: None, packed: true, .. } => "ship-begin-packed",
        Call::ShipBegin { basis: Some(_), packed: true, .. } => "ship-begin-packed-on-a-basis",
        Call::ShipBegin { basis: None, .. } => "ship-begin",
        Call::ShipBegin { basis: Some(_), .. } => "ship-begin-on-a-basis",
        Call::ShipBasis { .. } => "ship-basis",
        Call::ShipBasisChanges { .. } => "ship-basis-changes",
        Call::ShipPage { place: None, .. } => "ship-page",
        Call::ShipPage { place: Some(_), .. } => "ship-page-placed",
        Call::ShipOffer { .. } => "ship-offer",
        Call::ShipPacked { .. } => "ship-packed",
        Call::ShipProof { .. } => "ship-proof",
        Call::ShipEnd { .. } => "ship-end",
        Call::ShipSnapshots { .. } => "ship-snapshots",
        Call::Blocks { .. } => "blocks",
        Call::Holding { .. } => "holding",
        Call::Read { .. } => "read",
        Call::Catalogue { .. } => "catalogue",
    }
}

/// Answers are read as those who asked do it.
fn answer(call: &Call, bytes: Bytes) -> Result<String, String> {
    let same = |again: Bytes, view: String| {
        if again == bytes { Ok(view) } else { Err(format!("said again it is another answer: {view}")) }
    };
    let failed = |error: farshore_core::codec::DecodeError| error.to_string();
    match call {
        Call::ShipBasis { .. } => {
            let basis = answers::decode_basis(bytes.clone()).map_err(failed)?;
            same(answers::encode_basis(basis.as_ref()), format!("{basis:?}"))
        }
        Call::ShipBegin { packed: true, .. } => {
            let arrived = answers::decode_arrived(bytes.clone()).map_err(failed)?;
            same(answers::encode_arrived(&arrived), format!("{arrived:?}"))
        }
        Call::ShipOffer { .. } => {
            let there = answers::decode_same(bytes.clone()).map_err(failed)?;
            same(answers::encode_same(&there), format!("{there:?}"))
        }
        Call::ShipBasisChanges { .. } => {
            let page = answers::decode_changes(bytes.clone()).map_err(failed)?;
            same(answers::encode_changes(&page), format!("{page:?}"))
        }
        Call::Blocks { .. } => {
            let blocks = answers::decode_blocks(bytes.clone()).map_err(failed)?;
            same(answers::encode_blocks(&blocks), format!("{blocks:?}"))
        }
        Call::Holding { .. } => {
            let holding = Holding::decode(bytes.clone()).map_err(failed)?;
            same(holding.encode(), format!("{holding:?}"))
        }
        _ => Ok(format!("{bytes:?}")),
    }
}

/// The same text with long runs of a character as `Z*4096`.
fn shortened(text: &str) -> String {
    let mut out = String::new();
    let all: Vec<char> = text.chars().collect();
    for run in all.chunk_by(|a, b| a == b) {
        if run.len() > RUN_MAX {
            out.push_str(&format!("{}*{}", run[0], run.len()));
        } else {
            out.extend(run);
        }
    }
    out
}
