//! How an error's details travel: as the standard `google.rpc.Status` behind a gRPC status.

use crate::{rpc, v1};

/// The type under which an [`v1::ErrorDetail`] travels in a status's details.
pub const ERROR_DETAIL_TYPE: &str = "type.googleapis.com/farshore.v1.ErrorDetail";

/// Reason and remedy of a failed call, where the server sent them.
pub fn error_detail(status: &tonic::Status) -> Option<v1::ErrorDetail> {
    use prost::Message as _;
    let carried = rpc::Status::decode(status.details()).ok()?;
    let any = carried.details.into_iter().find(|any| any.type_url == ERROR_DETAIL_TYPE)?;
    v1::ErrorDetail::decode(any.value.as_slice()).ok()
}

/// The inverse of [`error_detail`]: bytes for `tonic::Status::with_details`.
pub fn encode_error_detail(code: tonic::Code, detail: &v1::ErrorDetail) -> Vec<u8> {
    use prost::Message as _;
    let any = prost_types::Any { type_url: ERROR_DETAIL_TYPE.into(), value: detail.encode_to_vec() };
    let carried = rpc::Status { code: code as i32, message: detail.message.clone(), details: vec![any] };
    carried.encode_to_vec()
}
