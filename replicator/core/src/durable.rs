//! What a replica or witness must never forget, and the blob it is kept in.
//!
//! "Persist, then say": a message promises only what is in here or in the journal before it. What may be lost at a
//! crash lives elsewhere, in [`crate::replica`] and [`crate::primary`].

use bytes::Bytes;

use crate::codec::{DecodeError, Reader, Writer};
use crate::history::History;
use crate::ids::{Epoch, Incarnation, LineageId, MemberId, Seq};
use crate::record::RecordHash;
use crate::register::Configuration;
use crate::sealed::Sealed;

/// The position that the store has checkpointed; the journal is needed only above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogBase {
    pub seq: Seq,
    pub hash: RecordHash,
}

/// A resync's staged image is being made visible; until that is finished this replica counts in nothing but its vote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installing {
    pub base: LogBase,
    pub history: History,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Durable {
    pub me: MemberId,
    pub lineage: LineageId,
    pub incarnation: Incarnation,
    /// The highest epoch promised; lower ones are closed here (I1, I3).
    pub promised: Epoch,
    /// An epoch that this node held and has ended, or, in class `flush`, of which it had to give records up. Its device
    /// is not taken back, whoever writes the register meanwhile; zero again once another session is attached here.
    pub ended: Epoch,
    pub config: Configuration,
    pub base: LogBase,
    /// History of the records up to the moment this was written.
    pub history: History,
    /// The highest acked seq known when this was written.
    pub acked: Seq,
    pub installing: Option<Installing>,
    /// This replica once held records up to here and can't read them any more (bit rot in the journal). Until it has
    /// caught up with what is acked it answers for nothing but its vote.
    pub holed: Option<Seq>,
    /// The lineages that this one forked from, oldest first, with the last seq that was kept of each.
    pub parents: Vec<(LineageId, Seq)>,
    /// The volume goes on in this lineage, without us; what is here waits to be discarded.
    pub superseded: Option<LineageId>,
}

const KIND: Sealed = Sealed { magic: b"", format: 1, what: "replica state" };

impl Durable {
    /// The state of a replica that has just been made, with an empty log.
    pub fn first(me: MemberId, incarnation: Incarnation, lineage: LineageId, config: Configuration) -> Durable {
        Durable {
            me,
            lineage,
            incarnation,
            promised: Epoch::ZERO,
            ended: Epoch::ZERO,
            config,
            base: LogBase::default(),
            history: History::default(),
            acked: Seq::ZERO,
            installing: None,
            holed: None,
            parents: Vec::new(),
            superseded: None,
        }
    }

    pub fn encode(&self) -> Bytes {
        KIND.seal(|w| {
            w.u16(self.me.0);
            w.lineage(self.lineage);
            w.u128(self.incarnation.0);
            w.epoch(self.promised);
            w.epoch(self.ended);
            w.bytes(&self.config.encode());
            put_base(w, &self.base);
            put_history(w, &self.history);
            w.seq(self.acked);
            w.option(self.installing.as_ref(), |w, i| {
                put_base(w, &i.base);
                put_history(w, &i.history);
            });
            w.option(self.holed, Writer::seq);
            w.list(&self.parents, |w, (lineage, seq)| {
                w.lineage(*lineage);
                w.seq(*seq);
            });
            w.option(self.superseded, Writer::lineage);
        })
    }

    pub fn decode(bytes: Bytes) -> Result<Durable, DecodeError> {
        let mut r = KIND.open(bytes)?;
        let durable = Durable {
            me: r.member()?,
            lineage: r.lineage()?,
            incarnation: r.incarnation()?,
            promised: r.epoch()?,
            ended: r.epoch()?,
            config: Configuration::decode(r.bytes()?)?,
            base: get_base(&mut r)?,
            history: get_history(&mut r)?,
            acked: r.seq()?,
            installing: r.option(|r| Ok(Installing { base: get_base(r)?, history: get_history(r)? }))?,
            holed: r.option(Reader::seq)?,
            parents: r.list(|r| Ok((r.lineage()?, r.seq()?)))?,
            superseded: r.option(Reader::lineage)?,
        };
        r.end()?;
        Ok(durable)
    }
}

pub(crate) fn put_base(w: &mut Writer, base: &LogBase) {
    w.seq(base.seq);
    w.u128(base.hash.0);
}

pub(crate) fn get_base(r: &mut Reader) -> Result<LogBase, DecodeError> {
    Ok(LogBase { seq: r.seq()?, hash: RecordHash(r.u128()?) })
}

/// An epoch history's one form, on disk and on the wire.
pub fn put_history(w: &mut Writer, history: &History) {
    w.list(&history.0, |w, (epoch, seq)| {
        w.epoch(*epoch);
        w.seq(*seq);
    });
}

/// Refuses one that is out of order.
pub fn get_history(r: &mut Reader) -> Result<History, DecodeError> {
    let history = History(r.list(|r| Ok((r.epoch()?, r.seq()?)))?);
    if !history.is_ordered() {
        return Err(DecodeError::Invalid { what: "epoch history", reason: "epochs or seqs do not increase" });
    }
    Ok(history)
}
