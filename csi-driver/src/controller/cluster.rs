//! What every call of the controller uses.

use farshore_proto::v1 as api;
use tonic::Status;

use crate::busy::Busy;
use crate::claims::Kubernetes;
use crate::refusal::given;
use crate::replicator::Replicator;

/// Clones are cheap and share everything: work that outlives its caller takes one along.
#[derive(Clone)]
pub struct Cluster {
    pub(super) replicator: Replicator,
    pub(super) busy: Busy,
    /// 0: no limit.
    pub(super) max_volumes_per_node: u32,
    /// Where claims can be asked about.
    pub(super) kubernetes: Option<Kubernetes>,
}

impl Cluster {
    pub fn new(replicator: Replicator, max_volumes_per_node: u32) -> Cluster {
        Cluster { replicator, busy: Busy::default(), max_volumes_per_node, kubernetes: None }
    }

    pub fn under(self, kubernetes: Option<Kubernetes>) -> Cluster {
        Cluster { kubernetes, ..self }
    }

    /// The volume that a request names.
    pub(super) async fn named(&self, volume_id: &str) -> Result<api::VolumeStatus, Status> {
        self.replicator.volume(given("volume_id", volume_id)?).await
    }
}

/// A page of a list that is sorted by id; the token is the last id of the page before, so that it stays good whatever
/// comes and goes meanwhile. Returns the page and the token of the next one, empty at the end.
pub(super) fn page<T>(
    mut all: Vec<T>,
    id: impl Fn(&T) -> &str,
    starting_token: &str,
    max_entries: i32,
) -> Result<(Vec<T>, String), Status> {
    let most = usize::try_from(max_entries)
        .map_err(|_| Status::invalid_argument(format!("max_entries can't be {max_entries}")))?;
    if !starting_token.is_empty() {
        if !crate::replicator::is_id(starting_token) {
            return Err(Status::aborted(format!(
                "starting_token {starting_token:?} is none of ours: begin anew without one"
            )));
        }
        all.retain(|entry| id(entry) > starting_token);
    }
    let more = most > 0 && all.len() > most;
    if more {
        all.truncate(most);
    }
    let next = all.last().filter(|_| more).map(|entry| id(entry).to_string());
    Ok((all, next.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    fn ids(count: u8) -> Vec<String> {
        (0..count).map(|n| format!("{n:032x}")).collect()
    }

    fn of(count: u8, token: &str, most: i32) -> Result<(Vec<String>, String), Status> {
        page(ids(count), |id| id, token, most)
    }

    #[test]
    fn pages_cover_the_list_once() {
        let (first, token) = of(5, "", 2).unwrap();
        let (second, token2) = of(5, &token, 2).unwrap();
        let (third, end) = of(5, &token2, 2).unwrap();
        assert_eq!([first, second, third].concat(), ids(5));
        assert_eq!(end, "");
        assert_eq!(of(4, "", 4).unwrap().1, "");
        assert_eq!(of(4, "", 0).unwrap().0.len(), 4);
    }

    #[test]
    fn a_token_outlives_what_it_names() {
        let (_, token) = of(5, "", 2).unwrap();
        let without: Vec<String> = ids(5).into_iter().filter(|id| *id != token).collect();
        let (rest, _) = page(without, |id| id, &token, 0).unwrap();
        assert_eq!(rest, ids(5)[2..]);
    }

    #[test]
    fn strange_tokens_and_counts_are_refused() {
        assert_eq!(of(1, "invalid-token", 0).unwrap_err().code(), Code::Aborted);
        assert_eq!(of(1, "", -1).unwrap_err().code(), Code::InvalidArgument);
    }
}
