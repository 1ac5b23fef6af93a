//! What a relay costs beyond the delay that it was told: an echo by plain UDP, with and without it.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use farshore_wan::{Conditions, Direction, Link};

use crate::histogram::Histogram;

const BYTES: usize = 1200;
const SEED: u64 = 2;
/// Nothing is lost on loopback; a machine may stand still for a while.
const PATIENCE: Duration = Duration::from_secs(10);

/// The median of what the relay adds to one way beyond this delay, in microseconds: what passing it takes where there is
/// no delay, and how late it is where there is one. An echo over the delay itself would measure how soon its own two ends
/// wake up.
pub fn added_us(delay: Duration, time: Duration) -> Result<f64, String> {
    let failed = |e: std::io::Error| format!("measuring the relay: {e}");
    let (client, server) =
        (UdpSocket::bind("127.0.0.1:0").map_err(failed)?, UdpSocket::bind("127.0.0.1:0").map_err(failed)?);
    client.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    // How soon it sees that it shall end.
    server.set_read_timeout(Some(Duration::from_millis(100))).map_err(failed)?;
    let sites = [client.local_addr().map_err(failed)?, server.local_addr().map_err(failed)?];
    let link = Link::start(sites, Conditions::default(), SEED).map_err(failed)?;
    let ended = Arc::new(AtomicBool::new(false));
    let ending = ended.clone();
    let echoing = std::thread::spawn(move || {
        let mut buffer = [0; BYTES];
        while !ending.load(Ordering::Relaxed) {
            if let Ok((length, source)) = server.recv_from(&mut buffer) {
                let _ = server.send_to(&buffer[..length], source);
            }
        }
    });
    let measured = measure(&client, sites[1], &link, time).and_then(|passing| {
        // Its own link: the lateness of the first one is of datagrams that did not wait.
        let delayed = Link::start(sites, Conditions { delay, ..Conditions::default() }, SEED)?;
        Asked(delayed.door(0)).round_trips(&client, time)?;
        Ok((passing, delayed.late_p50_us(Direction::There).unwrap_or(0) as f64))
    });
    ended.store(true, Ordering::Relaxed);
    let _ = echoing.join();
    let (passing, late) = measured.map_err(failed)?;
    Ok(if delay.is_zero() { passing } else { passing + late })
}

/// What passing the relay adds to one way, by echoes with and without it.
fn measure(client: &UdpSocket, server: SocketAddr, link: &Link, time: Duration) -> std::io::Result<f64> {
    let direct = Asked(server).round_trips(client, time)?;
    let through = Asked(link.door(0)).round_trips(client, time)?;
    Ok((through.p50_us() - direct.p50_us()) / 2.0)
}

/// Whom the client asks: the server, or the relay before it.
struct Asked(SocketAddr);

impl Asked {
    fn round_trips(&self, client: &UdpSocket, time: Duration) -> std::io::Result<Histogram> {
        let (began, mut latencies, mut buffer) = (Instant::now(), Histogram::default(), [0; BYTES]);
        while began.elapsed() < time || latencies.count() < 10 {
            let start = Instant::now();
            client.send_to(&buffer, self.0)?;
            client.recv_from(&mut buffer)?;
            latencies.add(start.elapsed().as_nanos() as u64, 1);
        }
        Ok(latencies)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_is_told_apart_from_the_delay() {
        let delay = Duration::from_millis(50);
        let added = added_us(delay, Duration::from_millis(100)).unwrap();
        assert!(added < 40_000.0, "the delay itself is in it: {added}");
    }
}
