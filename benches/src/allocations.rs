//! How often memory is asked for per request: three sites in this process, whose allocator counts (`counting`), with fio
//! at the first one's NBD export.

use std::path::Path;
use std::sync::Arc;

use farshore_replicator::config::Config;
use farshore_replicator::control::ControlServer;
use farshore_replicator::engine::Node;
use farshore_tests::cluster::{Cluster, Options, Site};
use serde::Serialize;
use tokio::runtime::{Builder, Runtime};

use crate::counting::{Count, Part, this_thread_is_of};
use crate::fio::{self, Extent, Target};
use crate::stage::SITES;
use crate::table::{markdown, number};
use crate::workload::Workload;

const WORKLOADS: [&str; 5] =
    ["randwrite-4k-qd1", "randwrite-4k-qd64", "write-128k-qd8", "randread-4k-qd1", "randread-4k-qd64"];
const VOLUME: &str = "counted";

/// Calls of the allocator per request, and bytes asked for.
#[derive(Debug, Clone, Serialize)]
pub struct Allocations {
    pub workload: String,
    pub primary: f64,
    pub primary_bytes: f64,
    /// Each of the two.
    pub secondary: f64,
    pub secondary_bytes: f64,
    /// The threads that write the three journals, and the benchmark itself.
    pub journals: f64,
}

/// A site that runs in this process.
struct Inside {
    runtime: Runtime,
    node: Arc<Node>,
    control: Option<ControlServer>,
}

impl Inside {
    fn start(site: &Site, part: Part) -> Result<Inside, String> {
        let config = Config::load(&site.config_path()).map_err(|e| e.to_string())?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(config.node.workers())
            .on_thread_start(move || this_thread_is_of(part))
            .enable_all()
            .build()
            .map_err(|e| format!("starting a runtime: {e}"))?;
        let socket = config.control.socket.clone();
        let (node, control) = runtime
            .block_on(async {
                let node = Node::start(config).await.map_err(|e| e.to_string())?;
                let control = ControlServer::start(&socket, node.clone()).await.map_err(|e| e.to_string())?;
                Ok((node, control))
            })
            .map_err(|e: String| format!("starting {}: {e}", site.name))?;
        Ok(Inside { runtime, node, control: Some(control) })
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let (node, control) = (self.node.clone(), self.control.take());
        self.runtime.block_on(async {
            if let Some(control) = control {
                let _ = control.stop().await;
            }
            node.stop().await;
        });
    }
}

pub fn measure(dir: &Path, seconds: u64) -> Result<Vec<Allocations>, String> {
    let options = Options {
        journal_budget: "256MiB",
        idle_timeout_ms: 3000,
        below: Some(dir.to_path_buf()),
        ..Options::default()
    };
    let cluster = Cluster::lay_out(&SITES, options);
    let parts = [Part::Primary, Part::Secondaries, Part::Secondaries];
    let inside: Result<Vec<Inside>, String> =
        cluster.sites.iter().zip(parts).map(|(site, part)| Inside::start(site, part)).collect();
    let inside = inside?;
    cluster.wait_connected();
    let east = cluster.site(SITES[0]);
    east.run(&["volume", "create", VOLUME, "--size=128MiB", "--members", &SITES.join(",")]);
    east.run(&["volume", "attach", VOLUME, "--device", "nbd"]);
    let target = Target::Nbd { socket: east.nbd_socket(), export: VOLUME.into() };
    fio::fill(&target)?;
    let measured = WORKLOADS.iter().map(|name| count(&target, name.parse()?, seconds)).collect();
    east.run(&["volume", "detach", VOLUME]);
    drop(inside);
    measured
}

fn count(target: &Target, workload: Workload, seconds: u64) -> Result<Allocations, String> {
    let parts = [Part::Primary, Part::Secondaries, Part::Others];
    let before = parts.map(Count::so_far);
    let outcome = fio::run(target, workload, Extent::Seconds(seconds), &[])?;
    let used = [0, 1, 2].map(|i| Count::so_far(parts[i]).since(before[i]));
    let per_io = |count: u64| count as f64 / outcome.ios.max(1) as f64;
    Ok(Allocations {
        workload: workload.to_string(),
        primary: per_io(used[0].calls),
        primary_bytes: per_io(used[0].bytes),
        secondary: per_io(used[1].calls) / 2.0,
        secondary_bytes: per_io(used[1].bytes) / 2.0,
        journals: per_io(used[2].calls),
    })
}

/// The part of the report.
pub fn text(all: &[Allocations]) -> String {
    if all.is_empty() {
        return String::new();
    }
    let row = |a: &Allocations| {
        let numbers = [a.primary, a.primary_bytes, a.secondary, a.secondary_bytes, a.journals];
        [a.workload.clone()].into_iter().chain(numbers.map(number)).collect()
    };
    let rows: Vec<Vec<String>> = all.iter().map(row).collect();
    let headings =
        ["workload", "primary, calls per request", "bytes", "each secondary, calls", "bytes", "three journals, calls"];
    format!(
        "\n## Allocations\n\nCalls of the allocator per request, growing included, and bytes asked for: three sites in one \
        process, over NBD on loopback. What happens afterwards and in between is included; what RocksDB does inside is \
        not.\n\n{}",
        markdown(&headings, 1, &rows)
    )
}
