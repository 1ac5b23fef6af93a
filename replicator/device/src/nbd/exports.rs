//! Which devices a server has, by name.

use std::sync::Arc;

use crate::BlockDevice;

/// Asked at every negotiation, so exports may come and go while the server runs.
pub trait Exports: Send + Sync + 'static {
    /// The device of that name; the empty name is the default export, if there is one.
    fn open(&self, name: &str) -> Option<Arc<dyn BlockDevice>>;

    /// Whether that export's clients come back when the connection breaks. Then a device that is fenced hangs up instead of
    /// failing requests: this server may merely be stopping, and who knows better ends the device where it is held.
    fn is_taken_up_again(&self, name: &str) -> bool {
        let _ = name;
        false
    }

    /// Names for clients that ask what there is.
    fn list(&self) -> Vec<String>;
}

/// One device, under its name and as the default export.
pub struct SingleExport {
    name: String,
    device: Arc<dyn BlockDevice>,
}

impl SingleExport {
    pub fn new(name: impl Into<String>, device: Arc<dyn BlockDevice>) -> Self {
        Self { name: name.into(), device }
    }
}

impl Exports for SingleExport {
    fn open(&self, name: &str) -> Option<Arc<dyn BlockDevice>> {
        (name.is_empty() || name == self.name).then(|| self.device.clone())
    }

    fn list(&self) -> Vec<String> {
        vec![self.name.clone()]
    }
}
