//! Starting an operation in the caller's order and finishing it on the runtime.

use std::task::{Context, Waker};

use futures_util::future::BoxFuture;
use tokio::runtime::Handle;

/// Polls `operation` once, here and now, so that it is submitted to the device in the order of the calls; what then
/// remains to be waited for is spawned. It is never cancelled: a write that a client abandoned still finishes.
///
/// Must be called with the runtime entered.
pub fn submit(runtime: &Handle, mut operation: BoxFuture<'static, ()>) {
    // The waker of this poll goes nowhere; the spawned task polls anew and leaves its own.
    if operation.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
        runtime.spawn(operation);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[tokio::test]
    async fn operations_start_in_the_order_of_the_calls_and_finish_later() {
        let started = Arc::new(Mutex::new(Vec::new()));
        let (done, mut finished) = tokio::sync::mpsc::channel(64);
        for number in 0..64 {
            let (order, done) = (started.clone(), done.clone());
            let operation = async move {
                order.lock().unwrap().push(number);
                tokio::task::yield_now().await;
                done.send(number).await.unwrap();
            };
            submit(&Handle::current(), Box::pin(operation));
            assert_eq!(started.lock().unwrap().len(), number + 1);
        }
        drop(done);
        let mut count = 0;
        while finished.recv().await.is_some() {
            count += 1;
        }
        assert_eq!(count, 64);
        assert!(started.lock().unwrap().is_sorted());
    }
}
