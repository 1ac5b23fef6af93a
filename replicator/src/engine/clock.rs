//! The one clock of the engine: CLOCK_BOOTTIME, which also counts while the machine sleeps. The wall clock is for people.

use std::time::{SystemTime, UNIX_EPOCH};

use farshore_core::ids::Tick;
use rustix::time::{ClockId, clock_gettime};

/// Microseconds since boot.
pub fn now() -> Tick {
    let time = clock_gettime(ClockId::Boottime);
    Tick((time.tv_sec.max(0) as u64) * 1_000_000 + (time.tv_nsec.max(0) as u64) / 1000)
}

/// Milliseconds since 1970, as the wall clock has it: no decision of the protocol rests on it.
pub fn unix_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as i64
}

/// 128 random bits from the kernel.
pub fn random_u128() -> u128 {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).expect("the kernel's random source does not fail after boot");
    u128::from_le_bytes(bytes)
}
