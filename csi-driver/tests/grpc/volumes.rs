//! Making, growing, listing, deleting.

use farshore_proto::csi;
use farshore_proto::csi::volume_capability::access_mode::Mode;
use farshore_proto::v1 as api;
use tonic::Code;

use crate::driver::{Driver, MIB, mounted, parameters, raw, wish, writer};

#[tokio::test]
async fn a_volume_is_made_once() {
    let driver = Driver::start().await;
    let mut request = wish("pvc-1");
    request.parameters.insert("csi.storage.k8s.io/pvc/name".into(), "data".into());
    let first = driver.create(request.clone()).await.unwrap();
    let again = driver.create(request).await.unwrap();
    assert_eq!(first, again);
    assert_eq!(first.capacity_bytes, 16 * MIB);
    let held = driver.fake.world().find("pvc-1").unwrap();
    // This cluster's site first, wherever the class names it.
    let sites: Vec<&str> = held.members.iter().map(|m| m.site.as_str()).collect();
    assert_eq!(sites, ["east", "west", "north"]);
    assert_eq!(held.labels["csi.farshore.io/name"], "pvc-1");
    assert_eq!(held.labels["csi.storage.k8s.io/pvc/name"], "data");
    let topology = &first.accessible_topology;
    assert_eq!(topology.len(), 1);
    assert_eq!(topology[0].segments["topology.farshore.io/site"], "east");
}

#[tokio::test]
async fn the_same_name_for_something_else_is_refused() {
    let driver = Driver::start().await;
    let id = driver.volume("pvc-1").await;
    type Spoil = fn(&mut csi::CreateVolumeRequest);
    let cases: [(&str, Spoil); 14] = [
        ("policy (mode, rpo)", |r| r.parameters.extend(parameters(&[("mode", "async"), ("rpo", "1min")]))),
        ("policy (mode, maxCommitLatency)", |r| {
            r.parameters.extend(parameters(&[("mode", "adaptive"), ("maxCommitLatency", "50ms")]));
        }),
        ("maxLag", |r| r.parameters.extend(parameters(&[("mode", "adaptive"), ("maxLag", "64Mi")]))),
        ("policy (fallback)", |r| drop(r.parameters.insert("fallback".into(), "after:30s".into()))),
        ("policy (promoteObserver)", |r| drop(r.parameters.insert("promoteObserver".into(), "true".into()))),
        ("policy (quorum)", |r| drop(r.parameters.insert("quorum".into(), "w=2".into()))),
        ("policy (onQuorumLoss)", |r| drop(r.parameters.insert("onQuorumLoss".into(), "fence:30s".into()))),
        ("policy (bandwidth)", |r| drop(r.parameters.insert("bandwidth".into(), "50Mi".into()))),
        ("policy", |r| drop(r.parameters.insert("iops".into(), "500".into()))),
        ("size", |r| r.capacity_range.as_mut().unwrap().required_bytes = 32 * MIB),
        ("size", |r| r.capacity_range = Some(csi::CapacityRange { required_bytes: 0, limit_bytes: 8 * MIB })),
        ("sites", |r| drop(r.parameters.insert("sites".into(), "east,west".into()))),
        ("policy", |r| drop(r.parameters.insert("durability".into(), "flush".into()))),
        ("policy", |r| drop(r.mutable_parameters.insert("quorum".into(), "all".into()))),
    ];
    for (what, spoil) in cases {
        let mut request = wish("pvc-1");
        spoil(&mut request);
        let status = driver.create(request).await.expect_err(what);
        assert_eq!(status.code(), Code::AlreadyExists, "{what}");
        assert!(status.message().contains(what), "{status}");
    }
    // Said or not, it is the same mode; and of numbers each one counts.
    let mut said = wish("pvc-1");
    said.parameters.insert("mode".into(), "sync".into());
    assert_eq!(driver.create(said).await.unwrap().volume_id, id);
    let mut counted = wish("pvc-2");
    for quorum in ["w=2,minRemote=1", "w=3,minRemote=1", "w=2", "w=2,minRemote=1,local"] {
        let known = driver.fake.world().volumes.len();
        counted.parameters.insert("quorum".into(), quorum.into());
        assert_eq!(driver.create(counted.clone()).await.is_ok(), known == 1, "{quorum}");
    }
    let mut copy = wish("pvc-1");
    let of = csi::volume_content_source::VolumeSource { volume_id: id };
    let source = csi::volume_content_source::Type::Volume(of);
    copy.volume_content_source = Some(csi::VolumeContentSource { r#type: Some(source) });
    assert_eq!(driver.create(copy).await.unwrap_err().code(), Code::AlreadyExists);
    // What somebody made by hand is nobody's claim.
    driver.fake.world().volumes.values_mut().for_each(|v| v.labels.clear());
    assert_eq!(driver.create(wish("pvc-1")).await.unwrap_err().code(), Code::AlreadyExists);
}

#[tokio::test]
async fn what_is_wrong_is_said_and_nothing_is_made() {
    let driver = Driver::start().await;
    type Spoil = fn(&mut csi::CreateVolumeRequest);
    let cases: [(&str, Code, Spoil); 12] = [
        ("name", Code::InvalidArgument, |r| r.name.clear()),
        ("volume_capabilities", Code::InvalidArgument, |r| r.volume_capabilities.clear()),
        ("ReadWriteOnce", Code::InvalidArgument, |r| r.volume_capabilities.push(raw(Mode::MultiNodeMultiWriter))),
        ("ext4, xfs, btrfs", Code::InvalidArgument, |r| {
            r.volume_capabilities[0] = mounted("zfs", Mode::SingleNodeWriter)
        }),
        ("314572800", Code::OutOfRange, |r| r.volume_capabilities[0] = mounted("xfs", Mode::SingleNodeWriter)),
        ("the known ones are", Code::InvalidArgument, |r| drop(r.parameters.insert("colour".into(), "red".into()))),
        ("not supported", Code::InvalidArgument, |r| drop(r.parameters.insert("reads".into(), "strict".into()))),
        ("known sites are", Code::InvalidArgument, |r| drop(r.parameters.insert("sites".into(), "east,mars".into()))),
        ("does not name east", Code::InvalidArgument, |r| drop(r.parameters.insert("sites".into(), "west".into()))),
        ("below zero", Code::InvalidArgument, |r| r.capacity_range.as_mut().unwrap().required_bytes = -1),
        ("limit", Code::OutOfRange, |r| {
            let range = r.capacity_range.as_mut().unwrap();
            (range.required_bytes, range.limit_bytes) = (16 * MIB + 1, 16 * MIB + 2);
        }),
        ("topology", Code::ResourceExhausted, |r| {
            let segments = parameters(&[("topology.farshore.io/site", "west")]);
            let requisite = vec![csi::Topology { segments }];
            r.accessibility_requirements = Some(csi::TopologyRequirement { requisite, preferred: Vec::new() });
        }),
    ];
    for (part, code, spoil) in cases {
        let mut request = wish("pvc-1");
        spoil(&mut request);
        let status = driver.create(request).await.expect_err(part);
        assert_eq!(status.code(), code, "{part}: {status}");
        assert!(status.message().contains(part), "{part}: {status}");
        assert!(status.details().is_empty());
    }
    assert!(driver.fake.world().asked.is_empty());
}

#[tokio::test]
async fn a_replicators_refusal_keeps_its_words_and_loses_its_details() {
    let driver = Driver::start().await;
    driver.fake.world().fail = Some((Code::FailedPrecondition, "the journal of east/n1 is full"));
    let status = driver.create(wish("pvc-1")).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "the journal of east/n1 is full"));
    assert!(status.details().is_empty());
}

#[tokio::test]
async fn the_schedulers_node_gets_the_copy() {
    let driver = Driver::start().await;
    let at = |node: &str| {
        let segments = parameters(&[("topology.farshore.io/site", "east"), ("topology.farshore.io/node", node)]);
        csi::Topology { segments }
    };
    for node in ["n1", "n2"] {
        let requisite = vec![at("n1"), at("n2")];
        let topology = csi::TopologyRequirement { requisite, preferred: vec![at(node)] };
        let request = csi::CreateVolumeRequest { accessibility_requirements: Some(topology), ..wish(node) };
        let made = driver.create(request).await.unwrap();
        assert_eq!(made.accessible_topology, [at(node)]);
    }
}

#[tokio::test]
async fn a_class_may_let_pods_run_where_no_copy_is() {
    let driver = Driver::start().await;
    let at = |node: &str| {
        let segments = parameters(&[("topology.farshore.io/site", "east"), ("topology.farshore.io/node", node)]);
        csi::Topology { segments }
    };
    let mut request = wish("pvc-1");
    request.parameters.insert("placement".into(), "any".into());
    request.parameters.insert("sites".into(), "east/n2,west".into());
    // The pod's node, and no other.
    let topology = csi::TopologyRequirement { requisite: vec![at("n1")], preferred: vec![at("n1")] };
    request.accessibility_requirements = Some(topology);
    let made = driver.create(request.clone()).await.unwrap();
    let whole = csi::Topology { segments: parameters(&[("topology.farshore.io/site", "east")]) };
    assert_eq!(made.accessible_topology, [whole]);
    assert_eq!(driver.create(request.clone()).await.unwrap(), made);
    let held = driver.fake.world().find("pvc-1").unwrap();
    assert_eq!(held.members[0].node, "n2");
    for placement in ["local", "any"] {
        request.name = format!("pvc-{placement}");
        request.parameters.insert("placement".into(), placement.into());
        let made = driver.create(request.clone()).await;
        assert_eq!(made.is_ok(), placement == "any", "{made:?}");
    }
    request.name = "pvc-1".into();
    request.accessibility_requirements = None;
    request.parameters.remove("placement");
    let other = driver.create(request).await.unwrap_err();
    assert!(other.code() == Code::AlreadyExists && other.message().contains("placement"), "{other}");
}

#[tokio::test]
async fn a_volume_that_lives_elsewhere_is_not_deleted_from_here() {
    let driver = Driver::start().await;
    let id = driver.volume("pvc-1").await;
    let delete = |id: &str| {
        let request = csi::DeleteVolumeRequest { volume_id: id.into(), ..Default::default() };
        let mut controller = driver.controller();
        async move { controller.delete_volume(request).await.map(drop).map_err(|status| status.code()) }
    };
    driver.fake.world().change(&id, |v| v.primary_site = "west".into());
    assert_eq!(delete(&id).await, Err(Code::FailedPrecondition));
    driver.fake.world().change(&id, |v| v.primary_site = "east".into());
    assert_eq!(delete(&id).await, Ok(()));
    for gone in [id.as_str(), "fake-vol-id-1", &"0".repeat(32)] {
        assert_eq!(delete(gone).await, Ok(()), "{gone}");
    }
    assert_eq!(delete("").await, Err(Code::InvalidArgument));
}

#[tokio::test]
async fn growing_needs_no_pod_and_never_shrinks() {
    let driver = Driver::start().await;
    let id = driver.volume("pvc-1").await;
    let grow = |required_bytes: i64, limit_bytes: i64| {
        let capacity_range = Some(csi::CapacityRange { required_bytes, limit_bytes });
        let request =
            csi::ControllerExpandVolumeRequest { volume_id: id.clone(), capacity_range, ..Default::default() };
        let mut controller = driver.controller();
        async move {
            let answer = controller.controller_expand_volume(request).await;
            answer.map(|a| a.into_inner().capacity_bytes).map_err(|status| status.code())
        }
    };
    // Nobody has written to it yet: this site takes the right to, and gives nobody a device.
    assert_eq!(grow(32 * MIB, 0).await, Ok(32 * MIB));
    assert_eq!(driver.fake.world().asked[1..], ["resize 33554432", "promote", "resize 33554432"]);
    assert_eq!(grow(32 * MIB, 0).await, Ok(32 * MIB));
    assert_eq!(grow(16 * MIB, 0).await, Ok(32 * MIB));
    assert_eq!(grow(0, 16 * MIB).await, Err(Code::OutOfRange));
    assert_eq!(grow(0, 0).await, Err(Code::InvalidArgument));
    assert_eq!(driver.fake.world().asked.len(), 4);
    // Of a volume that is primary elsewhere nothing is taken.
    driver.fake.world().change(&id, |v| {
        v.set_role(api::Role::Secondary);
        v.primary_site = "west".into();
    });
    assert_eq!(grow(64 * MIB, 0).await, Err(Code::FailedPrecondition));
    assert_eq!(driver.fake.world().asked.len(), 5);
}

#[tokio::test]
async fn lists_have_pages_and_say_where_volumes_are() {
    let driver = Driver::start().await;
    let mut ids = Vec::new();
    for name in ["a", "b", "c"] {
        ids.push(driver.volume(name).await);
    }
    ids.sort();
    driver.fake.world().change(&ids[1], |v| {
        v.attached = Some(api::Attachment { site: "east".into(), node: "n2".into(), ..Default::default() });
        v.state = "degraded".into();
        v.reason = "west is away".into();
    });
    let list = |starting_token: String, max_entries: i32| {
        let mut controller = driver.controller();
        async move { controller.list_volumes(csi::ListVolumesRequest { max_entries, starting_token }).await }
    };
    let first = list(String::new(), 2).await.unwrap().into_inner();
    let rest = list(first.next_token.clone(), 2).await.unwrap().into_inner();
    assert_eq!((first.entries.len(), rest.entries.len(), rest.next_token.as_str()), (2, 1, ""));
    let status = first.entries[1].status.as_ref().unwrap();
    assert_eq!(status.published_node_ids, ["east/n2"]);
    let condition = status.volume_condition.as_ref().unwrap();
    assert!(condition.abnormal && condition.message.contains("west is away"));
    assert_eq!(list("invalid-token".into(), 0).await.unwrap_err().code(), Code::Aborted);
    let request = csi::ControllerGetVolumeRequest { volume_id: ids[1].clone() };
    let one = driver.controller().controller_get_volume(request).await.unwrap().into_inner();
    assert_eq!(one.volume, first.entries[1].volume);
    assert_eq!(one.status.unwrap().published_node_ids, ["east/n2"]);
}

#[tokio::test]
async fn capacity_is_that_of_the_nodes_asked_for() {
    let driver = Driver::start().await;
    let ask_class = |site: &str, node: &str, class: &[(&str, &str)]| {
        let mut segments = parameters(&[("topology.farshore.io/site", site)]);
        if !node.is_empty() {
            segments.insert("topology.farshore.io/node".into(), node.into());
        }
        let (accessible_topology, parameters) = (Some(csi::Topology { segments }), parameters(class));
        let request = csi::GetCapacityRequest { accessible_topology, parameters, ..Default::default() };
        let mut controller = driver.controller();
        async move { controller.get_capacity(request).await.map(|a| a.into_inner().available_capacity) }
    };
    let ask_node = |site: &str, node: &str, sites: &str| ask_class(site, node, &[("sites", sites)]);
    let ask = |site: &str, sites: &str| ask_node(site, "", sites);
    assert_eq!(ask_node("east", "n1", "east,west").await.unwrap(), 1 << 40);
    assert_eq!(ask_node("east", "n2", "east,west").await.unwrap(), 1 << 41);
    let anywhere = [("sites", "east/n2"), ("placement", "any")];
    assert_eq!(ask_class("east", "n1", &anywhere).await.unwrap(), 1 << 41, "served from n2");
    assert_eq!(ask_node("east", "n1", "east/n2").await.unwrap(), 0);
    assert_eq!(ask("east", "east").await.unwrap(), (1 << 40) + (1 << 41));
    assert_eq!(ask("east", "east,west").await.unwrap(), 1 << 41, "west has no more");
    assert_eq!(ask("west", "east,west").await.unwrap(), 0);
    assert_eq!(ask("east", "east,mars").await.unwrap(), 0);
    assert_eq!(ask("east", "EAST").await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_class_changes_what_it_names() {
    let driver = Driver::start().await;
    let id = driver.volume("pvc-1").await;
    let modify = |pairs: &[(&str, &str)]| {
        let mutable_parameters = parameters(pairs);
        let request =
            csi::ControllerModifyVolumeRequest { volume_id: id.clone(), mutable_parameters, ..Default::default() };
        let mut controller = driver.controller();
        async move { controller.controller_modify_volume(request).await.map(drop) }
    };
    modify(&[("durability", "flush")]).await.unwrap();
    assert_eq!(driver.fake.world().asked.last().unwrap(), "set quorum \"\" w 0 DURABILITY_FLUSH");
    for _ in 0..2 {
        modify(&[("quorum", "w=2,minRemote=1")]).await.unwrap();
        assert_eq!(driver.fake.world().asked.last().unwrap(), "set quorum \"numbers\" w 2 DURABILITY_UNSPECIFIED");
    }
    let policy = driver.fake.world().find(&id).unwrap().policy.unwrap();
    assert_eq!((policy.quorum.as_str(), policy.durability()), ("numbers", api::Durability::Flush));
    let limits = || {
        let policy = driver.fake.world().find(&id).unwrap().policy.unwrap();
        (policy.iops, policy.bytes_per_second)
    };
    modify(&[("iops", "500"), ("bandwidth", "50Mi")]).await.unwrap();
    assert_eq!(limits(), (500, 50 << 20));
    modify(&[("iops", "0")]).await.unwrap();
    assert_eq!(limits(), (0, 50 << 20), "what is not named stays");
    modify(&[]).await.unwrap();
    for (pairs, part) in [
        ([("durability", "never")], "use write"),
        ([("quorum", "most")], "use one of majority"),
        ([("quorum", "w=9")], "more copies than there are"),
        ([("XXX_FakeKey", "1")], "is not known"),
        ([("sites", "east")], "can't be changed"),
        ([("iops", "many")], "as in 500"),
    ] {
        let status = modify(&pairs).await.expect_err(part);
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(part), "{status}");
    }
}

#[tokio::test]
async fn only_what_is_possible_is_confirmed() {
    let driver = Driver::start().await;
    let id = driver.volume("pvc-1").await;
    let judge = |volume_id: &str, capability: csi::VolumeCapability| {
        let volume_capabilities = vec![capability];
        let volume_id = volume_id.into();
        let request = csi::ValidateVolumeCapabilitiesRequest { volume_id, volume_capabilities, ..Default::default() };
        let mut controller = driver.controller();
        async move { controller.validate_volume_capabilities(request).await.map(|answer| answer.into_inner()) }
    };
    assert!(judge(&id, writer()).await.unwrap().confirmed.is_some());
    let refused = judge(&id, raw(Mode::MultiNodeMultiWriter)).await.unwrap();
    assert!(refused.confirmed.is_none() && refused.message.contains("ReadWriteOnce"));
    assert!(judge(&id, mounted("xfs", Mode::SingleNodeWriter)).await.unwrap().confirmed.is_none());
    let claimed = |fixed: &[(&str, &str)], mutable: &[(&str, &str)]| {
        let request = csi::ValidateVolumeCapabilitiesRequest {
            volume_id: id.clone(),
            volume_capabilities: vec![writer()],
            parameters: parameters(fixed),
            mutable_parameters: parameters(mutable),
            ..Default::default()
        };
        let mut controller = driver.controller();
        async move { controller.validate_volume_capabilities(request).await.unwrap().into_inner() }
    };
    let node = driver.fake.world().find(&id).unwrap().members[0].node.clone();
    let (held, not_held) =
        (format!("north,east/{node},west"), if node == "n1" { "north,east/n2,west" } else { "north,east/n1,west" });
    let has = [("sites", held.as_str()), ("quorum", "majority"), ("mode", "sync"), ("placement", "local")];
    let confirmed = claimed(&has, &[("durability", "write")]).await.confirmed.unwrap();
    assert_eq!(confirmed.parameters, parameters(&has));
    for (key, value) in [
        ("sites", "east,west"),
        ("sites", not_held),
        ("witness", "south"),
        ("placement", "any"),
        ("quorum", "all"),
        ("mode", "async"),
        ("fallback", "after:30s"),
        ("iops", "500"),
    ] {
        let refused = claimed(&[(key, value)], &[]).await;
        assert!(refused.confirmed.is_none() && refused.message.contains(key), "{key} {value}: {refused:?}");
    }
    assert!(claimed(&[], &[("durability", "flush")]).await.confirmed.is_none());
    assert_eq!(judge("fake-vol-id", writer()).await.unwrap_err().code(), Code::NotFound);
}
