//! Generates the gRPC types. Needs `protoc` (Debian: protobuf-compiler, libprotobuf-dev).

use std::env;
use std::path::PathBuf;

const PROTOS: &[&str] = &["proto/farshore/v1/farshore.proto", "proto/google/rpc/status.proto"];
/// What others have specified, and ask of us.
const CSI: &[&str] = &["proto/csi/v1/csi.proto", "proto/csiaddons/identity.proto", "proto/csiaddons/replication.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    tonic_prost_build::configure()
        .file_descriptor_set_path(out.join("farshore.bin"))
        .btree_map(".farshore.v1")
        .compile_protos(PROTOS, &["proto"])?;
    tonic_prost_build::configure()
        .file_descriptor_set_path(out.join("csi.bin"))
        .btree_map(".")
        .compile_protos(CSI, &["proto"])?;
    Ok(())
}
