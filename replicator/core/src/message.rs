//! What replicators say to each other about one volume, and its bytes.
//!
//! Every message names the volume, the lineage and both members. Records travel in their one format (see
//! [`crate::record`]), uncopied: [`Message::encode`] returns parts.

use bytes::{Bytes, BytesMut};

use crate::codec::{DecodeError, Reader, Writer};
use crate::durable::{LogBase, get_base, get_history, put_base, put_history};
use crate::history::History;
use crate::ids::{Epoch, Incarnation, LineageId, MemberId, Seq, Tick, VolumeId};
use crate::record::{RECORD_HEADER_BYTES, Record};
use crate::register::{ConfigVersion, Configuration};

/// The most records that one message carries.
pub const MESSAGE_RECORDS_MAX: usize = 1024;
/// What most messages need before their records.
const HEAD_BYTES: usize = 192;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub volume: VolumeId,
    pub lineage: LineageId,
    pub from: MemberId,
    pub to: MemberId,
    pub body: Body,
}

/// What a member knows and holds, as it stands on its disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub incarnation: Incarnation,
    pub promised: Epoch,
    pub config: Configuration,
    pub history: History,
    /// Everything up to here is durable in the journal or the store.
    pub durable: Seq,
    pub applied: Seq,
    pub base: LogBase,
    /// The first seq that can be read from the journal.
    pub floor: Seq,
    /// The highest acked seq this member has heard of.
    pub acked: Seq,
    /// False while a resync is being installed or records it once held are unreadable: then it counts in nothing
    /// but its vote.
    pub whole: bool,
    /// What remains of the lease owed to the holder of the promised epoch, in microseconds.
    pub lease_left_us: u64,
    /// To whom that lease is owed; nothing is once this epoch was released.
    pub owed_to: Epoch,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// What do you know? Changes nothing.
    Probe {
        nonce: u64,
    },
    Answer {
        nonce: u64,
        report: Box<Report>,
    },
    /// Promise to accept nothing below this epoch.
    Prepare {
        epoch: Epoch,
    },
    Promise {
        epoch: Epoch,
        report: Box<Report>,
    },
    /// The sender has promised a higher epoch.
    Reject {
        asked: Epoch,
        promised: Epoch,
    },
    PutConfig {
        epoch: Epoch,
        config: Box<Configuration>,
    },
    ConfigOk {
        epoch: Epoch,
        incarnation: Incarnation,
        version: ConfigVersion,
    },
    /// The holder of `epoch` has this log; cut yours where it parts from it.
    Elect {
        epoch: Epoch,
        history: History,
        end: Seq,
    },
    ElectOk {
        epoch: Epoch,
        incarnation: Incarnation,
        durable: Seq,
        applied: Seq,
    },
    /// Records in seq order, possibly none (a heartbeat). `sent` is the sender's clock, echoed by the Ack.
    Append {
        epoch: Epoch,
        acked: Seq,
        end: Seq,
        sent: Tick,
        records: Vec<Record>,
    },
    Ack {
        epoch: Epoch,
        incarnation: Incarnation,
        appended: Seq,
        durable: Seq,
        applied: Seq,
        echo: Tick,
    },
    /// The receiver of an Append has not been told where its log parts from the sender's.
    NeedElect {
        epoch: Epoch,
    },
    /// The holder has ended its epoch: nothing is read or acked under it any more.
    Release {
        epoch: Epoch,
    },
    /// The volume goes on in this lineage, whose members are the configuration's.
    Fork {
        lineage: LineageId,
        epoch: Epoch,
        config: Box<Configuration>,
        /// The log that it goes on from, and where that ends. Who does not say so is believed.
        log: Option<(History, Seq)>,
    },
    /// The sender has persisted the lineage that it speaks in.
    ForkOk,
    /// Records from your journal: for a candidate, or for a member that a holder without a copy has to feed.
    Fetch {
        epoch: Epoch,
        from: Seq,
        max_bytes: u32,
    },
    Fetched {
        epoch: Epoch,
        from: Seq,
        floor: Seq,
        records: Vec<Record>,
    },
    /// The holder of `epoch` has no copy: send that member everything changed since `base`, as of what you have applied.
    Ship {
        epoch: Epoch,
        member: MemberId,
        base: Seq,
    },
    /// That has ended, well or not.
    Shipped {
        epoch: Epoch,
        member: MemberId,
    },
}

impl Body {
    pub fn carries_records(&self) -> bool {
        matches!(self, Body::Append { records, .. } | Body::Fetched { records, .. } if !records.is_empty())
    }

    /// For logs and counters.
    pub fn name(&self) -> &'static str {
        match self {
            Body::Probe { .. } => "probe",
            Body::Answer { .. } => "answer",
            Body::Prepare { .. } => "prepare",
            Body::Promise { .. } => "promise",
            Body::Reject { .. } => "reject",
            Body::PutConfig { .. } => "put-config",
            Body::ConfigOk { .. } => "config-ok",
            Body::Elect { .. } => "elect",
            Body::ElectOk { .. } => "elect-ok",
            Body::Append { .. } => "append",
            Body::Ack { .. } => "ack",
            Body::NeedElect { .. } => "need-elect",
            Body::Release { .. } => "release",
            Body::Fetch { .. } => "fetch",
            Body::Fetched { .. } => "fetched",
            Body::Ship { .. } => "ship",
            Body::Shipped { .. } => "shipped",
            Body::Fork { .. } => "fork",
            Body::ForkOk => "fork-ok",
        }
    }
}

impl Message {
    /// The message as parts to be sent one after another; payloads are shared, not copied.
    pub fn encode(&self) -> Vec<Bytes> {
        // One buffer for everything but payloads: the parts between these share it.
        let headers = match &self.body {
            Body::Append { records, .. } | Body::Fetched { records, .. } => records.len() * RECORD_HEADER_BYTES,
            _ => 0,
        };
        let mut w = Writer { out: BytesMut::with_capacity(HEAD_BYTES + headers) };
        w.u128(self.volume.0);
        w.lineage(self.lineage);
        w.u16(self.from.0);
        w.u16(self.to.0);
        let mut records: &[Record] = &[];
        match &self.body {
            Body::Probe { nonce } => {
                w.u8(1);
                w.u64(*nonce);
            }
            Body::Answer { nonce, report } => {
                w.u8(2);
                w.u64(*nonce);
                put_report(&mut w, report);
            }
            Body::Prepare { epoch } => {
                w.u8(3);
                w.epoch(*epoch);
            }
            Body::Promise { epoch, report } => {
                w.u8(4);
                w.epoch(*epoch);
                put_report(&mut w, report);
            }
            Body::Reject { asked, promised } => {
                w.u8(5);
                w.epoch(*asked);
                w.epoch(*promised);
            }
            Body::PutConfig { epoch, config } => {
                w.u8(6);
                w.epoch(*epoch);
                w.bytes(&config.encode());
            }
            Body::ConfigOk { epoch, incarnation, version } => {
                w.u8(7);
                w.epoch(*epoch);
                w.u128(incarnation.0);
                w.epoch(version.epoch);
                w.u64(version.k);
            }
            Body::Elect { epoch, history, end } => {
                w.u8(8);
                w.epoch(*epoch);
                put_history(&mut w, history);
                w.seq(*end);
            }
            Body::ElectOk { epoch, incarnation, durable, applied } => {
                w.u8(9);
                w.epoch(*epoch);
                w.u128(incarnation.0);
                w.seq(*durable);
                w.seq(*applied);
            }
            Body::Append { epoch, acked, end, sent, records: list } => {
                w.u8(10);
                w.epoch(*epoch);
                w.seq(*acked);
                w.seq(*end);
                w.u64(sent.0);
                w.u32(list.len() as u32);
                records = list;
            }
            Body::Ack { epoch, incarnation, appended, durable, applied, echo } => {
                w.u8(11);
                w.epoch(*epoch);
                w.u128(incarnation.0);
                w.seq(*appended);
                w.seq(*durable);
                w.seq(*applied);
                w.u64(echo.0);
            }
            Body::NeedElect { epoch } => {
                w.u8(12);
                w.epoch(*epoch);
            }
            Body::Release { epoch } => {
                w.u8(13);
                w.epoch(*epoch);
            }
            Body::Fetch { epoch, from, max_bytes } => {
                w.u8(14);
                w.epoch(*epoch);
                w.seq(*from);
                w.u32(*max_bytes);
            }
            Body::Fork { lineage, epoch, config, log } => {
                w.u8(16);
                w.lineage(*lineage);
                w.epoch(*epoch);
                w.bytes(&config.encode());
                if let Some((history, end)) = log {
                    put_history(&mut w, history);
                    w.seq(*end);
                }
            }
            Body::ForkOk => w.u8(17),
            Body::Ship { epoch, member, base } => {
                w.u8(18);
                w.epoch(*epoch);
                w.u16(member.0);
                w.seq(*base);
            }
            Body::Shipped { epoch, member } => {
                w.u8(19);
                w.epoch(*epoch);
                w.u16(member.0);
            }
            Body::Fetched { epoch, from, floor, records: list } => {
                w.u8(15);
                w.epoch(*epoch);
                w.seq(*from);
                w.seq(*floor);
                w.u32(list.len() as u32);
                records = list;
            }
        }
        let mut parts = Vec::with_capacity(1 + 2 * records.len());
        let mut head = w.out;
        for record in records {
            head.extend_from_slice(&record.header());
            if record.payload.is_empty() {
                continue;
            }
            parts.push(head.split().freeze());
            parts.push(record.payload.clone());
        }
        if !head.is_empty() {
            parts.push(head.freeze());
        }
        parts
    }

    pub fn decode(bytes: Bytes) -> Result<Message, DecodeError> {
        let mut r = Reader::new("message", bytes);
        let volume = r.volume()?;
        let lineage = r.lineage()?;
        let from = r.member()?;
        let to = r.member()?;
        let body = match r.u8()? {
            1 => Body::Probe { nonce: r.u64()? },
            2 => Body::Answer { nonce: r.u64()?, report: Box::new(get_report(&mut r)?) },
            3 => Body::Prepare { epoch: r.epoch()? },
            4 => Body::Promise { epoch: r.epoch()?, report: Box::new(get_report(&mut r)?) },
            5 => Body::Reject { asked: r.epoch()?, promised: r.epoch()? },
            6 => Body::PutConfig { epoch: r.epoch()?, config: Box::new(Configuration::decode(r.bytes()?)?) },
            7 => Body::ConfigOk {
                epoch: r.epoch()?,
                incarnation: r.incarnation()?,
                version: ConfigVersion { epoch: r.epoch()?, k: r.u64()? },
            },
            8 => Body::Elect { epoch: r.epoch()?, history: get_history(&mut r)?, end: r.seq()? },
            9 => {
                Body::ElectOk { epoch: r.epoch()?, incarnation: r.incarnation()?, durable: r.seq()?, applied: r.seq()? }
            }
            10 => {
                let (epoch, acked, end, sent) = (r.epoch()?, r.seq()?, r.seq()?, r.tick()?);
                let (records, rest) = get_records(r, volume)?;
                r = rest;
                Body::Append { epoch, acked, end, sent, records }
            }
            11 => Body::Ack {
                epoch: r.epoch()?,
                incarnation: r.incarnation()?,
                appended: r.seq()?,
                durable: r.seq()?,
                applied: r.seq()?,
                echo: r.tick()?,
            },
            12 => Body::NeedElect { epoch: r.epoch()? },
            13 => Body::Release { epoch: r.epoch()? },
            14 => Body::Fetch { epoch: r.epoch()?, from: r.seq()?, max_bytes: r.u32()? },
            15 => {
                let (epoch, from, floor) = (r.epoch()?, r.seq()?, r.seq()?);
                let (records, rest) = get_records(r, volume)?;
                r = rest;
                Body::Fetched { epoch, from, floor, records }
            }
            16 => Body::Fork {
                lineage: r.lineage()?,
                epoch: r.epoch()?,
                config: Box::new(Configuration::decode(r.bytes()?)?),
                log: if r.is_empty() { None } else { Some((get_history(&mut r)?, r.seq()?)) },
            },
            17 => Body::ForkOk,
            18 => Body::Ship { epoch: r.epoch()?, member: r.member()?, base: r.seq()? },
            19 => Body::Shipped { epoch: r.epoch()?, member: r.member()? },
            other => return Err(r.unknown(other.into())),
        };
        r.end()?;
        Ok(Message { volume, lineage, from, to, body })
    }
}

fn get_records(mut r: Reader, volume: VolumeId) -> Result<(Vec<Record>, Reader), DecodeError> {
    let count = r.u32()? as usize;
    if count > MESSAGE_RECORDS_MAX {
        let (found, limit) = (count as u64, MESSAGE_RECORDS_MAX as u64);
        return Err(DecodeError::Limit { what: "records in a message", found, limit });
    }
    let mut rest = r.rest();
    let mut records: Vec<Record> = Vec::with_capacity(count);
    for _ in 0..count {
        let record = Record::decode(&mut rest)?;
        if record.volume != volume {
            return Err(DecodeError::Invalid { what: "record", reason: "belongs to another volume than its message" });
        }
        if records.last().is_some_and(|last| record.seq != last.seq.next()) {
            return Err(DecodeError::Invalid { what: "record", reason: "seqs within a message are not contiguous" });
        }
        records.push(record);
    }
    Ok((records, Reader::new("message", rest)))
}

fn put_report(w: &mut Writer, report: &Report) {
    w.u128(report.incarnation.0);
    w.epoch(report.promised);
    w.bytes(&report.config.encode());
    put_history(w, &report.history);
    w.seq(report.durable);
    w.seq(report.applied);
    put_base(w, &report.base);
    w.seq(report.floor);
    w.seq(report.acked);
    w.bool(report.whole);
    w.u64(report.lease_left_us);
    w.epoch(report.owed_to);
}

fn get_report(r: &mut Reader) -> Result<Report, DecodeError> {
    Ok(Report {
        incarnation: r.incarnation()?,
        promised: r.epoch()?,
        config: Configuration::decode(r.bytes()?)?,
        history: get_history(r)?,
        durable: r.seq()?,
        applied: r.seq()?,
        base: get_base(r)?,
        floor: r.seq()?,
        acked: r.seq()?,
        whole: r.bool()?,
        lease_left_us: r.u64()?,
        owed_to: r.epoch()?,
    })
}
