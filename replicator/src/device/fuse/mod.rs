//! placeholder
pub struct FuseDevice;
pub struct StaleDevice;
