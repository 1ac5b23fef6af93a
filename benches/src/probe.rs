//! What a relay costs beyond the delay that it was told: an echo by plain UDP, with and without it.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use farshore_wan::{Conditions, Link};

use crate::histogram::Histogram;

const BYTES: usize = 1200;
const SEED: u64 = 2;
/// Nothing is lost on loopback; a machine may stand still for a while.
const PATIENCE: Duration = Duration::from_secs(10);

/// The median of what the relay adds to one way, in microseconds, at this delay.
pub fn added_us(delay: Duration, time: Duration) -> Result<f64, String> {
    let failed = |e: std::io::Error| format!("measuring the relay: {e}");
    let (client, server) =
        (UdpSocket::bind("127.0.0.1:0").map_err(failed)?, UdpSocket::bind("127.0.0.1:0").map_err(failed)?);
    client.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    // How soon it sees that it shall end.
    server.set_read_timeout(Some(Duration::from_millis(100))).map_err(failed)?;
    let sites = [client.local_addr().map_err(failed)?, server.local_addr().map_err(failed)?];
    let link = Link::start(sites, Conditions { delay, ..Conditions::default() }, SEED).map_err(failed)?;
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
    let (direct, through) = (Asked(sites[1]), Asked(link.door(0)));
    let measured = direct.round_trips(&client, time).and_then(|d| Ok((d, through.round_trips(&client, time)?)));
    ended.store(true, Ordering::Relaxed);
    let _ = echoing.join();
    let (direct, through) = measured.map_err(failed)?;
    let added = through.p50_us() - direct.p50_us() - 2.0 * delay.as_secs_f64() * 1e6;
    Ok(added / 2.0)
}

/// Whom the client asks: the server, or the relay before it.
struct Asked(std::net::SocketAddr);

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
        let delay = Duration::from_millis(20);
        let added = added_us(delay, Duration::from_millis(100)).unwrap();
        // Far less than the delay itself on any machine that is not standing still.
        assert!(added > -5_000.0 && added < 1_000_000.0, "{added}");
    }
}
