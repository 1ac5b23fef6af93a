//! A UDP relay with loss, delay and a switch, in userland.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use super::*;

/// Datagrams on their way, each direction; more are dropped, as a router's queue would.
const UNDER_WAY_MAX: usize = 4096;

/// Between one dialler and one target. Each direction loses `loss` of its datagrams and delays the others.
pub(super) struct Relay {
    pub address: SocketAddr,
    cut: Arc<AtomicBool>,
    pub dropped: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<()>>,
}

impl Relay {
    pub async fn start(target: SocketAddr, loss: f64, delay: Duration) -> Relay {
        let front = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let back = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        back.connect(target).await.unwrap();
        let address = front.local_addr().unwrap();
        let (cut, dropped) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (dialler, dialler_known) = tokio::sync::watch::channel(None);
        let mut tasks = Vec::new();
        for forward in [true, false] {
            let (from, to) = if forward { (front.clone(), back.clone()) } else { (back.clone(), front.clone()) };
            let (queue, mut under_way) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY_MAX);
            let (cut, dropped) = (cut.clone(), dropped.clone());
            let dialler = dialler.clone();
            tasks.push(tokio::spawn(async move {
                let mut dice = StdRng::seed_from_u64(u64::from(forward));
                let mut buffer = vec![0; 65_536];
                loop {
                    // A connected socket reports the target's closed port; the next datagram may pass.
                    let Ok((length, source)) = from.recv_from(&mut buffer).await else { continue };
                    if forward {
                        dialler.send_replace(Some(source));
                    }
                    let lost = cut.load(Ordering::Relaxed) || dice.random::<f64>() < loss;
                    if lost || queue.try_send((Instant::now() + delay, buffer[..length].to_vec())).is_err() {
                        dropped.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }));
            let dialler_known = dialler_known.clone();
            tasks.push(tokio::spawn(async move {
                while let Some((due, datagram)) = under_way.recv().await {
                    tokio::time::sleep_until(due.into()).await;
                    let target = *dialler_known.borrow();
                    let _ = match target {
                        Some(dialler) if !forward => to.send_to(&datagram, dialler).await,
                        _ => to.send(&datagram).await,
                    };
                }
            }));
        }
        Relay { address, cut, dropped, tasks }
    }

    pub fn cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::Relaxed);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}
