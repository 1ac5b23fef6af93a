//! The way from a forwarded device to the member that serves it: one stream at a time, made anew for as long as the session
//! lasts.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use farshore_core::codec::DecodeError;
use tokio::time::{Instant, sleep, timeout};

use super::device::ForwardedDevice;
use super::frame::{Ask, Say};
use crate::device::IoError;
use crate::engine::clock;
use crate::engine::node::Node;
use crate::transport::{PeerName, StreamError, StreamReceiver, StreamSender};

/// From the opening of a stream to its welcome: the member may read the register meanwhile.
const WELCOME_PATIENCE: Duration = Duration::from_secs(5);
/// Without a pong for so long the stream is given up.
const PONG_PATIENCE: Duration = Duration::from_secs(10);
const PING_PAUSE_MIN: Duration = Duration::from_millis(50);
const PING_PAUSE_MAX: Duration = Duration::from_secs(1);
/// Served by nobody for so long, the device asks another copy of its site to serve it.
const TAKE_AFTER: Duration = Duration::from_secs(5);
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("{0} does not serve the session now: {1}")]
    NotNow(PeerName, String),
    /// For good.
    #[error("{0}")]
    Over(String),
    #[error("{0} answered what was not asked")]
    Unasked(PeerName),
    #[error("{0} said nothing for too long")]
    Silent(PeerName),
}

/// Until the device has ended.
pub(super) async fn run(node: Weak<Node>, device: Arc<ForwardedDevice>) {
    tokio::select! {
        _ = device.until_ended() => {}
        () = serve_for_ever(&node, &device) => {}
    }
    device.disconnected();
}

async fn serve_for_ever(node: &Weak<Node>, device: &ForwardedDevice) {
    let mut pause = PAUSE_MIN;
    let mut take_at = Instant::now() + TAKE_AFTER;
    loop {
        for peer in device.servers() {
            let Some(node) = node.upgrade() else { return };
            match welcomed(&node, device, &peer).await {
                Ok((sender, receiver)) => {
                    drop(node);
                    device.served_by(&peer);
                    let again = device.connected();
                    tracing::info!(volume = %device.volume, %peer, again, "a device here is served by another node");
                    let error = carry(device, &peer, sender, receiver).await;
                    device.disconnected();
                    tracing::warn!(volume = %device.volume, %error, "nobody serves a device here; its requests wait");
                    pause = PAUSE_MIN;
                    take_at = Instant::now() + TAKE_AFTER;
                    break;
                }
                Err(LinkError::Over(why)) => return device.end(&why),
                Err(error) => tracing::debug!(volume = %device.volume, %error, "a device here is not served yet"),
            }
        }
        if Instant::now() >= take_at {
            let Some(node) = node.upgrade() else { return };
            node.ask_another_copy(device).await;
            take_at = Instant::now() + TAKE_AFTER;
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

async fn welcomed(
    node: &Node,
    device: &ForwardedDevice,
    peer: &PeerName,
) -> Result<(StreamSender, StreamReceiver), LinkError> {
    let met = async {
        let stream = node.shared.transport.open_stream(peer).await?;
        let (mut sender, mut receiver) = stream.split();
        let hello = Ask::Hello { volume: device.volume, session: device.session };
        sender.send(hello.encode()).await?;
        match Say::decode(receiver.next().await?)? {
            Say::Welcome { geometry } => {
                device.grew(geometry.size_bytes);
                Ok((sender, receiver))
            }
            Say::Refused { session_is_over: true, why } => Err(LinkError::Over(why)),
            Say::Refused { session_is_over: false, why } => Err(LinkError::NotNow(peer.clone(), why)),
            _ => Err(LinkError::Unasked(peer.clone())),
        }
    };
    timeout(WELCOME_PATIENCE, met).await.unwrap_or_else(|_| Err(LinkError::Silent(peer.clone())))
}

/// Until the stream breaks: why.
async fn carry(device: &ForwardedDevice, peer: &PeerName, sender: StreamSender, receiver: StreamReceiver) -> LinkError {
    let pause = tokio::sync::watch::Sender::new(PING_PAUSE_MIN);
    let ended = tokio::select! {
        ended = ask(device, sender, &pause) => ended,
        ended = listen(device, peer, receiver, &pause) => ended,
    };
    match ended {
        Ok(()) => LinkError::Over("the device has ended".into()),
        Err(error) => error,
    }
}

/// Sends what may be sent, and a ping now and then.
async fn ask(
    device: &ForwardedDevice,
    mut sender: StreamSender,
    pause: &tokio::sync::watch::Sender<Duration>,
) -> Result<(), LinkError> {
    let mut ping_at = Instant::now();
    while !device.is_ended() {
        if Instant::now() >= ping_at {
            sender.send(Ask::Ping { at: clock::now() }.encode()).await?;
            ping_at = Instant::now() + *pause.borrow();
        }
        match device.next() {
            Some(frame) => sender.send(frame).await?,
            None => {
                tokio::select! {
                    () = device.wake.notified() => {}
                    () = tokio::time::sleep_until(ping_at) => {}
                }
            }
        }
    }
    Ok(())
}

async fn listen(
    device: &ForwardedDevice,
    peer: &PeerName,
    mut receiver: StreamReceiver,
    pause: &tokio::sync::watch::Sender<Duration>,
) -> Result<(), LinkError> {
    let mut pong_by = Instant::now() + PONG_PATIENCE;
    loop {
        let next = tokio::time::timeout_at(pong_by, receiver.next()).await;
        let frame: Bytes = next.map_err(|_| LinkError::Silent(peer.clone()))??;
        let known = match Say::decode(frame)? {
            Say::Done { cookie, data } => device.answered(cookie, Ok(data)),
            // The member's end, perhaps, and not the session's: if it is that, we are told.
            Say::Failed { error: IoError::Fenced(why), .. } => return Err(LinkError::NotNow(peer.clone(), why)),
            Say::Failed { cookie, error } => device.answered(cookie, Err(error)),
            Say::Pong { at, lent_us, size_bytes } => {
                pong_by = Instant::now() + PONG_PATIENCE;
                device.lent(at, lent_us);
                device.grew(size_bytes);
                pause.send_replace((Duration::from_micros(lent_us) / 4).clamp(PING_PAUSE_MIN, PING_PAUSE_MAX));
                true
            }
            Say::Refused { session_is_over: true, why } => {
                device.end(&why);
                return Err(LinkError::Over(why));
            }
            Say::Refused { why, .. } => return Err(LinkError::NotNow(peer.clone(), why)),
            Say::Welcome { .. } => false,
        };
        if !known {
            return Err(LinkError::Unasked(peer.clone()));
        }
    }
}
