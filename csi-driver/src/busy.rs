//! One operation at a time on one volume; who comes meanwhile is told to come again.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use tonic::Status;

#[derive(Debug, Default, Clone)]
pub struct Busy {
    keys: Arc<Mutex<BTreeSet<String>>>,
}

/// The key is free again when this is dropped.
struct Claim {
    keys: Arc<Mutex<BTreeSet<String>>>,
    key: String,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

impl Busy {
    /// Carries the work out unless something else is under way for the key. In a task of its own: a caller that hangs up
    /// does not leave it half-done, and the key stays taken until it has ended.
    pub async fn alone<T: Send + 'static>(
        &self,
        key: &str,
        work: impl Future<Output = Result<T, Status>> + Send + 'static,
    ) -> Result<T, Status> {
        if !self.keys.lock().unwrap_or_else(PoisonError::into_inner).insert(key.into()) {
            return Err(Status::aborted(format!(
                "another operation on {key} is under way; try again when it has ended"
            )));
        }
        let claim = Claim { keys: self.keys.clone(), key: key.into() };
        let task = tokio::spawn(async move {
            let _claim = claim;
            work.await
        });
        task.await.unwrap_or_else(|error| Err(Status::internal(format!("the operation broke off: {error}"))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    #[tokio::test]
    async fn the_second_is_told_to_come_again() {
        let busy = Busy::default();
        let (release, held) = tokio::sync::oneshot::channel::<()>();
        let first = {
            let busy = busy.clone();
            tokio::spawn(async move {
                busy.alone("v", async move {
                    let _ = held.await;
                    Ok(())
                })
                .await
            })
        };
        while busy.keys.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(busy.alone("v", async { Ok(()) }).await.unwrap_err().code(), Code::Aborted);
        assert!(busy.alone("w", async { Ok(()) }).await.is_ok());
        release.send(()).unwrap();
        first.await.unwrap().unwrap();
        assert!(busy.alone("v", async { Ok(()) }).await.is_ok());
    }

    #[tokio::test]
    async fn a_caller_that_hangs_up_leaves_the_key_taken_until_the_end() {
        let busy = Busy::default();
        let (release, held) = tokio::sync::oneshot::channel::<()>();
        let called = busy.alone("v", async move {
            let _ = held.await;
            Ok(())
        });
        // Polled once, then dropped.
        tokio::select! { biased; _ = called => panic!("it can't have ended"), () = tokio::task::yield_now() => {} }
        assert_eq!(busy.alone("v", async { Ok(()) }).await.unwrap_err().code(), Code::Aborted);
        release.send(()).unwrap();
        while busy.alone("v", async { Ok(()) }).await.is_err() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn work_that_panics_is_an_error_and_frees_the_key() {
        let busy = Busy::default();
        let broken: Result<(), Status> = busy.alone("v", async { panic!("on purpose") }).await;
        assert_eq!(broken.unwrap_err().code(), Code::Internal);
        assert!(busy.alone("v", async { Ok(()) }).await.is_ok());
    }
}
