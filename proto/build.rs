//! Generates the gRPC types. Needs `protoc` (Debian: protobuf-compiler).

use std::env;
use std::path::PathBuf;

const PROTOS: &[&str] = &["proto/farshore/v1/farshore.proto", "proto/google/rpc/status.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    tonic_prost_build::configure()
        .file_descriptor_set_path(out.join("farshore.bin"))
        .btree_map(".farshore.v1")
        .compile_protos(PROTOS, &["proto"])?;
    Ok(())
}
