//! PersistentVolumes and claims that follow their volume into this cluster and out of it again.

use farshore_csi::claims::{Kubernetes, settle};
use farshore_csi::replicator::Replicator;
use serde_json::json;

use crate::apiserver::ApiServer;
use crate::driver::Driver;

const PV: &str = "/api/v1/persistentvolumes/pvc-1";
const CLAIM: &str = "/api/v1/namespaces/shop/persistentvolumeclaims/orders";

struct Scene {
    driver: Driver,
    server: ApiServer,
    kubernetes: Kubernetes,
    id: String,
}

impl Scene {
    /// A volume with copies in east, which is this site, and in west, made by the cluster of that uid for claim shop/orders.
    async fn of_cluster(uid: &str) -> Scene {
        let driver = Driver::start().await;
        let id = driver.volume("pvc-1").await;
        driver.fake.world().change(&id, |volume| {
            for (key, value) in [
                ("csi.storage.k8s.io/pvc/name", "orders"),
                ("csi.storage.k8s.io/pvc/namespace", "shop"),
                ("csi.storage.k8s.io/pv/name", "pvc-1"),
                ("csi.farshore.io/cluster", uid),
                ("csi.farshore.io/storage-class", "metro"),
                ("csi.farshore.io/access-modes", "ReadWriteOnce"),
            ] {
                volume.labels.insert(key.into(), value.into());
            }
        });
        let server = ApiServer::of("here");
        server.put("/api/v1/namespaces/shop", json!({"metadata": {"name": "shop"}}));
        let kubernetes = server.client();
        Scene { driver, server, kubernetes, id }
    }

    fn led_in(&self, site: &str) {
        self.driver.fake.world().change(&self.id, |volume| volume.primary_site = site.into());
    }

    /// Looks until there is nothing more to do.
    async fn settled(&self, claims_in: &[&str]) {
        let replicator = Replicator::new(&self.driver.dir.path().join("replicator.sock"));
        let claims_in: Vec<String> = claims_in.iter().map(|namespace| namespace.to_string()).collect();
        for _ in 0..10 {
            let look = settle(&replicator, &self.kubernetes, &claims_in).await.unwrap();
            assert!(look.failed.is_empty(), "{:?}", look.failed);
            if !look.acted {
                return;
            }
        }
        panic!("it never comes to rest: {:?}", self.server.paths());
    }
}

#[tokio::test]
async fn a_volume_that_came_here_is_shown_and_on_its_way_back_no_more() {
    let scene = Scene::of_cluster("there").await;
    scene.led_in("west");
    scene.settled(&["*"]).await;
    assert!(scene.server.paths().is_empty());
    scene.led_in("east");
    scene.settled(&[]).await;
    assert_eq!(scene.server.paths(), [PV], "a claim only where that was asked for");
    scene.settled(&["crm"]).await;
    assert_eq!(scene.server.paths(), [PV]);
    scene.settled(&["crm", "shop"]).await;
    assert_eq!(scene.server.paths(), [CLAIM, PV]);
    let (pv, claim) = (scene.server.get(PV).unwrap(), scene.server.get(CLAIM).unwrap());
    assert_eq!(pv["spec"]["csi"]["volumeHandle"], scene.id.as_str());
    assert_eq!((&claim["spec"]["volumeName"], &claim["spec"]["storageClassName"]), (&json!("pvc-1"), &json!("metro")));
    // Back again, and somebody still uses it.
    scene.led_in("west");
    let volumes = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "orders"}}]);
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [], "volumes": volumes}});
    scene.server.put("/api/v1/namespaces/shop/pods/p", pod);
    scene.settled(&["*"]).await;
    assert!(scene.server.get(CLAIM).is_some() && scene.server.get(PV).is_some());
    scene.server.remove("/api/v1/namespaces/shop/pods/p");
    let attachment = json!({
        "metadata": {"name": "a"},
        "spec": {"attacher": "csi.farshore.io", "nodeName": "n1", "source": {"persistentVolumeName": "pvc-1"}}
    });
    scene.server.put("/apis/storage.k8s.io/v1/volumeattachments/a", attachment);
    scene.settled(&["*"]).await;
    assert!(scene.server.get(CLAIM).is_some() && scene.server.get(PV).is_some());
    scene.server.remove("/apis/storage.k8s.io/v1/volumeattachments/a");
    scene.settled(&["*"]).await;
    assert!(scene.server.paths().is_empty(), "{:?}", scene.server.paths());
}

#[tokio::test]
async fn what_the_provisioner_makes_is_left_to_it_and_a_takeover_is_told() {
    let scene = Scene::of_cluster("here").await;
    scene.settled(&["*"]).await;
    assert!(scene.server.paths().is_empty(), "it may be making the very same now");
    scene.server.put(CLAIM, json!({"metadata": {"name": "orders", "namespace": "shop", "uid": "u"}, "spec": {}}));
    scene.settled(&["*"]).await;
    assert_eq!(scene.server.paths(), [CLAIM]);
    scene.led_in("west");
    scene.settled(&["*"]).await;
    scene.settled(&["*"]).await;
    let events: Vec<String> = scene.server.paths().into_iter().filter(|path| path.contains("/events/")).collect();
    assert_eq!(events.len(), 1, "the same news is told once: {events:?}");
    let event = scene.server.get(&events[0]).unwrap();
    assert_eq!((&event["reason"], &event["involvedObject"]["name"]), (&json!("LedInAnotherSite"), &json!("orders")));
    let message = event["message"].as_str().unwrap();
    assert!(
        message.contains("led in site west") && message.contains("farshore switchover pvc-1 --to east"),
        "{message}"
    );
}

#[tokio::test]
async fn what_somebody_else_made_is_not_touched() {
    let scene = Scene::of_cluster("there").await;
    for spec in [json!({}), json!({"csi": {"driver": "csi.farshore.io", "volumeHandle": scene.id}})] {
        scene.server.put(PV, json!({"metadata": {"name": "pvc-1", "uid": "u"}, "spec": spec}));
        for site in ["east", "west"] {
            scene.led_in(site);
            scene.settled(&["*"]).await;
            assert_eq!(scene.server.paths(), [PV], "{spec} while led in {site}");
        }
    }
}

#[tokio::test]
async fn a_users_claim_keeps_its_volume_and_a_deleted_volume_is_shown_no_more() {
    let scene = Scene::of_cluster("there").await;
    scene.settled(&[]).await;
    let bound =
        json!({"metadata": {"name": "orders", "namespace": "shop", "uid": "u"}, "spec": {"volumeName": "pvc-1"}});
    scene.server.put(CLAIM, bound.clone());
    scene.led_in("west");
    scene.settled(&["*"]).await;
    assert_eq!(scene.server.paths(), [CLAIM, PV]);
    scene.server.remove(CLAIM);
    scene.settled(&["*"]).await;
    assert!(scene.server.paths().is_empty());
    // Its claim is deleted while it is led here: it is reserved for the next one of that name.
    scene.led_in("east");
    scene.settled(&[]).await;
    let mut released = scene.server.get(PV).unwrap();
    released["status"] = json!({"phase": "Released"});
    scene.server.put(PV, released);
    scene.settled(&[]).await;
    assert!(scene.server.get(PV).unwrap()["status"].is_null(), "it was made anew");
    scene.driver.fake.world().volumes.clear();
    scene.settled(&[]).await;
    assert!(scene.server.paths().is_empty());
}

/// A failover brings many; the API server refuses what it says of one of them, and its neighbours are shown all the same.
#[tokio::test]
async fn one_that_fails_stops_nobody_elses() {
    let scene = Scene::of_cluster("there").await;
    for name in ["pvc-0", "pvc-2"] {
        let id = scene.driver.volume(name).await;
        let labels = scene.driver.fake.world().find(&scene.id).unwrap().labels;
        scene.driver.fake.world().change(&id, |volume| {
            volume.labels.extend(labels);
            volume.labels.insert("csi.storage.k8s.io/pvc/name".into(), format!("orders-{name}"));
            volume.labels.insert("csi.storage.k8s.io/pv/name".into(), name.into());
            volume.primary_site = "east".into();
        });
    }
    scene.led_in("east");
    // Taken over, and what its claim says can't be read.
    let moved = scene.driver.volume("pvc-3").await;
    scene.driver.fake.world().change(&moved, |volume| {
        for (key, value) in [
            ("csi.storage.k8s.io/pvc/name", "bad"),
            ("csi.storage.k8s.io/pvc/namespace", "shop"),
            ("csi.storage.k8s.io/pv/name", "pvc-3"),
            ("csi.farshore.io/cluster", "here"),
        ] {
            volume.labels.insert(key.into(), value.into());
        }
        volume.primary_site = "west".into();
    });
    for claim in ["orders", "bad"] {
        scene
            .server
            .put(&format!("/api/v1/namespaces/shop/persistentvolumeclaims/{claim}"), json!({"spec": "no claim"}));
    }
    let replicator = Replicator::new(&scene.driver.dir.path().join("replicator.sock"));
    let mut look = settle(&replicator, &scene.kubernetes, &["*".into()]).await.unwrap();
    while look.acted {
        look = settle(&replicator, &scene.kubernetes, &["*".into()]).await.unwrap();
    }
    let failed: Vec<&String> = look.failed.keys().collect();
    assert_eq!(failed, ["pvc-1", "pvc-3"], "{:?}", look.failed);
    for name in ["pvc-0", "pvc-2"] {
        assert!(scene.server.get(&format!("/api/v1/persistentvolumes/{name}")).is_some(), "{name}");
        let claim = format!("/api/v1/namespaces/shop/persistentvolumeclaims/orders-{name}");
        assert!(scene.server.get(&claim).is_some(), "{name}");
    }
    assert!(scene.server.get(PV).is_none());
}
