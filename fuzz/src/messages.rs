//! What replicators say about a volume and keep of it: records, marks of snapshots, messages, the configuration, the durable blob.

use bytes::{Bytes, BytesMut};
use farshore_core::durable::Durable;
use farshore_core::mark::Mark;
use farshore_core::message::{Body, Message};
use farshore_core::record::{Kind, RECORD_HEADER_BYTES, RECORD_PAYLOAD_MAX, Record};
use farshore_core::register::Configuration;

use crate::samples;
use crate::seal::{seal_record, sealed};

fn one_record(bytes: &[u8]) {
    let mut rest = Bytes::copy_from_slice(bytes);
    if let Ok(record) = Record::decode(&mut rest) {
        let taken = bytes.len() - rest.len();
        assert_eq!(taken, record.encoded_len());
        let mut again = BytesMut::new();
        record.encode_into(&mut again);
        let mut again = again.freeze();
        assert_eq!(Record::decode(&mut again), Ok(record.clone()));
        assert!(again.is_empty());
        let _ = record.hash();
    } else {
        assert_eq!(rest.len(), bytes.len(), "a refused record takes nothing");
    }
}

pub fn record(data: &[u8]) {
    one_record(data);
    let mut good = data.to_vec();
    seal_record(&mut good, RECORD_PAYLOAD_MAX);
    one_record(&good);
}

pub fn record_seeds() -> Vec<Vec<u8>> {
    let kinds = [Kind::Write, Kind::Discard, Kind::WriteZeroes, Kind::EpochStart, Kind::SnapMark, Kind::Noop];
    kinds
        .into_iter()
        .map(|kind| {
            let record = samples::record(3, kind);
            [&record.header()[..], &record.payload].concat()
        })
        .chain([[&samples::marking(3).header()[..], &samples::marking(3).payload].concat()])
        .collect()
}

/// Whatever decodes has one encoding, within the bounds.
pub fn mark(data: &[u8]) {
    if let Ok(mark) = Mark::decode(Bytes::copy_from_slice(data)) {
        assert_eq!(mark.check(), Ok(()));
        assert_eq!(mark.encoded_len(), data.len());
        assert_eq!(mark.encode(), data);
    }
}

pub fn mark_seeds() -> Vec<Vec<u8>> {
    samples::marks().iter().map(|(_, mark)| mark.encode().to_vec()).collect()
}

/// Where the records of a message that carries some begin.
fn records_at(data: &[u8]) -> Option<usize> {
    const HEAD: usize = 16 + 24 + 2 + 2;
    match data.get(HEAD)? {
        10 => Some(HEAD + 1 + 24 + 3 * 8 + 4),
        15 => Some(HEAD + 1 + 24 + 2 * 8 + 4),
        _ => None,
    }
}

fn one_message(bytes: Bytes) {
    if let Ok(message) = Message::decode(bytes) {
        let again = Bytes::from(message.encode().concat());
        if let Body::Append { records, .. } | Body::Fetched { records, .. } = &message.body {
            assert!(records.iter().all(|record| record.volume == message.volume));
        }
        assert_eq!(Message::decode(again), Ok(message));
    }
}

/// Records within it are of the message's volume and without payload, so that many fit.
pub fn message(data: &[u8]) {
    one_message(Bytes::copy_from_slice(data));
    let Some(mut at) = records_at(data) else { return };
    let mut good = data.to_vec();
    let volume: Vec<u8> = good[..16].to_vec();
    while let Some(record) = good.get_mut(at..).filter(|rest| rest.len() >= RECORD_HEADER_BYTES) {
        record[8..24].copy_from_slice(&volume);
        seal_record(record, 0);
        at += RECORD_HEADER_BYTES;
    }
    one_message(good.into());
}

pub fn message_seeds() -> Vec<Vec<u8>> {
    samples::messages().iter().map(|message| message.encode().concat()).collect()
}

pub fn configuration(data: &[u8]) {
    if let Ok(config) = Configuration::decode(Bytes::copy_from_slice(data)) {
        assert_eq!(Configuration::decode(config.encode()), Ok(config.clone()));
        // What a configuration is asked, whatever it says.
        for terms in config.all_terms() {
            let everyone = terms.control_quorum(|_, _| true);
            assert!(everyone || !terms.control_quorum(|_, _| false));
            assert!(!terms.data_quorum(|_| false) || terms.data_quorum(|_| true));
            let _ = terms.recovery(|member| member.member.0 % 2 == 0);
            let _ = terms.quorum_value(|member| Some(member.member));
        }
    }
}

pub fn configuration_seeds() -> Vec<Vec<u8>> {
    vec![samples::configuration().encode().to_vec()]
}

pub fn durable(data: &[u8]) {
    let _ = Durable::decode(Bytes::copy_from_slice(data));
    if let Ok(durable) = Durable::decode(sealed(data)) {
        assert_eq!(Durable::decode(durable.encode()), Ok(durable));
    }
}

/// Without the checksum: the target adds it.
pub fn durable_seeds() -> Vec<Vec<u8>> {
    let bytes = samples::durable().encode();
    vec![bytes[..bytes.len() - 4].to_vec()]
}
