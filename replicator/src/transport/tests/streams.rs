//! Streams for one user, beside the lanes.

use super::*;
use crate::transport::PeerStream;

async fn accepted(station: &mut Station) -> (PeerName, PeerStream) {
    let opened = |event: &TransportEvent| match event {
        TransportEvent::Stream { peer, stream } => Some((peer.clone(), stream.take().expect("nobody took it"))),
        _ => None,
    };
    station.until(opened).await
}

#[tokio::test]
async fn a_stream_carries_messages_both_ways_and_ends_with_its_connection() {
    let ground = Ground::new();
    let (mut left, right) = connected_pair(&ground).await;
    let (a, b) = (name("east/a"), name("west/b"));
    let stream = right.transport.open_stream(&a).await.expect("a connected peer");
    let (mut ask, mut answers) = stream.split();
    let long = Bytes::from(vec![7; 1 << 20]);
    ask.send(vec![Bytes::from_static(b"he"), Bytes::from_static(b"llo")]).await.expect("it is sent");
    let (from, stream) = accepted(&mut left).await;
    assert_eq!(from, b);
    let (mut say, mut asked) = stream.split();
    assert_eq!(asked.next().await.expect("it arrives"), "hello");
    // More than a window, so both must be at it.
    let (sent, found) = tokio::join!(say.send(vec![long.clone(), long.clone()]), answers.next());
    sent.expect("it is sent");
    assert_eq!(found.expect("it arrives"), [&long[..], &long[..]].concat());
    assert!(left.transport.reconnect(&b));
    assert!(asked.next().await.is_err() && answers.next().await.is_err(), "both ends hear of it");
    assert!(ask.send(vec![long]).await.is_err());
    let stranger = name("north/c");
    assert!(left.transport.open_stream(&stranger).await.is_err(), "nobody of that name");
}
