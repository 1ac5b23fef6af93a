//! How calls fail. CSI wants exact codes, a sentence, and nothing in the details.

use tonic::{Code, Status};

pub fn missing(field: &str) -> Status {
    Status::invalid_argument(format!("{field} is missing: the caller must fill it in"))
}

pub fn no_volume(volume: &str) -> Status {
    Status::not_found(format!("volume {volume:?} is not known in this site; list its volumes: farshore volume list"))
}

/// Ours never has anybody else's details: the sentence says what the replicator meant, its remedy included.
pub fn of_replicator(status: Status) -> Status {
    // A status that carries no details was not written by a replicator: the call broke on the way.
    let written = farshore_proto::error_detail(&status).is_some();
    let code = match status.code() {
        Code::Unimplemented => Code::Unimplemented,
        _ if !written => Code::Unavailable,
        code => code,
    };
    let message = match written || code == Code::Unimplemented {
        true => status.message().to_string(),
        false => format!("the replicator of this node did not answer ({}); it is tried again", status.message()),
    };
    Status::new(code, message)
}

/// A field that the specification wants filled in.
pub fn given<'a>(field: &str, value: &'a str) -> Result<&'a str, Status> {
    if value.is_empty() { Err(missing(field)) } else { Ok(value) }
}
