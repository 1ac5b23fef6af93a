//! Waiting for a condition: always with a limit, and given up at once when the user interrupts.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::error::{DemoError, Result};

/// Set by Ctrl-C or SIGTERM; every wait looks at it.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// Set once: what clears up after an interruption must not be interrupted by the same one.
static CLEARING_UP: AtomicBool = AtomicBool::new(false);

pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed) && !CLEARING_UP.load(Ordering::Relaxed)
}

/// From now on nothing interrupts any more.
pub fn begin_clearing_up() {
    CLEARING_UP.store(true, Ordering::Relaxed);
}

/// From now on Ctrl-C and SIGTERM end the wait that is under way, so that the demo clears up before it leaves.
pub fn catch_signals() -> Result<()> {
    let failed = |source| DemoError::Io { operation: "catch signals in", path: "this process".into(), source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let kinds = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
            if let (Ok(mut interrupt), Ok(mut terminate)) = kinds {
                tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
                INTERRUPTED.store(true, Ordering::Relaxed);
                // Further ones are swallowed: clearing up is under way, and has its own limits.
                loop {
                    tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
                }
            }
        });
    });
    Ok(())
}

/// A pause that an interruption ends.
pub fn pause(time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    loop {
        if interrupted() {
            return Err(DemoError::Interrupted);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(Duration::from_millis(20)));
    }
}

/// Asks again and again until there is an answer. `Err(text)` of the question means "not yet, because": the last one is
/// told when the time is over. A [`DemoError`] ends the wait at once.
pub fn until<T>(
    what: &str,
    limit: Duration,
    interval: Duration,
    mut ask: impl FnMut() -> Result<std::result::Result<T, String>>,
) -> Result<T> {
    let began = Instant::now();
    loop {
        let last = match ask()? {
            Ok(answer) => return Ok(answer),
            Err(last) => last,
        };
        if began.elapsed() >= limit {
            return Err(DemoError::TimedOut { what: what.into(), limit, last });
        }
        pause(interval)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_reason_is_told() {
        let mut asked = 0;
        let told = until::<()>("the moon", Duration::from_millis(30), Duration::from_millis(5), || {
            asked += 1;
            Ok(Err(format!("asked {asked} times")))
        });
        let told = told.unwrap_err().to_string();
        assert!(told.contains("the moon") && told.contains(&format!("asked {asked} times")), "{told}");
    }

    #[test]
    fn an_answer_ends_it() {
        let mut asked = 0;
        let ask = || {
            asked += 1;
            Ok(if asked == 3 { Ok(asked) } else { Err("no".into()) })
        };
        assert_eq!(until("three", Duration::from_secs(60), Duration::ZERO, ask).unwrap(), 3);
    }
}
