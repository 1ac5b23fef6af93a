//! Waiting for conditions, never for time to pass.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(30);
/// Patience of [`eventually`]: far beyond what an idle machine needs, for tests share theirs with others.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// Looks until the closure has something; fails with what it said last.
#[track_caller]
pub fn until<T, E: Debug>(what: &str, patience: Duration, mut look: impl FnMut() -> Result<T, E>) -> T {
    let began = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(last) if began.elapsed() > patience => {
                panic!("waited {} s for {what}, in vain; last: {last:#?}", patience.as_secs())
            }
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

#[track_caller]
pub fn eventually<T, E: Debug>(what: &str, look: impl FnMut() -> Result<T, E>) -> T {
    until(what, PATIENCE, look)
}
