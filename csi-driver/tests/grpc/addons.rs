//! csi-addons: the exact codes, since its controller forces what it takes for a request to.

use farshore_proto::csiaddons::identity as who;
use farshore_proto::csiaddons::replication as rpc;
use farshore_proto::csiaddons::replication::replication_source::{Type, VolumeGroupSource, VolumeSource};
use farshore_proto::v1 as api;
use tonic::Code;

use crate::driver::{Driver, parameters, wish};

fn source(id: &str) -> Option<rpc::ReplicationSource> {
    Some(rpc::ReplicationSource { r#type: Some(Type::Volume(VolumeSource { volume_id: id.into() })) })
}

async fn promote(driver: &Driver, id: &str, force: bool) -> Result<(), Code> {
    promote_by_class(driver, id, force, &[]).await
}

async fn promote_by_class(driver: &Driver, id: &str, force: bool, class: &[(&str, &str)]) -> Result<(), Code> {
    let (replication_source, parameters) = (source(id), parameters(class));
    let request = rpc::PromoteVolumeRequest { force, replication_source, parameters, ..Default::default() };
    driver.replication().promote_volume(request).await.map(drop).map_err(|status| status.code())
}

async fn demote(driver: &Driver, id: &str) -> Result<(), Code> {
    let request = rpc::DemoteVolumeRequest { replication_source: source(id), ..Default::default() };
    driver.replication().demote_volume(request).await.map(drop).map_err(|status| status.code())
}

async fn resync(driver: &Driver, id: &str, force: bool) -> Result<bool, Code> {
    let request = rpc::ResyncVolumeRequest { force, replication_source: source(id), ..Default::default() };
    let answer = driver.replication().resync_volume(request).await;
    answer.map(|answer| answer.into_inner().ready).map_err(|status| status.code())
}

/// As this site knows a volume that is primary in the west.
fn lives_in_west(driver: &Driver, id: &str, attached: bool, connected: bool) {
    let (site, node, session) = ("west".into(), "w1".into(), "ab".repeat(16));
    let attachment = attached.then_some(api::Attachment { site, node, session, ..Default::default() });
    driver.fake.world().change(id, |v| {
        v.primary_site = "west".into();
        v.set_role(api::Role::Secondary);
        v.attached = attachment;
        v.members.iter_mut().filter(|m| m.site == "west").for_each(|m| m.connected = connected);
    });
}

#[tokio::test]
async fn force_is_invited_only_where_it_loses_nothing() {
    let driver = Driver::start().await;
    let id = driver.volume("a").await;
    // Primary already.
    assert_eq!(promote(&driver, &id, false).await, Ok(()));
    assert_eq!(driver.fake.world().asked.len(), 1);
    // In use there, and answering: never.
    lives_in_west(&driver, &id, true, true);
    assert_eq!(promote(&driver, &id, false).await, Err(Code::Aborted));
    assert_eq!(promote(&driver, &id, true).await, Err(Code::Aborted));
    assert_eq!(driver.fake.world().asked.len(), 1);
    // Gone: only with force, and that asks for a failover, which keeps what was acknowledged.
    lives_in_west(&driver, &id, true, false);
    assert_eq!(promote(&driver, &id, false).await, Err(Code::FailedPrecondition));
    driver.fake.world().takeover_fails = true;
    assert_eq!(promote(&driver, &id, true).await, Err(Code::Aborted));
    driver.fake.world().takeover_fails = false;
    assert_eq!(promote(&driver, &id, true).await, Ok(()));
    assert_eq!(driver.fake.world().asked.last().unwrap(), "failover from west");
    assert_eq!(promote(&driver, &id, true).await, Ok(()));
}

#[tokio::test]
async fn nobody_writes_so_nothing_is_taken() {
    let driver = Driver::start().await;
    let id = driver.volume("a").await;
    lives_in_west(&driver, &id, false, true);
    // The quorum's refusal must not read as an invitation.
    driver.fake.world().fail = Some((Code::FailedPrecondition, "no quorum"));
    assert_eq!(promote(&driver, &id, false).await, Err(Code::Aborted));
    driver.fake.world().fail = Some((Code::Unavailable, "no quorum"));
    assert_eq!(promote(&driver, &id, true).await, Err(Code::Unavailable));
    assert_eq!(promote(&driver, &id, false).await, Ok(()));
    assert_eq!(driver.fake.world().find(&id).unwrap().primary_site, "east");
}

#[tokio::test]
async fn a_copy_on_a_schedule_is_made_whole_first_and_forced_only_where_its_class_allows_a_loss() {
    let driver = Driver::start().await;
    let id = driver.volume("a").await;
    let behind = |attached: bool, connected: bool| {
        lives_in_west(&driver, &id, attached, connected);
        driver.fake.world().change(&id, |v| {
            v.primary_node = "w1".into();
            v.members.iter_mut().filter(|m| m.site == "east").for_each(|m| m.in_sync_set = false);
        });
    };
    let last = || driver.fake.world().asked.last().unwrap().clone();
    // Planned: it comes again until the copy is whole.
    behind(false, true);
    assert_eq!(promote(&driver, &id, false).await, Err(Code::Aborted));
    assert_eq!(last(), "prepare a move to east/n1");
    assert_eq!(promote(&driver, &id, false).await, Ok(()));
    assert_eq!(last(), "move to east/n1");
    // Nobody answers: never by itself, and with a class that allows it only where nobody can write there any more.
    let lossy = [("lossyFailover", "allowed")];
    let fenced = |sites: &[&str]| {
        let sites: Vec<String> = sites.iter().map(|site| site.to_string()).collect();
        driver.fake.world().change(&id, |v| v.fenced_sites = sites);
    };
    for (attached, sites) in [(true, &[][..]), (false, &[]), (false, &["east", "north"]), (true, &["west"])] {
        behind(attached, false);
        fenced(sites);
        for force in [false, true] {
            assert_eq!(promote(&driver, &id, force).await, Err(Code::Aborted));
            let asked = promote_by_class(&driver, &id, force, &lossy).await;
            assert_eq!(asked, Err(Code::Aborted), "attached {attached}, fenced {sites:?}, force {force}");
        }
        assert_eq!(last(), "move to east/n1");
    }
    behind(false, false);
    fenced(&["west"]);
    assert_eq!(promote(&driver, &id, true).await, Err(Code::Aborted), "its class does not allow it");
    assert_eq!(promote_by_class(&driver, &id, false, &lossy).await, Err(Code::FailedPrecondition));
    assert_eq!(promote_by_class(&driver, &id, true, &lossy).await, Ok(()));
    assert_eq!(last(), "force");
    assert_eq!(promote_by_class(&driver, &id, true, &[("lossyFailover", "maybe")]).await, Err(Code::InvalidArgument));
    // In use, and answering: not even then.
    behind(true, true);
    assert_eq!(promote_by_class(&driver, &id, true, &lossy).await, Err(Code::Aborted));
}

#[tokio::test]
async fn a_volume_in_use_is_not_demoted() {
    let driver = Driver::start().await;
    let id = driver.volume("a").await;
    driver.fake.world().change(&id, |v| {
        v.set_role(api::Role::Primary);
        v.attached = Some(api::Attachment { site: "east".into(), node: "n1".into(), ..Default::default() });
    });
    assert_eq!(demote(&driver, &id).await, Err(Code::FailedPrecondition));
    assert_eq!(resync(&driver, &id, true).await, Err(Code::FailedPrecondition));
    driver.fake.world().change(&id, |v| v.attached = None);
    assert_eq!(demote(&driver, &id).await, Ok(()));
    assert_eq!(demote(&driver, &id).await, Ok(()));
    lives_in_west(&driver, &id, true, true);
    assert_eq!(demote(&driver, &id).await, Ok(()));
}

#[tokio::test]
async fn a_history_of_its_own_is_given_up_only_by_force() {
    let driver = Driver::start().await;
    let id = driver.volume("a").await;
    lives_in_west(&driver, &id, true, true);
    assert_eq!(resync(&driver, &id, false).await, Ok(true));
    let set = |state: &str| {
        let (state, own) = (state.to_string(), |m: &&mut api::MemberStatus| m.site == "east");
        driver.fake.world().change(&id, |v| v.members.iter_mut().filter(own).for_each(|m| m.state = state.clone()));
    };
    set("resyncing");
    assert_eq!(resync(&driver, &id, true).await, Ok(false));
    assert_eq!(driver.fake.world().asked.len(), 1);
    lives_in_west(&driver, &id, true, false);
    assert_eq!(resync(&driver, &id, true).await, Err(Code::Aborted), "nobody to follow is no progress");
    lives_in_west(&driver, &id, true, true);
    set("diverged");
    assert_eq!(resync(&driver, &id, false).await, Err(Code::Aborted));
    assert_eq!(resync(&driver, &id, true).await, Ok(false));
    assert_eq!(driver.fake.world().asked.last().unwrap(), "resync east/n1 discard true");
}

#[tokio::test]
async fn replication_needs_another_site() {
    let driver = Driver::start().await;
    let far = driver.volume("a").await;
    let mut alone = wish("b");
    alone.parameters = parameters(&[("sites", "east")]);
    let alone = driver.create(alone).await.unwrap().volume_id;
    let enable = |id: &str, key: &str| {
        let (replication_source, parameters) = (source(id), parameters(&[(key, "1m")]));
        let request = rpc::EnableVolumeReplicationRequest { replication_source, parameters, ..Default::default() };
        let mut replication = driver.replication();
        async move { replication.enable_volume_replication(request).await.map(drop).map_err(|status| status.code()) }
    };
    assert_eq!(enable(&far, "schedulingInterval").await, Ok(()));
    assert_eq!(enable(&far, "colour").await, Err(Code::InvalidArgument));
    assert_eq!(enable(&alone, "schedulingInterval").await, Err(Code::FailedPrecondition));
    assert_eq!(enable("", "schedulingInterval").await, Err(Code::InvalidArgument));
    assert_eq!(enable("fake", "schedulingInterval").await, Err(Code::NotFound));
    let ask = rpc::GetVolumeReplicationInfoRequest { replication_source: source(&alone), ..Default::default() };
    let status = driver.replication().get_volume_replication_info(ask).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "nothing is replicated: {status}");
    // An old caller fills in the field of old.
    let old = rpc::DisableVolumeReplicationRequest { volume_id: far.clone(), ..Default::default() };
    driver.replication().disable_volume_replication(old).await.unwrap();
    let group = Type::Volumegroup(VolumeGroupSource { volume_group_id: "g".into() });
    let replication_source = Some(rpc::ReplicationSource { r#type: Some(group) });
    let of_group = rpc::DemoteVolumeRequest { replication_source, ..Default::default() };
    assert_eq!(driver.replication().demote_volume(of_group).await.unwrap_err().code(), Code::Unimplemented);
}

#[tokio::test]
async fn the_primary_tells_and_the_id_is_the_same_everywhere() {
    use rpc::get_volume_replication_info_response::Status as Health;
    let driver = Driver::start().await;
    let id = driver.volume("a").await;
    let info = || {
        let request = rpc::GetVolumeReplicationInfoRequest { replication_source: source(&id), ..Default::default() };
        let mut replication = driver.replication();
        async move { replication.get_volume_replication_info(request).await.map(|answer| answer.into_inner()) }
    };
    let good = info().await.unwrap();
    assert_eq!(good.status(), Health::Healthy);
    assert!(good.last_sync_time.is_some() && good.status_message.contains("west/w1 replicating"));
    lives_in_west(&driver, &id, true, true);
    assert_eq!(info().await.unwrap_err().code(), Code::FailedPrecondition);
    let request = rpc::GetReplicationDestinationInfoRequest { replication_source: source(&id), ..Default::default() };
    let there = driver.replication().get_replication_destination_info(request).await.unwrap().into_inner();
    let there = there.replication_destination.unwrap().r#type.unwrap();
    assert_eq!(
        there,
        rpc::replication_destination::Type::Volume(rpc::replication_destination::VolumeDestination { volume_id: id })
    );
    let named = driver.addons_identity().get_identity(who::GetIdentityRequest {}).await.unwrap().into_inner();
    assert_eq!(named.name, "csi.farshore.io");
    let can = driver.addons_identity().get_capabilities(who::GetCapabilitiesRequest {}).await.unwrap().into_inner();
    assert_eq!(can.capabilities.len(), 4);
}

/// Whoever hears "not ready" waits for it: that is said only of what is on its way.
#[tokio::test]
async fn what_does_not_come_is_an_error() {
    let driver = Driver::start().await;
    let id = driver.volume("a").await;
    lives_in_west(&driver, &id, true, true);
    let own = |state: &str, in_sync_set: bool| {
        let (state, own) = (state.to_string(), |m: &&mut api::MemberStatus| m.site == "east");
        driver.fake.world().change(&id, |v| {
            v.members.iter_mut().filter(own).for_each(|m| (m.state, m.in_sync_set) = (state.clone(), in_sync_set));
        });
    };
    for state in ["replicating", "resting", "catching-up", "resyncing", "full-copy"] {
        own(state, false);
        assert_eq!(resync(&driver, &id, false).await, Ok(false), "{state}");
    }
    for state in ["paused", "damaged", "not-readmitted", "unreachable", "unknown"] {
        own(state, true);
        assert_eq!(resync(&driver, &id, true).await, Err(Code::Aborted), "{state}");
    }
    own("resyncing", false);
    driver.fake.world().change(&id, |v| v.state = "failed".into());
    assert_eq!(resync(&driver, &id, true).await, Err(Code::Aborted), "its disk has failed");
    driver.fake.world().change(&id, |v| {
        v.state = "resyncing".into();
        v.conditions.push(api::Condition {
            name: "resync-no-room".into(),
            text: "no room".into(),
            ..Default::default()
        });
    });
    assert_eq!(resync(&driver, &id, true).await, Err(Code::Aborted), "there is no room");
    driver.fake.world().change(&id, |v| {
        v.conditions.clear();
        v.members.retain(|m| m.site != "east");
    });
    assert_eq!(resync(&driver, &id, true).await, Err(Code::FailedPrecondition), "there is no copy");
    assert_eq!(driver.fake.world().asked.len(), 1);
}
