//! What a request must look like before the engine sees it, and the defaults that it may leave out.
//!
//! Only rules that need no state are here. A message names the field, what it held, and what it may hold.

use std::collections::BTreeSet;

use farshore_proto::v1 as api;

use super::error::OpError;
use super::validate_modes::Asked;
use super::validate_snapshots;

pub const NAME_LEN_MAX: usize = 63;
/// Sites and nodes become certificate identities; both follow the rules of a DNS label.
pub const PLACE_LEN_MAX: usize = 63;
pub const MEMBERS_MAX: usize = 16;
pub const LABELS_MAX: usize = 64;
pub const LABEL_LEN_MAX: usize = 512;
pub const SIZE_BYTES_MIN: u64 = 1 << 20;
/// 64 TiB: what the extent index is laid out for.
pub const SIZE_BYTES_MAX: u64 = 64 << 40;
pub const BLOCK_BYTES_DEFAULT: u32 = 4096;
pub const LEASE_MS_DEFAULT: u64 = 4_000;
/// Below this, two lost packets on a long link already cost the lease.
pub const LEASE_MS_MIN: u64 = 500;
pub const LEASE_MS_MAX: u64 = 60_000;
/// The named data quorums, and the name under which plain numbers go.
pub const QUORUMS: [&str; 5] = ["majority", "nearest-remote", "all-remotes", "all", "numbers"];

pub(super) fn label_like(text: &str, extra: &[char], len_max: usize) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || extra.contains(&c);
    text.len() <= len_max && ends(text.chars().next()) && ends(text.chars().last()) && text.chars().all(inside)
}

/// A new volume's name.
pub fn volume_name(name: &str) -> Result<(), OpError> {
    if label_like(name, &['.'], NAME_LEN_MAX) {
        return Ok(());
    }
    Err(OpError::invalid(
        format!("{name:?} can't be a volume's name"),
        format!("use 1 to {NAME_LEN_MAX} of a-z, 0-9, '-' and '.', beginning and ending with a letter or digit"),
    ))
}

/// A reference to an existing volume: its name or its id.
pub fn volume_ref(volume: &str) -> Result<(), OpError> {
    if volume.is_empty() {
        return Err(OpError::invalid("no volume was named", "give its name or its id"));
    }
    volume_name(volume)
}

/// A site's or a node's name. `what` is "site" or "node".
pub fn place(what: &str, name: &str) -> Result<(), OpError> {
    if label_like(name, &[], PLACE_LEN_MAX) {
        return Ok(());
    }
    Err(OpError::invalid(
        format!("{name:?} can't be the name of a {what}"),
        format!("use 1 to {PLACE_LEN_MAX} of a-z, 0-9 and '-', beginning and ending with a letter or digit"),
    ))
}

fn optional_node(node: &str) -> Result<(), OpError> {
    if node.is_empty() { Ok(()) } else { place("node", node) }
}

fn session(text: &str) -> Result<(), OpError> {
    if text.is_empty() || (text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit())) {
        return Ok(());
    }
    Err(OpError::invalid(format!("{text:?} is not a session"), "give 32 hex digits, or nothing to have one drawn"))
}

pub fn size(bytes: u64, block_bytes: u64) -> Result<(), OpError> {
    let sized = (SIZE_BYTES_MIN..=SIZE_BYTES_MAX).contains(&bytes);
    // Records and checksums cover 4 KiB whatever the device's block size is.
    if sized && bytes.is_multiple_of(farshore_core::ids::BLOCK_BYTES) && bytes.is_multiple_of(block_bytes.max(1)) {
        return Ok(());
    }
    Err(OpError::invalid(
        format!("a volume can't have {bytes} bytes"),
        "give a multiple of 4096 between 1 MiB and 64 TiB",
    ))
}

/// Fills in kind and votes.
pub fn member(mut spec: api::MemberSpec) -> Result<api::MemberSpec, OpError> {
    place("site", &spec.site)?;
    optional_node(&spec.node)?;
    let kind = api::MemberKind::try_from(spec.kind).map_err(|_| unknown_value("member kind", spec.kind))?;
    let kind = if kind == api::MemberKind::Unspecified { api::MemberKind::Data } else { kind };
    if kind == api::MemberKind::Diskless {
        return Err(OpError::invalid(
            format!("a member of {} without a copy can't be asked for", spec.site),
            "attach the volume on that node: it is a member as long as its device is there",
        ));
    }
    spec.kind = kind.into();
    match (kind, spec.votes) {
        (api::MemberKind::Observer, 0) => {}
        (api::MemberKind::Observer, votes) => {
            return Err(OpError::invalid(
                format!("observer {} was given {votes} votes", spec.site),
                "observers have no vote: leave votes out, or make it a data member",
            ));
        }
        (_, 0) => spec.votes = 1,
        (_, _) => {}
    }
    Ok(spec)
}

/// Below these nothing that is in use would end in a time that anybody waits.
const IOPS_MIN: u64 = 10;
const BYTES_PER_SECOND_MIN: u64 = 64 << 10;

/// 0: no limit.
fn io_limits(iops: u64, bytes_per_second: u64) -> Result<(), OpError> {
    if (1..IOPS_MIN).contains(&iops) {
        return Err(OpError::invalid(
            format!("{iops} requests in a second are too few"),
            format!("allow at least {IOPS_MIN} iops, or 0 for no limit"),
        ));
    }
    if (1..BYTES_PER_SECOND_MIN).contains(&bytes_per_second) {
        return Err(OpError::invalid(
            format!("a bandwidth of {bytes_per_second} bytes in a second is too little"),
            format!("allow at least {}KiB, or 0 for no limit", BYTES_PER_SECOND_MIN >> 10),
        ));
    }
    Ok(())
}

fn unknown_value(what: &str, value: i32) -> OpError {
    OpError::invalid(format!("{value} is not a known {what}"), "use a client of the same version as the replicator")
}

/// Fills in the defaults. `data_members` is how many the volume will have in its sync set.
pub fn policy(policy: Option<api::Policy>, data_members: usize) -> Result<api::Policy, OpError> {
    let mut policy = policy.unwrap_or_default();
    if policy.quorum.is_empty() {
        policy.quorum = QUORUMS[0].into();
    }
    if !QUORUMS.contains(&policy.quorum.as_str()) {
        return Err(OpError::invalid(
            format!("quorum {:?} is not known", policy.quorum),
            format!("use one of: {}", QUORUMS.join(", ")),
        ));
    }
    if policy.quorum == "numbers" {
        numbers(&policy, data_members)?;
    }
    io_limits(policy.iops, policy.bytes_per_second)?;
    let durability =
        api::Durability::try_from(policy.durability).map_err(|_| unknown_value("durability", policy.durability))?;
    if durability == api::Durability::Unspecified {
        policy.durability = api::Durability::Write.into();
    }
    if policy.lease_ms == 0 {
        policy.lease_ms = LEASE_MS_DEFAULT;
    }
    if !(LEASE_MS_MIN..=LEASE_MS_MAX).contains(&policy.lease_ms) {
        return Err(OpError::invalid(
            format!("a lease can't last {} ms", policy.lease_ms),
            format!("give {LEASE_MS_MIN} to {LEASE_MS_MAX} ms"),
        ));
    }
    let loss = api::QuorumLoss::try_from(policy.on_quorum_loss)
        .map_err(|_| unknown_value("reaction to a lost quorum", policy.on_quorum_loss))?;
    match loss {
        api::QuorumLoss::Fence if policy.fence_after_ms == 0 => {
            return Err(OpError::invalid("fencing was asked for without a time", "say for example fence:30s"));
        }
        api::QuorumLoss::Fence => {}
        api::QuorumLoss::Freeze | api::QuorumLoss::Unspecified => {
            policy.on_quorum_loss = api::QuorumLoss::Freeze.into();
            policy.fence_after_ms = 0;
        }
    }
    policy.mode = Asked::from(&policy).check()?.into();
    Ok(policy)
}

fn numbers(policy: &api::Policy, data_members: usize) -> Result<(), OpError> {
    let w = policy.w as usize;
    if w == 0 || w > data_members {
        return Err(OpError::invalid(
            format!("w={w} can't be met by {data_members} data members"),
            format!("give w from 1 to {data_members}"),
        ));
    }
    if policy.min_remote >= data_members as u32 && policy.min_remote > 0 {
        return Err(OpError::invalid(
            format!("minRemote={} can't be met by {data_members} data members", policy.min_remote),
            "at most all but one of the data members can be remote",
        ));
    }
    Ok(())
}

pub fn create(mut request: api::CreateVolumeRequest) -> Result<api::CreateVolumeRequest, OpError> {
    volume_name(&request.name)?;
    if request.block_size_bytes == 0 {
        request.block_size_bytes = BLOCK_BYTES_DEFAULT;
    }
    if ![512, 4096].contains(&request.block_size_bytes) {
        return Err(OpError::invalid(
            format!("a block can't have {} bytes", request.block_size_bytes),
            "use 4096, or 512 for software that needs it",
        ));
    }
    source(&request)?;
    if request.read_only && request.source_snapshot.is_empty() && request.source_volume.is_empty() {
        return Err(OpError::invalid(
            format!("volume {:?} would be empty, and read-only for good", request.name),
            "make it of a snapshot or of another volume: farshore snapshot clone SOURCE NAME --read-only",
        ));
    }
    if request.size_bytes > 0 || (request.source_snapshot.is_empty() && request.source_volume.is_empty()) {
        size(request.size_bytes, request.block_size_bytes.into())?;
    }
    let clone = !request.source_snapshot.is_empty() || !request.source_volume.is_empty();
    if clone && request.members.is_empty() {
        // Where its source is; the engine knows.
        return labels_of(request);
    }
    if request.members.is_empty() || request.members.len() > MEMBERS_MAX {
        return Err(OpError::invalid(
            format!("a volume can't have {} members", request.members.len()),
            format!("name 1 to {MEMBERS_MAX}, for example --members east,west,north"),
        ));
    }
    request.members = request.members.into_iter().map(member).collect::<Result<_, _>>()?;
    distinct(&request.members)?;
    let data = request.members.iter().filter(|m| m.kind() == api::MemberKind::Data).count();
    if data == 0 {
        return Err(OpError::invalid(
            format!("volume {:?} would have no member with data", request.name),
            "name at least one site with --members",
        ));
    }
    request.policy = Some(policy(request.policy, data)?);
    labels_of(request)
}

fn labels_of(request: api::CreateVolumeRequest) -> Result<api::CreateVolumeRequest, OpError> {
    labels(&request.labels)?;
    validate_snapshots::own_labels(request.labels.keys())?;
    Ok(request)
}

/// What a clone begins with: one thing, or nothing.
fn source(request: &api::CreateVolumeRequest) -> Result<(), OpError> {
    if request.source_shown && request.source_volume.is_empty() {
        return Err(OpError::invalid(
            format!("volume {:?} would begin with what the copy of no volume shows", request.name),
            "name the source volume",
        ));
    }
    match (request.source_snapshot.as_str(), request.source_volume.as_str()) {
        ("", "") => Ok(()),
        (snapshot, "") => validate_snapshots::snapshot_ref(snapshot),
        ("", volume) => volume_ref(volume),
        (snapshot, volume) => Err(OpError::invalid(
            format!("volume {:?} would begin with snapshot {snapshot:?} and with volume {volume:?}", request.name),
            "name one of them",
        )),
    }
}

/// One member per place: the same site twice only with two named nodes.
fn distinct(members: &[api::MemberSpec]) -> Result<(), OpError> {
    let mut places = BTreeSet::new();
    let mut unnamed = BTreeSet::new();
    for m in members {
        let clash = !places.insert((&m.site, &m.node)) || (m.node.is_empty() && !unnamed.insert(&m.site));
        let mixed = members.iter().any(|o| o.site == m.site && o.node.is_empty() != m.node.is_empty());
        if clash || mixed {
            return Err(OpError::invalid(
                format!("site {} is named twice", m.site),
                "name the nodes (site/node) where one site shall hold two members",
            ));
        }
    }
    Ok(())
}

pub(super) fn labels(labels: &std::collections::BTreeMap<String, String>) -> Result<(), OpError> {
    let long = labels.iter().find(|(k, v)| k.is_empty() || k.len() > LABEL_LEN_MAX || v.len() > LABEL_LEN_MAX);
    if let Some((key, _)) = long {
        return Err(OpError::invalid(
            format!("label {key:.40?} is empty or too long"),
            format!("keys and values have up to {LABEL_LEN_MAX} bytes"),
        ));
    }
    if labels.len() > LABELS_MAX {
        return Err(OpError::invalid(
            format!("{} labels are too many", labels.len()),
            format!("give up to {LABELS_MAX}"),
        ));
    }
    Ok(())
}

pub fn attach(request: api::AttachVolumeRequest) -> Result<api::AttachVolumeRequest, OpError> {
    volume_ref(&request.volume)?;
    optional_node(&request.node)?;
    session(&request.session)?;
    if request.published && (request.session.is_empty() || request.publish_only) {
        return Err(OpError::invalid(
            "what is published already is attached by its session",
            "name the session, and leave publish_only out",
        ));
    }
    match api::DeviceKind::try_from(request.device) {
        Ok(api::DeviceKind::None) => Err(OpError::invalid(
            "an attachment needs a device",
            "leave the device out to have one chosen, or ask for publish_only",
        )),
        Ok(_) => Ok(request),
        Err(_) => Err(unknown_value("device", request.device)),
    }
}

pub fn detach(request: api::DetachVolumeRequest) -> Result<api::DetachVolumeRequest, OpError> {
    volume_ref(&request.volume)?;
    session(&request.session)?;
    optional_node(&request.node)?;
    if !request.node.is_empty() && (!request.force || request.keep_published) {
        return Err(OpError::invalid(
            "a node was named without force",
            "only a detachment by force names the node that is to be fenced: leave it out, or add --force",
        ));
    }
    Ok(request)
}

pub fn resize(request: api::ResizeVolumeRequest) -> Result<api::ResizeVolumeRequest, OpError> {
    volume_ref(&request.volume)?;
    size(request.size_bytes, 1)?;
    Ok(request)
}

pub fn set(request: api::SetVolumeRequest) -> Result<api::SetVolumeRequest, OpError> {
    volume_ref(&request.volume)?;
    let named = !request.quorum.is_empty();
    if named && !QUORUMS.contains(&request.quorum.as_str()) {
        return Err(OpError::invalid(
            format!("quorum {:?} is not known", request.quorum),
            format!("use one of: {}", QUORUMS.join(", ")),
        ));
    }
    if request.quorum == "numbers" && request.w == 0 {
        return Err(OpError::invalid(
            "no copy would have to hold a write",
            "say how many must: w=1 or more, as in w=2,minRemote=1",
        ));
    }
    let durability =
        api::Durability::try_from(request.durability).map_err(|_| unknown_value("durability", request.durability))?;
    let loss = api::QuorumLoss::try_from(request.on_quorum_loss)
        .map_err(|_| unknown_value("reaction to a lost quorum", request.on_quorum_loss))?;
    if loss == api::QuorumLoss::Fence && request.fence_after_ms == 0 {
        return Err(OpError::invalid("fencing was asked for without a time", "say for example fence:30s"));
    }
    io_limits(request.iops.unwrap_or(0), request.bytes_per_second.unwrap_or(0))?;
    let mode = Asked::from(&request).check()?;
    let after = request.fallback_after_ms.or(request.promote_observer_after_ms);
    let distance = mode != api::Mode::Unspecified || after.is_some();
    labels(&request.labels)?;
    validate_snapshots::own_labels(request.labels.keys())?;
    let more = distance || request.iops.is_some() || request.bytes_per_second.is_some() || !request.labels.is_empty();
    if !named && !more && durability == api::Durability::Unspecified && loss == api::QuorumLoss::Unspecified {
        return Err(OpError::invalid(
            "nothing was named to be changed",
            "name a quorum, a durability, a mode, a limit, or more",
        ));
    }
    Ok(request)
}

pub fn add_member(mut request: api::AddMemberRequest) -> Result<api::AddMemberRequest, OpError> {
    volume_ref(&request.volume)?;
    request.member = Some(member(request.member.unwrap_or_default())?);
    Ok(request)
}

pub fn remove_member(request: api::RemoveMemberRequest) -> Result<api::RemoveMemberRequest, OpError> {
    volume_ref(&request.volume)?;
    place("site", &request.site)?;
    optional_node(&request.node)?;
    Ok(request)
}

pub fn replace_member(mut request: api::ReplaceMemberRequest) -> Result<api::ReplaceMemberRequest, OpError> {
    volume_ref(&request.volume)?;
    place("site", &request.site)?;
    optional_node(&request.node)?;
    let mut with = request.with.take().unwrap_or_default();
    if with.site.is_empty() {
        with.site = request.site.clone();
    }
    // Kind and votes of 0 are kept: the newcomer takes over those of the member it replaces.
    let (kind, votes) = (with.kind, with.votes);
    let checked = member(with)?;
    request.with = Some(api::MemberSpec { kind, votes, ..checked });
    Ok(request)
}

pub fn promote(request: api::PromoteRequest) -> Result<api::PromoteRequest, OpError> {
    volume_ref(&request.volume)?;
    if !request.force && (request.confirm || !request.members.is_empty()) {
        return Err(OpError::invalid(
            "members were named without force",
            "only a forced promotion names its members: leave them out, or add --force",
        ));
    }
    if request.force && request.members.is_empty() {
        return Err(OpError::invalid(
            "a forced promotion must name the members of the new lineage",
            "add --members with every site that shall carry on",
        ));
    }
    for name in &request.members {
        let (site, node) = name.split_once('/').unwrap_or((name, ""));
        place("site", site)?;
        optional_node(node)?;
    }
    Ok(request)
}

pub fn switchover(request: api::SwitchoverRequest) -> Result<api::SwitchoverRequest, OpError> {
    volume_ref(&request.volume)?;
    place("site", &request.to_site)?;
    optional_node(&request.to_node)?;
    Ok(request)
}

pub fn fence(request: api::FenceRequest) -> Result<api::FenceRequest, OpError> {
    volume_ref(&request.volume)?;
    place("site", &request.site)?;
    Ok(request)
}

pub fn failover(request: api::FailoverRequest) -> Result<api::FailoverRequest, OpError> {
    place("site", &request.from_site)?;
    request.volumes.iter().try_for_each(|v| volume_ref(v))?;
    Ok(request)
}

pub fn resync(request: api::ResyncRequest) -> Result<api::ResyncRequest, OpError> {
    volume_ref(&request.volume)?;
    if !request.site.is_empty() {
        place("site", &request.site)?;
    }
    optional_node(&request.node)?;
    if request.site.is_empty() && !request.node.is_empty() {
        return Err(OpError::invalid("a node was named without its site", "say site/node"));
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::super::error::OpKind;
    use super::*;

    fn data(site: &str, node: &str) -> api::MemberSpec {
        api::MemberSpec { site: site.into(), node: node.into(), ..Default::default() }
    }

    fn request() -> api::CreateVolumeRequest {
        api::CreateVolumeRequest {
            name: "pg-data".into(),
            size_bytes: 10 << 30,
            members: vec![data("east", ""), data("west", ""), data("north", "")],
            ..Default::default()
        }
    }

    #[test]
    fn defaults_are_filled_in() {
        let made = create(request()).unwrap();
        assert_eq!(made.block_size_bytes, 4096);
        assert!(made.members.iter().all(|m| m.kind() == api::MemberKind::Data && m.votes == 1));
        let policy = made.policy.unwrap();
        assert_eq!((policy.quorum.as_str(), policy.lease_ms), ("majority", 4_000));
        assert_eq!(policy.durability(), api::Durability::Write);
        assert_eq!(policy.on_quorum_loss(), api::QuorumLoss::Freeze);
    }

    #[test]
    fn each_bad_field_is_refused_and_named() {
        type Spoil = fn(&mut api::CreateVolumeRequest);
        let cases: [(&str, Spoil); 15] = [
            ("name", |r| r.name = "Pg".into()),
            ("name", |r| r.name = String::new()),
            ("name", |r| r.name = "a".repeat(64)),
            ("name", |r| r.name = "../etc".into()),
            ("bytes", |r| r.size_bytes = 4095 << 10 | 1),
            ("bytes", |r| r.size_bytes = 0),
            ("bytes", |r| r.size_bytes = u64::MAX),
            ("block", |r| r.block_size_bytes = 1024),
            ("0 members", |r| r.members.clear()),
            ("named twice", |r| r.members.push(data("east", ""))),
            ("named twice", |r| r.members.push(data("east", "n2"))),
            ("no member with data", |r| r.members.iter_mut().for_each(|m| m.set_kind(api::MemberKind::Witness))),
            ("votes", |r| r.members.push(api::MemberSpec { kind: 3, votes: 2, ..data("far", "") })),
            ("member kind", |r| r.members[0].kind = 99),
            ("label", |r| drop(r.labels.insert("k".into(), "v".repeat(600)))),
        ];
        for (part, spoil) in cases {
            let mut bad = request();
            spoil(&mut bad);
            let error = create(bad).expect_err(part);
            assert_eq!(error.kind, OpKind::Invalid);
            assert!(error.message.contains(part), "{part:?} is not in {:?}", error.message);
            assert!(!error.remedy.is_empty(), "{part}");
        }
    }

    #[test]
    fn two_nodes_of_a_site_are_two_members_when_both_are_named() {
        let mut two = request();
        two.members = vec![data("east", "n1"), data("east", "n2"), data("west", "")];
        assert!(create(two).is_ok());
    }

    #[test]
    fn policies_are_checked() {
        let p = |f: fn(&mut api::Policy)| {
            let mut p = api::Policy::default();
            f(&mut p);
            policy(Some(p), 3)
        };
        assert!(p(|p| p.quorum = "most".into()).unwrap_err().remedy.contains("nearest-remote"));
        assert!(p(|p| (p.quorum, p.w) = ("numbers".into(), 0)).is_err());
        assert!(p(|p| (p.quorum, p.w) = ("numbers".into(), 4)).is_err());
        assert!(p(|p| (p.quorum, p.w, p.min_remote) = ("numbers".into(), 2, 3)).is_err());
        assert!(p(|p| (p.quorum, p.w, p.min_remote) = ("numbers".into(), 2, 1)).is_ok());
        assert!(p(|p| p.lease_ms = 10).is_err());
        assert!(p(|p| p.set_on_quorum_loss(api::QuorumLoss::Fence)).is_err());
        assert!(p(|p| p.durability = 7).is_err());
        assert!(p(|p| (p.iops, p.bytes_per_second) = (IOPS_MIN, BYTES_PER_SECOND_MIN)).is_ok());
        assert!(p(|p| p.iops = 9).is_err());
        assert!(p(|p| p.bytes_per_second = 1).is_err());
    }

    #[test]
    fn force_names_its_members_and_nothing_else_does() {
        let request = |force, members: &[&str]| api::PromoteRequest {
            volume: "pg".into(),
            force,
            members: members.iter().map(|m| m.to_string()).collect(),
            confirm: false,
        };
        assert!(promote(request(false, &[])).is_ok());
        assert!(promote(request(true, &["east", "west/n1"])).is_ok());
        assert!(promote(request(true, &[])).is_err());
        assert!(promote(request(false, &["east"])).is_err());
        assert!(promote(request(true, &["east/"])).is_ok());
        assert!(promote(request(true, &["/n"])).is_err());
    }
}
