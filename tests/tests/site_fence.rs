//! `fence` and `unfence`: a site that may not be the primary's, whether it is heard or not.

use farshore_tests::cluster::{Cluster, Ledger, Network, Options, Site, Writers, eventually, member};

const SITES: [&str; 3] = ["east", "west", "north"];
const BLOCKS: usize = 256;
const CREATE: [&str; 6] = ["volume", "create", "pg", "--size=1MiB", "--members=east,west,north", "--lease=1s"];

fn written_in_east(cluster: &Cluster) -> std::sync::Arc<Ledger> {
    let east = cluster.site("east");
    east.run(&CREATE);
    let ledger = Ledger::of_new(BLOCKS);
    ledger.fill(&mut east.attach("pg"));
    cluster.wait_in_sync("east", "pg");
    ledger
}

fn refuses_to_lead(site: &Site) {
    let words = ["is fenced", "farshore unfence east pg"];
    site.refused(&["promote", "pg"]).says(4, &words);
    site.refused(&["volume", "attach", "pg", "--device", "nbd"]).says(4, &words);
}

fn goes_on_in_west(cluster: &Cluster, ledger: &Ledger) {
    let west = cluster.site("west");
    west.run(&["promote", "pg"]);
    ledger.check_all(&mut west.attach("pg"));
    ledger.fill(&mut west.connect("pg"));
    west.run(&["volume", "detach", "pg"]);
    west.refused(&["switchover", "pg", "--to", "east"]).says(4, &["is fenced", "farshore unfence east pg"]);
}

/// Asked where the volume is not.
fn lifted(cluster: &Cluster, ledger: &Ledger) {
    let [east, west, north] = SITES.map(|s| cluster.site(s));
    cluster.wait_in_sync("west", "pg");
    let open = north.run(&["unfence", "east", "pg"]);
    assert_eq!(open["fenced_sites"].as_array().map(Vec::len), Some(0), "{open:#}");
    west.run(&["switchover", "pg", "--to", "east"]);
    ledger.check_all(&mut east.attach("pg"));
}

#[test]
fn a_fenced_sites_device_fails_and_it_leads_no_more_until_it_is_unfenced() {
    let cluster = Cluster::start(&SITES);
    let [east, west, north] = SITES.map(|s| cluster.site(s));
    let ledger = written_in_east(&cluster);
    let writers = Writers::start(&ledger, east.nbd_socket(), "pg", 2);
    writers.wait_for(50);
    north.refused(&["fence", "south", "pg"]).says(2, &["no member in site south", "east, west, north"]);
    north.refused(&["fence", "south"]).says(3, &["no such volume", "south"]);
    // All volumes of the site: there is one.
    let fenced = north.run(&["fence", "east"]);
    assert_eq!(fenced["results"][0]["ok"], true, "{fenced:#}");
    // Not one more is acknowledged from here on.
    let acked = writers.acked();
    eventually("the writers to be told", || if writers.failed() > 0 { Ok(()) } else { Err("no failure") });
    assert_eq!(writers.acked(), acked, "a fenced site acknowledged a write");
    drop(writers);
    refuses_to_lead(east);
    let shown = west.wait_volume("pg", "the fence to be shown", |v| v["fenced_sites"][0] == "east");
    assert!(shown["conditions"].to_string().contains("site-fenced"), "{shown:#}");
    goes_on_in_west(&cluster, &ledger);
    // The same again changes nothing.
    west.run(&["fence", "east", "pg"]);
    west.run(&["fence", "west", "pg"]);
    east.refused(&["fence", "north", "pg"]).says(4, &["could be written nowhere"]);
    north.run(&["unfence", "west", "pg"]);
    west.run(&["promote", "pg"]);
    lifted(&cluster, &ledger);
}

#[test]
fn a_site_that_was_lost_is_fenced_and_returns_fenced() {
    let cluster = Cluster::start(&SITES);
    let [east, west, _] = SITES.map(|s| cluster.site(s));
    let ledger = written_in_east(&cluster);
    east.kill();
    west.run(&["fence", "east", "pg"]);
    east.start();
    cluster.wait_connected();
    // Its register may be the old one still: it is what the others hold that counts.
    refuses_to_lead(east);
    goes_on_in_west(&cluster, &ledger);
    lifted(&cluster, &ledger);
}

#[test]
fn a_site_that_is_cut_off_is_fenced_behind_its_back() {
    let test = "a_site_that_is_cut_off_is_fenced_behind_its_back";
    let cluster = match Network::lay(SITES.len()) {
        Ok(network) => Cluster::lay_out_in(&SITES, Options::default(), Some(network)),
        Err(why) => return println!("SKIP {test}: no network namespaces here: {why}"),
    };
    cluster.launch();
    let [east, west, _] = SITES.map(|s| cluster.site(s));
    let ledger = written_in_east(&cluster);
    let network = cluster.network.as_ref().expect("these sites are apart");
    let writers = Writers::start(&ledger, east.nbd_socket(), "pg", 2);
    writers.wait_for(50);
    network.isolate(0);
    west.wait_volume("pg", "east to be gone", |v| member(v, "east")["connected"] == false);
    west.run(&["fence", "east", "pg"]);
    let acked = writers.acked();
    network.heal();
    cluster.wait_connected();
    east.wait_volume("pg", "east to know", |v| v["fenced_sites"][0] == "east");
    eventually("the writers to be told", || if writers.failed() > 0 { Ok(()) } else { Err("no failure") });
    assert_eq!(writers.acked(), acked, "a fenced site acknowledged a write");
    drop(writers);
    refuses_to_lead(east);
    goes_on_in_west(&cluster, &ledger);
    lifted(&cluster, &ledger);
}
