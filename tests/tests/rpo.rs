//! What status says that a loss would cost: exact beside the primary, elsewhere never less than it turns out to be.

use std::time::{Duration, Instant};

use farshore_tests::cluster::{Cluster, Ledger, Options, Site, Writers, eventually};
use farshore_wan::Conditions;
use serde_json::Value;

const SITES: [&str; 3] = ["east", "west", "north"];
const BLOCKS: usize = 512;
/// Of which a member has not been told yet that they are acknowledged, at most.
const LAST_WORDS: u64 = 20;
/// So long west hears nothing, at least.
const AWAY: Duration = Duration::from_secs(2);
/// A line on which there is always something on its way.
const FAR: Duration = Duration::from_millis(300);

fn figure<'a>(volume: &'a Value, site: &str) -> &'a Value {
    let figures = volume["loss"].as_array().into_iter().flatten();
    figures.into_iter().find(|loss| loss["site"] == site).unwrap_or_else(|| panic!("no figure of {site}: {volume:#}"))
}

fn number(volume: &Value, site: &str, field: &str) -> u64 {
    figure(volume, site)[field].as_u64().unwrap_or_else(|| panic!("{field} of {site}: {volume:#}"))
}

fn is_exact(site: &Site, volume: &str) -> Value {
    site.wait_volume(volume, "exact figures", |v| SITES.iter().all(|s| figure(v, s)["exact"] == true))
}

#[test]
fn a_site_that_was_cut_off_says_what_it_can_not_know_and_others_in_reach_narrow_it() {
    let cluster = Cluster::start(&SITES);
    let [east, west, north] = SITES.map(|s| cluster.site(s));
    east.run(&["volume", "create", "pg", "--size=2MiB", "--members=east,west,north", "--lease=1s"]);
    let ledger = Ledger::of_new(BLOCKS);
    ledger.fill(&mut east.attach("pg"));
    cluster.wait_in_sync("east", "pg");
    for site in [east, west] {
        let all = is_exact(site, "pg");
        assert!(SITES.iter().all(|s| number(&all, s, "promote_records") == 0), "{all:#}");
    }
    // West misses what the others acknowledge; then the primary is lost.
    west.pause();
    let away = Instant::now();
    let writers = Writers::start(&ledger, east.nbd_socket(), "pg", 2);
    writers.wait_for(100);
    let missed = writers.stop();
    std::thread::sleep(AWAY);
    east.kill();
    north.pause();
    west.resume();
    let alone = west.wait_volume("pg", "the loss of the others to be noticed", |v| figure(v, "west")["exact"] == false);
    let unknown = number(&alone, "west", "unknown_ms");
    assert!(
        unknown as u128 + 1 >= AWAY.as_millis() && unknown as u128 <= away.elapsed().as_millis() + 60_000,
        "{alone:#}"
    );
    // North has all of it: asked, it tells how much west lacks. What was acknowledged last it may not have been told.
    north.resume();
    let known = missed - LAST_WORDS;
    let narrowed = west.wait_volume("pg", "north's word", |v| number(v, "west", "promote_records") >= known);
    assert_eq!(number(&narrowed, "north", "promote_records"), 0, "{narrowed:#}");
    // Who has it knows how much that is.
    let sized = west.wait_volume("pg", "north to tell how much", |v| figure(v, "west")["promote_bytes"].is_u64());
    assert!(number(&sized, "west", "promote_bytes") >= known * 1024, "{sized:#}");
    assert!(number(&sized, "west", "promote_ms") as u128 + 1 >= AWAY.as_millis(), "{sized:#}");
    // What a forced promotion says that it would give up is the same figure; nothing is done without a yes.
    let plan = west.refused(&["promote", "pg", "--force", "--members", "west"]);
    plan.says(4, &["add --yes", "\"exact\": false"]);
    let (_, told) = plan.text.split_once("\"lost_records\": ").expect("a figure");
    let told: String = told.chars().take_while(char::is_ascii_digit).collect();
    assert!(told.parse::<u64>().is_ok_and(|told| told >= known), "{known} are missing at least: {plan:?}");
    // With north nothing is lost, whatever west lacks.
    west.run(&["failover", "--from", "east"]);
    let after = is_exact(west, "pg");
    assert!(SITES.iter().all(|s| number(&after, s, "unknown_ms") == 0), "figures of the old role are gone: {after:#}");
    ledger.check_all(&mut west.attach("pg"));
}

/// What a forced promotion of that member alone says that it would give up. Nothing is done.
fn plan(site: &Site, member: &str) -> Value {
    let plan = site.refused(&["promote", "pg", "--force", "--members", member]);
    plan.says(4, &["add --yes"]);
    let from = plan.text.find('{').unwrap_or_else(|| panic!("no plan: {plan:?}"));
    let first = serde_json::Deserializer::from_str(&plan.text[from..]).into_iter().next();
    first.and_then(Result::ok).unwrap_or_else(|| panic!("no plan: {plan:?}"))
}

#[test]
fn a_force_that_names_one_copy_does_not_count_on_its_neighbour() {
    let cluster = Cluster::start(&["east", "west", "west/n2"]);
    let [east, west, second] = ["east", "west", "west/n2"].map(|s| cluster.site(s));
    east.run(&["volume", "create", "pg", "--size=2MiB", "--members=east,west/n1,west/n2", "--lease=1s"]);
    let ledger = Ledger::of_new(BLOCKS);
    ledger.fill(&mut east.attach("pg"));
    cluster.wait_in_sync("east", "pg");
    second.pause();
    let writers = Writers::start(&ledger, east.nbd_socket(), "pg", 2);
    writers.wait_for(400);
    let missed = writers.stop();
    east.kill();
    second.resume();
    // The neighbour is in reach. Promoted, the site gives up little or nothing; forced from the second alone, it does.
    let known = missed / 2;
    let told = eventually("the neighbour's word", || {
        let plan = plan(second, "west/n2");
        let sized = plan["lost_bytes"].as_u64() >= Some(known * 1024);
        if plan["lost_records"].as_u64() >= Some(known) && sized { Ok(plan) } else { Err(plan) }
    });
    assert_eq!(told["exact"], false, "who knows what east has acknowledged since: {told:#}");
    let best = plan(west, "west/n1");
    assert!(best["lost_records"].as_u64() < Some(LAST_WORDS), "{best:#}");
    assert!(number(&second.volume("pg"), "west", "promote_records") < LAST_WORDS);
}

#[test]
fn a_force_beside_a_live_primary_says_what_the_copy_lacks() {
    let wan = Some(Conditions::of_rtt(Duration::from_millis(2)));
    let cluster = Cluster::start_with(&SITES, Options { wan, ..Options::default() });
    let [east, west, _] = SITES.map(|s| cluster.site(s));
    east.run(&["volume", "create", "pg", "--size=2MiB", "--members=east,west,north"]);
    let ledger = Ledger::of_new(BLOCKS);
    ledger.fill(&mut east.attach("pg"));
    cluster.wait_in_sync("east", "pg");
    cluster.wan.as_ref().expect("these sites are behind relays").link(0, 1).set(Conditions::of_rtt(FAR));
    let writers = Writers::start(&ledger, east.nbd_socket(), "pg", 2);
    // What north has acknowledged and is on its way to west.
    let told = eventually("a plan that gives something up", || {
        let plan = plan(west, "west");
        let lacks = ["lost_records", "lost_bytes"].iter().all(|field| plan[field].as_u64() > Some(0));
        if plan["exact"] == true && lacks { Ok(plan) } else { Err(plan) }
    });
    assert_eq!(number(&west.volume("pg"), "west", "promote_records"), 0, "promoted, it gets that: {told:#}");
    writers.stop();
}

#[test]
fn a_restarted_replica_without_its_primary_knows_that_it_knows_nothing() {
    let cluster = Cluster::start(&SITES);
    let [east, west, north] = SITES.map(|s| cluster.site(s));
    east.run(&["volume", "create", "pg", "--size=2MiB", "--members=east,west,north", "--lease=1s"]);
    Ledger::of_new(BLOCKS).fill(&mut east.attach("pg"));
    for site in [east, north, west] {
        site.kill();
    }
    west.start();
    let blind = west.volume("pg");
    assert_eq!(number(&blind, "west", "unknown_ms"), u64::MAX, "{blind:#}");
    assert!(SITES.iter().all(|s| figure(&blind, s)["exact"] == false), "{blind:#}");
}

/// Role, whether all was exact, and the epoch, of each span.
fn remembered(site: &Site) -> Vec<(String, bool, String)> {
    let past = site.run(&["volume", "losses", "pg"]);
    let text = |v: &Value| v.as_str().unwrap_or("").to_string();
    let spans = past["spans"].as_array().into_iter().flatten();
    let exact = |span: &Value| span["loss"].as_array().into_iter().flatten().all(|loss| loss["exact"] == true);
    spans.map(|span| (text(&span["role"]), exact(span), text(&span["epoch"]))).collect()
}

#[test]
fn what_losses_would_have_cost_is_remembered_by_each_node_for_each_of_its_roles() {
    let cluster = Cluster::start(&SITES);
    let [east, west, _] = SITES.map(|s| cluster.site(s));
    east.run(&["volume", "create", "pg", "--size=2MiB", "--members=east,west,north", "--lease=1s"]);
    let ledger = Ledger::of_new(BLOCKS);
    ledger.fill(&mut east.attach("pg"));
    cluster.wait_in_sync("east", "pg");
    eventually("exact figures of the primary", || {
        let all = remembered(east);
        if all.iter().any(|(role, exact, _)| role == "primary" && *exact) { Ok(()) } else { Err(all) }
    });
    // Beside it nobody calls anything exact.
    eventually("figures of a secondary", || {
        let all = remembered(west);
        if all.iter().any(|(role, exact, _)| role == "secondary" && !exact) { Ok(()) } else { Err(all) }
    });
    east.kill();
    west.run(&["failover", "--from", "east"]);
    let after = eventually("figures of the new primary", || {
        let all = remembered(west);
        if all.last().is_some_and(|(role, exact, _)| role == "primary" && *exact) { Ok(all) } else { Err(all) }
    });
    let epochs: std::collections::BTreeSet<&String> = after.iter().map(|(_, _, epoch)| epoch).collect();
    assert!(epochs.len() >= 2 && after.iter().any(|(role, ..)| role == "secondary"), "its past stays: {after:?}");
    west.refused(&["volume", "losses", "none"]).says(3, &["none"]);
}
