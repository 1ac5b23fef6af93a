//! Generated gRPC types, and nothing else but how an error's details travel.

mod detail;

pub use detail::{ERROR_DETAIL_TYPE, encode_error_detail, error_detail};

/// `farshore.v1`: what the replicator offers on its unix socket.
pub mod v1 {
    tonic::include_proto!("farshore.v1");
}

/// The standard error with details.
pub mod rpc {
    tonic::include_proto!("google.rpc");
}

/// Every message and service of `farshore.v1`, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("farshore");
