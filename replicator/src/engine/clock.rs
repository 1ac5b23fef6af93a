//! The one clock of the engine: CLOCK_BOOTTIME, which also counts while the machine sleeps.

use farshore_core::ids::Tick;
use rustix::time::{ClockId, clock_gettime};

/// Microseconds since boot.
pub fn now() -> Tick {
    let time = clock_gettime(ClockId::Boottime);
    Tick((time.tv_sec.max(0) as u64) * 1_000_000 + (time.tv_nsec.max(0) as u64) / 1000)
}

/// 128 random bits from the kernel.
pub fn random_u128() -> u128 {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).expect("the kernel's random source does not fail after boot");
    u128::from_le_bytes(bytes)
}
