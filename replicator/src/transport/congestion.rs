//! How fast one connection may send: by delay, Cubic, BBR, or a fixed window for links whose bandwidth is provisioned.
//!
//! Cubic shares a public path fairly, but random loss starves it (at 50 ms and 0.1 % loss it carries a tenth of a
//! 200 Mbit/s link). quinn's BBR fills such a link, and overfills its queues unless the send window is capped. A fixed
//! window ignores loss and is right where nobody else shares the link.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use quinn::congestion::{BbrConfig, Controller, ControllerFactory, CubicConfig};

use super::delay::DelayFactory;

/// A fresh connection may send this much at once; quinn's own 12 KB needs seven round trips for a megabyte.
const INITIAL_WINDOW_BYTES: u64 = 128 << 10;
/// quinn's BBR resends half of what it sends when more than this may be under way.
const BBR_SEND_WINDOW_BYTES_MAX: u64 = 2 << 20;
/// A fixed window below this could not carry one record.
const FIXED_WINDOW_BYTES_MIN: u64 = 64 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Congestion {
    Cubic,
    /// By delay, a few losses being weather: see `transport/delay.rs`.
    #[default]
    Delay,
    Bbr,
    /// This many bytes under way, whatever is lost: bandwidth × round-trip time of a link of one's own.
    Fixed {
        bytes: u64,
    },
}

impl Congestion {
    pub(super) fn factory(&self) -> Arc<dyn ControllerFactory + Send + Sync> {
        match *self {
            Congestion::Cubic => {
                let mut config = CubicConfig::default();
                config.initial_window(INITIAL_WINDOW_BYTES);
                Arc::new(config)
            }
            Congestion::Delay => Arc::new(DelayFactory { initial_window_bytes: INITIAL_WINDOW_BYTES }),
            Congestion::Bbr => {
                let mut config = BbrConfig::default();
                config.initial_window(INITIAL_WINDOW_BYTES);
                Arc::new(config)
            }
            Congestion::Fixed { bytes } => Arc::new(FixedWindow::new(bytes)),
        }
    }

    /// The send window that goes with this controller, given the configured one.
    pub(super) fn send_window_bytes(&self, configured: u64) -> u64 {
        match self {
            Congestion::Cubic | Congestion::Delay => configured,
            Congestion::Bbr => configured.min(BBR_SEND_WINDOW_BYTES_MAX),
            Congestion::Fixed { bytes } => configured.max(2 * bytes),
        }
    }
}

/// Ignores loss. Only persistent congestion, which is a path that carries nothing, shrinks the window, so that a dead
/// link is probed and not flooded; what is acknowledged afterwards opens it again.
#[derive(Debug, Clone)]
struct FixedWindow {
    full: u64,
    window: u64,
}

impl FixedWindow {
    fn new(bytes: u64) -> FixedWindow {
        let full = bytes.max(FIXED_WINDOW_BYTES_MIN);
        FixedWindow { full, window: full }
    }
}

impl Controller for FixedWindow {
    fn on_end_acks(&mut self, _now: Instant, _in_flight: u64, _app_limited: bool, _largest: Option<u64>) {
        self.window = self.window.saturating_mul(2).min(self.full);
    }

    fn on_congestion_event(&mut self, _now: Instant, _sent: Instant, is_persistent: bool, _lost_bytes: u64) {
        if is_persistent {
            self.window = FIXED_WINDOW_BYTES_MIN;
        }
    }

    fn on_mtu_update(&mut self, _new_mtu: u16) {}

    fn window(&self) -> u64 {
        self.window
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.full
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

impl ControllerFactory for FixedWindow {
    fn build(self: Arc<Self>, _now: Instant, _current_mtu: u16) -> Box<dyn Controller> {
        self.clone_box()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fixed_window_minds_only_a_dead_path() {
        let mut window = FixedWindow::new(1 << 20);
        let now = Instant::now();
        window.on_congestion_event(now, now, false, 100_000);
        assert_eq!(window.window(), 1 << 20);
        window.on_congestion_event(now, now, true, 100_000);
        assert_eq!(window.window(), FIXED_WINDOW_BYTES_MIN);
        for _ in 0..10 {
            window.on_end_acks(now, 0, false, None);
        }
        assert_eq!(window.window(), 1 << 20);
        assert_eq!(FixedWindow::new(1).window(), FIXED_WINDOW_BYTES_MIN);
    }

    #[test]
    fn the_send_window_follows_the_controller() {
        assert_eq!(Congestion::Bbr.send_window_bytes(8 << 20), BBR_SEND_WINDOW_BYTES_MAX);
        assert_eq!(Congestion::Fixed { bytes: 8 << 20 }.send_window_bytes(8 << 20), 16 << 20);
    }
}
