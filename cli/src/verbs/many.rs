//! One verb on many volumes: some at a time, and each has an outcome of its own.

use std::future::Future;

use farshore_proto::v1 as api;
use futures_util::stream::{self, StreamExt as _};

use crate::args::Format;
use crate::client::present;
use crate::failure::{Exit, Failure};
use crate::output;
use crate::views::{ErrorView, ResultView, ResultsView};

/// Volumes that a verb works on at once.
const AT_ONCE: usize = 16;

/// In the order of the names.
pub async fn each<T, F>(names: Vec<String>, work: impl Fn(String) -> F) -> Vec<(String, Result<T, Failure>)>
where
    F: Future<Output = Result<T, Failure>>,
{
    let one = |name: String| {
        let done = work(name.clone());
        async move { (name, done.await) }
    };
    stream::iter(names).map(one).buffered(AT_ONCE).collect().await
}

/// Does it to every volume, and prints how each one is then, or why it is not done.
pub async fn all<F>(format: Format, names: Vec<String>, work: impl Fn(String) -> F) -> Result<(), Failure>
where
    F: Future<Output = Result<Option<api::VolumeStatus>, Failure>>,
{
    let results = each(names, work).await.into_iter().map(|(volume, result)| match result.and_then(present) {
        Ok(status) => ResultView { volume: status.name.clone(), ok: true, error: None, status: Some(status.into()) },
        Err(failure) => ResultView { volume, ok: false, error: Some(ErrorView::from(failure)), status: None },
    });
    print(format, results.collect())
}

pub fn print(format: Format, results: Vec<ResultView>) -> Result<(), Failure> {
    let (all, failed) = (results.len(), results.iter().filter(|r| !r.ok).count());
    output::print(format, &ResultsView { results })?;
    if failed == 0 {
        return Ok(());
    }
    Err(Failure::new(Exit::Failed, format!("{failed} of {all} volumes failed"), "each one's reason stands above"))
}
