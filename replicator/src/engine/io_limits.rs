//! What a volume's device is allowed to ask for in a second: `iops` and `bandwidth`. Kept in the register, so that they go
//! with the volume; counted at its device alone, so that catching up and resyncs know nothing of them. What shipments may
//! send is metered likewise, for all of a node together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use farshore_core::register::Configuration;
use futures_util::future::BoxFuture;
use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, sleep_until};

use crate::device::{BlockDevice, Extent, Geometry, IoError};

/// In the register: `iops=500,bandwidth=1048576`; what is not bounded is left out.
pub(super) const IO_LIMITS_LABEL: &str = "farshore.io-limits";
/// So much of a pause is made up for at once.
const BURST: Duration = Duration::from_millis(100);

/// 0: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IoLimits {
    pub iops: u64,
    pub bytes_per_second: u64,
}

impl IoLimits {
    pub fn of(config: &Configuration) -> IoLimits {
        config.volume.labels.get(IO_LIMITS_LABEL).map_or(IoLimits::default(), |text| IoLimits::read(text))
    }

    /// What is not understood bounds nothing: a later version may say more.
    fn read(text: &str) -> IoLimits {
        let number = |key: &str| {
            let found = text.split(',').filter_map(|part| part.split_once('=')).find(|(k, _)| *k == key);
            found.and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
        };
        IoLimits { iops: number("iops"), bytes_per_second: number("bandwidth") }
    }

    /// For the register; nothing where nothing is bounded.
    pub fn label(self) -> Option<String> {
        let part = |key: &str, value: u64| (value > 0).then(|| format!("{key}={value}"));
        let parts: Vec<String> =
            part("iops", self.iops).into_iter().chain(part("bandwidth", self.bytes_per_second)).collect();
        (!parts.is_empty()).then(|| parts.join(","))
    }

    /// How long after this request the next one may come.
    fn cost(self, bytes: u64) -> Duration {
        let seconds = |amount: u64, rate: u64| if rate == 0 { 0.0 } else { amount as f64 / rate as f64 };
        Duration::from_secs_f64(seconds(1, self.iops).max(seconds(bytes, self.bytes_per_second)))
    }
}

/// When all that was let through is paid for, at one rate.
struct Paid {
    limits: IoLimits,
    at: Instant,
}

impl Paid {
    /// Lets a request through, or says when to ask again.
    fn take(&mut self, limits: IoLimits, bytes: u64, now: Instant) -> Result<(), Instant> {
        if limits != self.limits {
            *self = Paid { limits, at: now };
        }
        if self.at > now + BURST {
            return Err(self.at - BURST);
        }
        // A longer pause is not saved up.
        self.at = self.at.max(now) + limits.cost(bytes);
        Ok(())
    }
}

/// Lets requests through at the rate of one session's device, in the order in which they came.
pub struct Meter {
    iops: AtomicU64,
    bytes_per_second: AtomicU64,
    paid: Mutex<Paid>,
    changed: Notify,
}

impl Meter {
    pub fn new(limits: IoLimits) -> Meter {
        Meter {
            iops: AtomicU64::new(limits.iops),
            bytes_per_second: AtomicU64::new(limits.bytes_per_second),
            paid: Mutex::new(Paid { limits, at: Instant::now() }),
            changed: Notify::new(),
        }
    }

    fn limits(&self) -> IoLimits {
        let (iops, bytes) = (self.iops.load(Ordering::Relaxed), self.bytes_per_second.load(Ordering::Relaxed));
        IoLimits { iops, bytes_per_second: bytes }
    }

    /// From now on; also for who waits.
    pub fn set(&self, limits: IoLimits) {
        self.iops.store(limits.iops, Ordering::Relaxed);
        self.bytes_per_second.store(limits.bytes_per_second, Ordering::Relaxed);
        self.changed.notify_waiters();
    }

    /// The session ends: whoever waits goes on, to be refused.
    pub fn lift(&self) {
        self.set(IoLimits::default());
    }

    fn unbounded(&self) -> bool {
        self.limits() == IoLimits::default()
    }

    pub(super) async fn pass(&self, bytes: u64) {
        if self.unbounded() {
            return;
        }
        let mut paid = self.paid.lock().await;
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // A change that comes before the sleep must end it.
            changed.as_mut().enable();
            let Err(at) = paid.take(self.limits(), bytes, Instant::now()) else { return };
            tokio::select! {
                () = sleep_until(at) => {}
                () = changed => {}
            }
        }
    }
}

/// What a client of a session holds. Outermost: a request that waits here has no place in the volume's order yet, and is
/// refused like any other if its session, or its connection's turn, ends meanwhile.
pub struct MeteredDevice {
    inner: Arc<dyn BlockDevice>,
    meter: Arc<Meter>,
}

impl MeteredDevice {
    pub fn new(inner: Arc<dyn BlockDevice>, meter: Arc<Meter>) -> MeteredDevice {
        MeteredDevice { inner, meter }
    }

    fn metered<'a, T: 'a>(
        &'a self,
        bytes: u64,
        request: impl FnOnce(&'a dyn BlockDevice) -> BoxFuture<'a, T> + Send + 'a,
    ) -> BoxFuture<'a, T> {
        if self.meter.unbounded() {
            return request(self.inner.as_ref());
        }
        Box::pin(async move {
            self.meter.pass(bytes).await;
            request(self.inner.as_ref()).await
        })
    }
}

impl BlockDevice for MeteredDevice {
    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    fn read(&self, offset: u64, len: u32) -> BoxFuture<'_, Result<Bytes, IoError>> {
        self.metered(len.into(), move |device| device.read(offset, len))
    }

    fn write(&self, offset: u64, data: Bytes, fua: bool) -> BoxFuture<'_, Result<(), IoError>> {
        self.metered(data.len() as u64, move |device| device.write(offset, data, fua))
    }

    /// Of what is completed, so of nothing that waits here.
    fn flush(&self) -> BoxFuture<'_, Result<(), IoError>> {
        self.inner.flush()
    }

    fn discard(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<(), IoError>> {
        self.metered(0, move |device| device.discard(offset, len))
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool, fua: bool) -> BoxFuture<'_, Result<(), IoError>> {
        self.metered(0, move |device| device.write_zeroes(offset, len, unmap, fua))
    }

    fn extents(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Vec<Extent>, IoError>> {
        self.inner.extents(offset, len)
    }
}

#[cfg(test)]
mod tests {
    use super::super::session_device::SessionDevice;
    use super::*;
    use crate::device::MemoryDevice;

    const SLOW: IoLimits = IoLimits { iops: 10, bytes_per_second: 0 };

    fn memory() -> Arc<MemoryDevice> {
        let geometry =
            Geometry { size_bytes: 1 << 20, logical_block_bytes: 4096, volatile_cache: false, read_only: false };
        Arc::new(MemoryDevice::new(geometry))
    }

    #[test]
    fn a_label_says_what_is_bounded_and_nothing_else() {
        for (limits, label) in [
            (IoLimits::default(), None),
            (SLOW, Some("iops=10")),
            (IoLimits { iops: 0, bytes_per_second: 4096 }, Some("bandwidth=4096")),
            (IoLimits { iops: 500, bytes_per_second: 1 << 20 }, Some("iops=500,bandwidth=1048576")),
        ] {
            assert_eq!(limits.label().as_deref(), label);
            assert_eq!(IoLimits::read(label.unwrap_or_default()), limits);
        }
        assert_eq!(IoLimits::read("iops=many,later=7,bandwidth=5"), IoLimits { iops: 0, bytes_per_second: 5 });
    }

    /// Requests of so many bytes, one as soon as it may after the other.
    fn time_of(requests: u32, bytes: u64, limits: IoLimits, mut now: Instant) -> Duration {
        let begun = now;
        let mut paid = Paid { limits, at: now };
        for _ in 0..requests {
            while let Err(later) = paid.take(limits, bytes, now) {
                assert!(later > now);
                now = later;
            }
        }
        now - begun
    }

    #[test]
    fn what_passes_in_a_time_is_what_was_allowed() {
        let (mib, now) = (1 << 20, Instant::now());
        for (limits, bytes, requests) in [
            (SLOW, 4096, 101),
            (IoLimits { iops: 0, bytes_per_second: mib }, 64 << 10, 161),
            // Both hold.
            (IoLimits { iops: 1000, bytes_per_second: mib }, 64 << 10, 161),
            (IoLimits { iops: 10, bytes_per_second: 100 * mib }, 64 << 10, 101),
        ] {
            let (took, expected) = (time_of(requests, bytes, limits, now), Duration::from_secs(10));
            assert!(took <= expected && took + 2 * BURST >= expected, "{limits:?}: {took:?}");
        }
    }

    #[test]
    fn a_pause_is_not_saved_up() {
        let limits = IoLimits { iops: 100, bytes_per_second: 0 };
        let now = Instant::now();
        let mut paid = Paid { limits, at: now };
        let later = now + Duration::from_secs(60);
        let passed = (0..1000).take_while(|_| paid.take(limits, 4096, later).is_ok()).count();
        assert!((10..=12).contains(&passed), "{passed}");
    }

    /// An hour and more: none of these tests waits for it.
    const NEARLY_NOTHING: IoLimits = IoLimits { iops: 0, bytes_per_second: 1 };

    #[tokio::test]
    async fn a_change_holds_for_who_waits() {
        let meter = Arc::new(Meter::new(NEARLY_NOTHING));
        meter.pass(4096).await;
        let waiting = tokio::spawn({
            let meter = meter.clone();
            async move { meter.pass(1).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        meter.set(SLOW);
        waiting.await.unwrap();
    }

    /// Else an older write of a connection that has ended could come behind a newer one of the next.
    #[tokio::test]
    async fn a_request_that_waited_beyond_the_end_of_its_session_is_refused() {
        let memory = memory();
        let session = Arc::new(SessionDevice::new(memory.clone()));
        let meter = Arc::new(Meter::new(NEARLY_NOTHING));
        let device = Arc::new(MeteredDevice::new(session.clone(), meter.clone()));
        device.write(0, vec![1; 4096].into(), false).await.unwrap();
        let late = tokio::spawn({
            let device = device.clone();
            async move { device.write(0, vec![2; 4096].into(), false).await }
        });
        tokio::task::yield_now().await;
        assert!(!late.is_finished(), "it waits");
        session.end();
        meter.lift();
        assert!(matches!(late.await.unwrap(), Err(IoError::Fenced(_))));
        assert_eq!(memory.read(0, 4096).await.unwrap(), vec![1; 4096]);
    }
}
