//! What volumes cost that do nothing.

use std::time::{Duration, Instant};

use farshore_tests::cluster::{Cluster, Options, Site};

const VOLUMES: usize = 100;
const RSS_MAX_KIB: u64 = 200 << 10;
/// Of one core, at rest with every volume attached.
const CPU_MAX_PERCENT: f64 = 30.0;

fn resident_kib(site: &Site) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", site.pid())).expect("a running daemon");
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).expect("the kernel tells");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number of KiB")
}

fn cpu_seconds(site: &Site) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", site.pid())).expect("a running daemon");
    // After the name in parentheses: state is field 3, user and system time are 14 and 15, in hundredths.
    let fields: Vec<&str> = stat.rsplit(')').next().expect("a name").split_whitespace().collect();
    let ticks: u64 = [11, 12].iter().map(|i| fields[*i].parse::<u64>().expect("ticks")).sum();
    ticks as f64 / 100.0
}

#[test]
fn a_hundred_idle_volumes_cost_little() {
    // Each has its part of the journal. The segments are made when they are needed.
    let options = Options { journal_budget: "448MiB", ..Options::default() };
    let cluster = Cluster::start_with(&["east", "west", "north"], options);
    let east = cluster.site("east");
    let began = Instant::now();
    for n in 0..VOLUMES {
        let name = format!("v{n}");
        east.run(&["volume", "create", &name, "--size=1GiB", "--members=east,west,north"]);
        east.run(&["volume", "attach", &name, "--device", "nbd"]);
    }
    println!("{VOLUMES} volumes created and attached in {} ms", began.elapsed().as_millis());
    // Let what was begun come to its end: two checkpoints.
    std::thread::sleep(Duration::from_secs(5));
    let (before, began) = (cluster.sites.iter().map(cpu_seconds).collect::<Vec<_>>(), Instant::now());
    std::thread::sleep(Duration::from_secs(4));
    let seconds = began.elapsed().as_secs_f64();
    for (site, before) in cluster.sites.iter().zip(before) {
        let percent = (cpu_seconds(site) - before) / seconds * 100.0;
        let rss = resident_kib(site);
        println!("{}: {} MiB resident, {percent:.1} % of a core at rest", site.name, rss >> 10);
        assert!(rss <= RSS_MAX_KIB, "{} takes {} MiB for {VOLUMES} idle volumes", site.name, rss >> 10);
        assert!(percent < CPU_MAX_PERCENT, "{} is busy at rest: {percent:.1} %", site.name);
    }
    let listed = east.run(&["volume", "list"]);
    assert_eq!(listed["volumes"].as_array().map(Vec::len), Some(VOLUMES));
}
