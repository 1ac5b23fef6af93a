//! The NBD exports: what is attached, under its own name for userland's clients and under `<name>@<session>` for device
//! processes and kernels, and the copies that forks left behind.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use farshore_core::ids::SessionId;

use super::diverged::DivergedDevice;
use super::driver::lock;
use super::io_limits::{Meter, MeteredDevice};
use super::node::Shared;
use super::session_device::SessionDevice;
use crate::device::{BlockDevice, Exports};
use crate::transport::PeerName;

struct Exported {
    session: SessionId,
    /// The node of the device, where that is not this one: it alone is served, over the transport.
    elsewhere: Option<PeerName>,
    device: Arc<SessionDevice>,
    /// Whoever asked last for the session's export: it alone is served.
    turn: Option<Arc<SessionDevice>>,
    meter: Arc<Meter>,
}

impl Exported {
    /// Whoever had the last turn has had its last.
    fn next_turn(&mut self) -> (Arc<SessionDevice>, Arc<dyn BlockDevice>) {
        if let Some(earlier) = &self.turn {
            earlier.end();
        }
        let turn = Arc::new(SessionDevice::new(self.device.clone()));
        self.turn = Some(turn.clone());
        (turn.clone(), Arc::new(MeteredDevice::new(turn, self.meter.clone())))
    }
}

pub struct ExportTable {
    devices: Mutex<BTreeMap<String, Exported>>,
    shared: Arc<Shared>,
}

/// The export that only this session's device asks for. No volume's name has an `@`.
pub fn session_export(name: &str, session: SessionId) -> String {
    format!("{name}@{}", session_text(session))
}

/// All of it, as users see it: its display is short.
pub fn session_text(session: SessionId) -> String {
    format!("{:032x}", session.0)
}

impl ExportTable {
    pub fn new(shared: Arc<Shared>) -> ExportTable {
        ExportTable { devices: Mutex::default(), shared }
    }

    pub fn insert(&self, name: &str, session: SessionId, device: Arc<SessionDevice>, meter: Arc<Meter>) {
        let exported = Exported { session, elsewhere: None, device, turn: None, meter };
        lock(&self.devices).insert(name.to_owned(), exported);
    }

    /// For the device of that session on another node.
    pub fn insert_for(
        &self,
        peer: &PeerName,
        name: &str,
        session: SessionId,
        device: Arc<SessionDevice>,
        meter: Arc<Meter>,
    ) {
        let exported = Exported { session, elsewhere: Some(peer.clone()), device, turn: None, meter };
        lock(&self.devices).insert(name.to_owned(), exported);
    }

    pub fn remove(&self, name: &str) {
        lock(&self.devices).remove(name);
    }

    /// A device that comes back has lost its connection, of which requests may still lie in a socket here. They are older
    /// than what it issues now, so they must not come later.
    fn open_for_session(&self, name: &str, session: &str) -> Option<Arc<dyn BlockDevice>> {
        let mut devices = lock(&self.devices);
        let ours = |exported: &&mut Exported| exported.elsewhere.is_none() && session_text(exported.session) == session;
        devices.get_mut(name).filter(ours).map(|exported| exported.next_turn().1)
    }

    /// As for a device process, of the node that has the session's device. The turn is to be ended with the stream.
    pub fn open_for_peer(
        &self,
        peer: &PeerName,
        name: &str,
        session: SessionId,
    ) -> Option<(Arc<SessionDevice>, Arc<dyn BlockDevice>)> {
        let mut devices = lock(&self.devices);
        let its = |exported: &&mut Exported| exported.elsewhere.as_ref() == Some(peer) && exported.session == session;
        devices.get_mut(name).filter(its).map(Exported::next_turn)
    }
}

impl Exports for ExportTable {
    fn open(&self, name: &str) -> Option<Arc<dyn BlockDevice>> {
        if let Some((name, session)) = name.rsplit_once('@') {
            return self.open_for_session(name, session);
        }
        let here = |exported: &&Exported| exported.elsewhere.is_none();
        let devices = lock(&self.devices);
        let attached = devices.get(name).filter(here).map(|found| (found.device.clone(), found.meter.clone()));
        drop(devices);
        attached.map(|(device, meter)| Arc::new(MeteredDevice::new(device, meter)) as Arc<dyn BlockDevice>).or_else(
            || {
                let shared = self.shared.clone();
                self.shared.diverged.find(name).map(|copy| Arc::new(DivergedDevice { shared, copy }) as _)
            },
        )
    }

    fn is_taken_up_again(&self, name: &str) -> bool {
        name.contains('@')
    }

    fn list(&self) -> Vec<String> {
        let copies = self.shared.diverged.all().into_iter().map(|copy| copy.name.clone());
        let devices = lock(&self.devices);
        let here = devices.iter().filter(|(_, exported)| exported.elsewhere.is_none());
        here.map(|(name, _)| name.clone()).chain(copies).collect()
    }
}
