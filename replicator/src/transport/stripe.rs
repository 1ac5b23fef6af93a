//! The bulk lane: one ordered sequence of messages, striped over several streams.
//!
//! A stream's window is small (a larger one can kill a connection under loss), and over a long link one stream would
//! carry no more than a window per round trip. So the sequence of framed messages is cut into slices, slice n goes on
//! stream n mod N, and the reader takes them in turn:
//!
//! ```text
//!  messages, framed:  │ slice 0 │ slice 1 │ slice 2 │ slice 3 │ …
//!  stream 0: header, length, slice 0, length, slice N, …      header: lane tag, stream's index
//!  stream 1: header, length, slice 1, …
//! ```

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use quinn::{Connection, SendStream, WriteError};

use super::cutter::Cutter;
use super::frame::{FrameReader, Lane, frame};
use super::node::{Node, Peer};
use super::pace::{Pacer, SLICE_BYTES};
use super::refusal::{Refusal, RefusalCode};
use super::session::{broken, deliver, ended_well};

/// How many streams: part of protocol version 1.
const STRIPES: u8 = 8;

/// Feeds the streams from the bulk lane for as long as the connection lasts, no faster than the foreground allows.
pub(super) async fn write(peer: Arc<Peer>, connection: Connection) -> Result<(), Refusal> {
    let mut streams = Vec::new();
    for _ in 0..STRIPES {
        let Ok(stream) = connection.open_uni().await else { return Ok(()) };
        streams.push(stream);
    }
    let pacer = Pacer::new();
    let written = tokio::select! {
        written = write_slices(&peer, &mut streams, &pacer) => written,
        () = pacer.watch(&peer) => Ok(()),
    };
    ended_well(&peer, written)
}

async fn write_slices(peer: &Peer, streams: &mut [SendStream], pacer: &Pacer) -> Result<(), WriteError> {
    for (index, stream) in streams.iter_mut().enumerate() {
        stream.write_all(&[Lane::Bulk.tag(), index as u8]).await?;
    }
    let (mut batch, mut parts): (Vec<Vec<Bytes>>, Vec<Bytes>) = (Vec::new(), Vec::new());
    let mut turn = 0;
    loop {
        peer.bulk.take(SLICE_BYTES, &mut batch).await;
        let bytes = frame(&mut batch, &mut parts);
        for mut slice in slices(parts.drain(..)) {
            let length = slice[1..].iter().map(Bytes::len).sum();
            pacer.permit(length).await;
            streams[turn].write_all_chunks(&mut slice).await?;
            turn = (turn + 1) % streams.len();
        }
        peer.bulk.written(bytes);
    }
}

/// Groups parts into slices of up to [`SLICE_BYTES`], each behind its length, without copying them.
fn slices(parts: impl Iterator<Item = Bytes>) -> Vec<Vec<Bytes>> {
    fn close(slice: &mut Vec<Bytes>, length: &mut usize, out: &mut Vec<Vec<Bytes>>) {
        if *length > 0 {
            let mut prefix = BytesMut::with_capacity(4);
            prefix.put_u32_le(*length as u32);
            slice[0] = prefix.freeze();
            out.push(std::mem::replace(slice, vec![Bytes::new()]));
            *length = 0;
        }
    }
    // The first place is kept for the length.
    let (mut out, mut slice, mut length) = (Vec::new(), vec![Bytes::new()], 0);
    for mut part in parts {
        while !part.is_empty() {
            let piece = part.split_to(part.len().min(SLICE_BYTES - length));
            length += piece.len();
            slice.push(piece);
            if length == SLICE_BYTES {
                close(&mut slice, &mut length, &mut out);
            }
        }
    }
    close(&mut slice, &mut length, &mut out);
    out
}

/// Takes the peer's streams and hands every message of the sequence to the owner, in order.
pub(super) async fn read(node: Arc<Node>, peer: Arc<Peer>, connection: Connection) -> Result<(), Refusal> {
    let wrong = |text: &str| Err(Refusal::new(RefusalCode::Protocol, format!("{} {text}", peer.name)));
    let mut streams = Vec::new();
    for expected in 0..STRIPES {
        let Ok(stream) = connection.accept_uni().await else { return Ok(()) };
        let mut stream = FrameReader::new(stream);
        match stream.header().await {
            Ok([tag, index]) if tag == Lane::Bulk.tag() && index == expected => streams.push(stream),
            Ok(_) => return wrong("opened a stream for no lane of this connection"),
            Err(error) => return broken(&peer, &error),
        }
    }
    let mut cutter = Cutter::default();
    for turn in (0..streams.len()).cycle() {
        match streams[turn].next().await {
            Ok(Some(mut slice)) => {
                while !slice.is_empty() {
                    match cutter.feed(&mut slice) {
                        Ok(Some(message)) => deliver(&node, &peer, Lane::Bulk, message).await?,
                        Ok(None) => {}
                        Err(error) => return broken(&peer, &error.into()),
                    }
                }
            }
            Ok(None) if cutter.is_between_messages() => return Ok(()),
            Ok(None) => return wrong("ended the bulk lane inside a message"),
            Err(error) => return broken(&peer, &error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn slices_hold_the_same_bytes_and_none_is_longer_than_allowed(
            lengths in proptest::collection::vec(0usize..3 * SLICE_BYTES, 0..6)
        ) {
            let parts: Vec<Bytes> = lengths.iter().enumerate().map(|(i, &n)| vec![i as u8; n].into()).collect();
            let slices = slices(parts.iter().cloned());
            let mut joined = Vec::new();
            for slice in &slices {
                let bytes = slice[1..].concat();
                prop_assert!(!bytes.is_empty() && bytes.len() <= SLICE_BYTES);
                prop_assert_eq!(&slice[0][..], (bytes.len() as u32).to_le_bytes());
                joined.extend(bytes);
            }
            prop_assert_eq!(joined, parts.concat());
            let full = slices.iter().rev().skip(1).all(|slice| slice[1..].concat().len() == SLICE_BYTES);
            prop_assert!(full, "only the last one is short");
        }
    }
}
