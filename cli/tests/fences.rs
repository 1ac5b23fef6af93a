//! `farshore fence` and `unfence` against a control server with the fake engine.

mod fake_site;

use fake_site::site;

#[test]
fn a_site_is_fenced_and_unfenced() {
    let site = site();
    assert_eq!(site.json(&["fence", "west", "pg"])["fenced_sites"][0], "west");
    let all = site.json(&["unfence", "west"]);
    assert!(all["results"].as_array().unwrap().iter().all(|r| r["ok"] == true), "{all:#}");
    assert!(site.fails(2, &["fence", "west/n1"]).contains("a fence is for a site"));
    assert!(site.fails(2, &["fence"]).contains("SITE"));
    let error = site.fails(3, &["fence", "south"]);
    assert!(error.contains("\"south\"") && error.contains("farshore volume list"), "{error}");
}
