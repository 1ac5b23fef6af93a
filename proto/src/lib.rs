//! Generated gRPC types, and nothing else but how an error's details travel, and which members have a copy.

mod detail;
mod member;

pub use detail::{ERROR_DETAIL_TYPE, encode_error_detail, error_detail};

/// `farshore.v1`: what the replicator offers on its unix socket.
pub mod v1 {
    tonic::include_proto!("farshore.v1");
}

/// The standard error with details.
pub mod rpc {
    tonic::include_proto!("google.rpc");
}

/// The Container Storage Interface.
pub mod csi {
    tonic::include_proto!("csi.v1");
}

/// What csi-addons adds to it.
pub mod csiaddons {
    pub mod identity {
        tonic::include_proto!("identity");
    }
    pub mod replication {
        tonic::include_proto!("replication");
    }
}

/// Every message and service of CSI and csi-addons, for reflection and for comparing them with the specification.
pub const CSI_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("csi");

/// Every message and service of `farshore.v1`, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("farshore");
