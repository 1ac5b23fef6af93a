//! A member keeps its word: what it said on the wire still holds later, also after its disk has lost power.
//!
//! | checker | what it holds against the run |
//! |---|---|
//! | holder | one member alone speaks as the holder of an epoch, or asks for it (I2) |
//! | promise | nothing is said under a lower epoch than before, and what was said is on the disk that comes back (I1, I3) |
//! | kept | a position once named durable in an epoch is never taken back in it (I6) |
//! | marked | a store that shows more than its log holds is marked as being overwritten (I25) |

use std::collections::BTreeMap;

use farshore_core::ids::{Epoch, Incarnation, MemberId, Seq};
use farshore_core::message::{Body, Message};
use farshore_core::replica::Recovered;

use crate::oracle::{Verdict, wrong};

#[derive(Debug, Default, Clone, Copy)]
struct Word {
    epoch: Epoch,
    /// Named in that epoch.
    durable: Seq,
}

#[derive(Default)]
pub struct Words {
    /// By the member and the life of its disk.
    said: BTreeMap<(MemberId, Incarnation), Word>,
    holders: BTreeMap<Epoch, MemberId>,
}

impl Words {
    pub fn said(&mut self, message: &Message) -> Verdict {
        let from = message.from;
        let (epoch, incarnation, durable) = match &message.body {
            Body::Promise { epoch, report } => (*epoch, report.incarnation, None),
            Body::ConfigOk { epoch, incarnation, .. } => (*epoch, *incarnation, None),
            Body::ElectOk { epoch, incarnation, durable, .. } | Body::Ack { epoch, incarnation, durable, .. } => {
                (*epoch, *incarnation, Some(*durable))
            }
            Body::Prepare { epoch } | Body::PutConfig { epoch, .. } | Body::Elect { epoch, .. } => {
                return self.held(from, *epoch);
            }
            Body::Append { epoch, .. } => return self.held(from, *epoch),
            _ => return Ok(()),
        };
        let word = self.said.entry((from, incarnation)).or_default();
        if epoch < word.epoch {
            let text = format!("{from} speaks under {epoch}, having spoken under {}", word.epoch);
            return wrong("promise", text);
        }
        if epoch > word.epoch {
            *word = Word { epoch, durable: Seq::ZERO };
        }
        if let Some(durable) = durable {
            if durable < word.durable {
                let text = format!("{from} has {durable} durable in {epoch}, having named {}", word.durable);
                return wrong("kept", text);
            }
            word.durable = durable;
        }
        Ok(())
    }

    fn held(&mut self, by: MemberId, epoch: Epoch) -> Verdict {
        match self.holders.insert(epoch, by).filter(|before| *before != by) {
            Some(before) => wrong("holder", format!("{by} speaks for {epoch}, and so did {before}")),
            None => Ok(()),
        }
    }

    /// What a daemon finds on its disk; `damaged` if more of it is known to be unreadable.
    pub fn came_back(&mut self, node: MemberId, found: &Recovered, damaged: bool) -> Verdict {
        let d = &found.durable;
        if d.installing.is_none() && found.applied > found.last.seq {
            let text = format!("{node} shows an image at {}, its log ends at {}", found.applied, found.last.seq);
            return wrong("marked", text);
        }
        let Some(word) = self.said.get_mut(&(node, d.incarnation)) else { return Ok(()) };
        if d.promised < word.epoch {
            return wrong("promise", format!("{node} promised {}, came back with {}", word.epoch, d.promised));
        }
        if damaged || d.holed.is_some() || d.installing.is_some() {
            word.durable = Seq::ZERO;
        }
        if d.promised == word.epoch && found.last.seq < word.durable {
            let text =
                format!("{node} named {} durable in {}, came back with {}", word.durable, word.epoch, found.last.seq);
            return wrong("kept", text);
        }
        Ok(())
    }
}
