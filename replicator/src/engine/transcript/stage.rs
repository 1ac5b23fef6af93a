//! Three replicators in one process, each with a runtime of its own, so that one can end and come back.

use std::fmt::Debug;
use std::fs::File;
use std::net::UdpSocket;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use farshore_core::api::Status;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::config::Config;
use crate::control::OpError;
use crate::engine::Node;
use crate::engine::driver::VolumeHandle;
use crate::transport::PeerName;
use crate::transport::cert::{Overwrite, create_ca, issue};
use crate::transport::tap::TAPPED_NODE;

/// What the node of each site is called.
type Names = [&'static str; 3];

pub const SITES: [&str; 3] = ["east", "west", "north"];
/// Far beyond what an idle machine needs.
const PATIENCE: Duration = Duration::from_secs(60);
const END_PATIENCE: Duration = Duration::from_secs(20);

struct Running {
    node: Arc<Node>,
    runtime: Runtime,
}

pub struct Stage {
    dir: TempDir,
    nodes: Names,
    ports: Vec<u16>,
    running: Vec<Option<Running>>,
}

/// Looks until there is something; fails with what was said last.
pub fn eventually<T, E: Debug>(what: &str, mut look: impl FnMut() -> Result<T, E>) -> T {
    let began = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(last) if began.elapsed() > PATIENCE => panic!("in vain: {what}; last: {last:?}"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

impl Stage {
    pub fn lay_out() -> Stage {
        Stage::lay_out_as([TAPPED_NODE; 3])
    }

    pub fn lay_out_as(nodes: Names) -> Stage {
        let dir = tempfile::tempdir().expect("a folder");
        create_ca("test.farshore", &dir.path().join("ca"), 100, Overwrite::Refuse).expect("a CA");
        let holds: Vec<UdpSocket> = SITES.iter().map(|_| UdpSocket::bind("127.0.0.1:0").expect("a port")).collect();
        let ports = holds.iter().map(|hold| hold.local_addr().expect("it is bound").port()).collect();
        let stage = Stage { dir, nodes, ports, running: SITES.iter().map(|_| None).collect() };
        for (site, node) in SITES.iter().zip(nodes) {
            let name = PeerName::new(site, node).expect("a good name");
            issue(&stage.dir.path().join("ca"), &name, &stage.site_dir(site).join("pki"), 30, Overwrite::Refuse)
                .expect("a certificate");
        }
        stage
    }

    fn site_dir(&self, site: &str) -> PathBuf {
        self.dir.path().join(site)
    }

    pub fn data_dir(&self, site: &str) -> PathBuf {
        self.site_dir(site).join("data")
    }

    fn config(&self, site: &str) -> Config {
        let (dir, node) = (self.site_dir(site), self.nodes[index(site)]);
        let dir = dir.display();
        let port = self.ports[index(site)];
        let mut text = format!(
            "[node]\nsite = \"{site}\"\nnode = \"{node}\"\ndata_dir = \"{dir}/data\"\nruntime_dir = \"{dir}/run\"\n\
             [transport]\nlisten = \"127.0.0.1:{port}\"\nca = \"{dir}/pki/ca.pem\"\ncert = \"{dir}/pki/node.pem\"\n\
             key = \"{dir}/pki/node.key\"\n[journal]\nbudget_bytes = \"16MiB\"\nsegment_bytes = \"4MiB\"\n\
             engine = \"threads\"\n[store]\nscrub_interval_s = 0\n"
        );
        for peer in SITES.iter().filter(|peer| **peer != site) {
            let address = format!("127.0.0.1:{}", self.ports[index(peer)]);
            let node = self.nodes[index(peer)];
            text += &format!("[[peers]]\nsite = \"{peer}\"\nnode = \"{node}\"\naddress = \"{address}\"\n");
        }
        Config::parse(&self.site_dir(site).join("replicator.toml"), &text).expect("a good configuration")
    }

    pub fn start(&mut self, site: &str) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        // A child that another test is just starting has the journal's lock until it runs its own program.
        let start = || runtime.block_on(Node::start(self.config(site)));
        let node = eventually("a node to start", start);
        self.running[index(site)] = Some(Running { node, runtime });
    }

    pub fn stop(&mut self, site: &str) {
        let Running { node, runtime } = self.running[index(site)].take().expect("it runs");
        runtime.block_on(node.stop());
        drop(node);
        runtime.shutdown_timeout(END_PATIENCE);
    }

    fn running(&self, site: &str) -> &Running {
        self.running[index(site)].as_ref().expect("it runs")
    }

    pub fn connected(&self) {
        let all: Vec<&Running> = self.running.iter().flatten().collect();
        for one in &all {
            eventually("the nodes to be connected", || {
                let far = all.iter().find(|other| !one.node.is_connected(&other.node.shared.me));
                far.map_or(Ok(()), |other| Err(other.node.shared.me.clone()))
            });
        }
    }

    pub fn volume(&self, site: &str) -> Arc<VolumeHandle> {
        self.running(site).node.find("pg").expect("the volume is held there")
    }

    /// Has a node do something about its volume.
    pub fn on<T, F: Future<Output = T>>(&self, site: &str, work: impl FnOnce(Arc<Node>, Arc<VolumeHandle>) -> F) -> T {
        let running = self.running(site);
        running.runtime.block_on(work(running.node.clone(), self.volume(site)))
    }

    pub fn at<T, F: Future<Output = T>>(&self, site: &str, work: impl FnOnce(Arc<Node>) -> F) -> T {
        let running = self.running(site);
        running.runtime.block_on(work(running.node.clone()))
    }

    /// As [`Stage::on`], again and again until the verb is carried out.
    pub fn verb<T, F: Future<Output = Result<T, OpError>>>(
        &self,
        what: &str,
        site: &str,
        work: impl Fn(Arc<Node>, Arc<VolumeHandle>) -> F,
    ) -> T {
        eventually(what, || self.on(site, &work))
    }

    /// Something that goes on while others are looked at.
    pub fn spawn<F: Future<Output = ()> + Send + 'static>(&self, site: &str, work: F) {
        drop(self.running(site).runtime.spawn(work));
    }

    pub fn status(&self, site: &str) -> Status {
        self.on(site, |_, volume| async move { volume.status().await }).expect("the volume runs")
    }

    /// Waits until the volume, as its holder sees it, is on all copies.
    pub fn in_sync(&self, holder: &str) {
        eventually("all copies to be in sync", || {
            let status = self.status(holder);
            let good = status.role == "primary"
                && status.members.len() + 1 >= SITES.len()
                && status.members.iter().all(|m| m.in_sync_set && m.lag_records == 0);
            if good { Ok(()) } else { Err(format!("{} {} {:?}", status.role, status.state, status.members)) }
        });
    }

    /// As [`Stage::in_sync`], when one of the three is away.
    pub fn in_sync_but_one(&self, holder: &str) {
        eventually("the others to be in sync", || {
            let status = self.status(holder);
            let behind = status.members.iter().filter(|m| m.durable < status.acked).count();
            if behind <= 1 { Ok(()) } else { Err(behind) }
        });
    }

    /// Waits until everything durable is in the store.
    pub fn applied(&self, site: &str) {
        eventually("everything to be applied", || {
            let status = self.status(site);
            if status.applied == status.durable { Ok(()) } else { Err(status.applied) }
        });
    }

    /// Equal positions, equal bytes: waits until all copies stand at the same seq, and compares their digests.
    pub fn same_everywhere(&self) {
        let digests = eventually("all copies to stand at one seq", || {
            let digest = |site: &&str| {
                let id = self.volume(site).id;
                let digest = self.running(site).node.shared.store.digest(id).map_err(|e| format!("{site}: {e}"))?;
                Ok::<_, String>((digest.seq, digest.size_bytes, digest.digest))
            };
            let found = SITES.iter().map(digest).collect::<Result<Vec<_>, String>>()?;
            let end = SITES.iter().map(|site| self.status(site).durable).max();
            if found.iter().all(|(seq, ..)| Some(*seq) == end) { Ok(found) } else { Err(format!("{end:?} {found:?}")) }
        });
        assert!(digests.iter().all(|digest| *digest == digests[0]), "equal positions, other bytes: {digests:?}");
    }

    pub fn wipe(&self, site: &str) {
        std::fs::remove_dir_all(self.data_dir(site)).expect("a directory can be wiped");
    }

    /// Damages every block that a stopped site stores.
    pub fn rot(&self, site: &str) {
        let slab = File::options().read(true).write(true).open(self.data_dir(site).join("store/slab")).expect("a slab");
        // The first place is the slab's header.
        for at in (65536 + 2000..16 * 65536).step_by(4096) {
            let mut byte = [0];
            slab.read_exact_at(&mut byte, at).expect("a byte to damage");
            slab.write_all_at(&[byte[0] ^ 0x20], at).expect("a byte to damage");
        }
    }
}

/// A test that fails does not wait for what still tries.
impl Drop for Stage {
    fn drop(&mut self) {
        for Running { node, runtime } in self.running.drain(..).flatten() {
            drop(node);
            runtime.shutdown_background();
        }
    }
}

fn index(site: &str) -> usize {
    SITES.iter().position(|s| *s == site).expect("one of the sites")
}
