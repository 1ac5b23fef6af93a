//! The certificates that the configuration names: there, valid for a while, of this node, and the key private.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use farshore_replicator::config::Config;
use farshore_replicator::transport::cert::{self, CertInfo};

use super::run::Check;

/// Time enough to rotate by hand.
const DAYS_LEFT_WARN: i64 = 30;

pub fn checks(config: &Config) -> Vec<Check> {
    let node = &config.node;
    let identity = format!("/site/{}/node/{}", node.site, node.node);
    vec![
        certificate("CA certificate", &config.transport.ca, None),
        certificate("node certificate", &config.transport.cert, Some(&identity)),
        key(&config.transport.key),
    ]
}

fn certificate(name: &str, path: &Path, identity: Option<&str>) -> Check {
    const ISSUE: &str = "issue it with: farshore cert issue (and the CA, once, with: farshore cert ca)";
    match cert::show(path) {
        Ok(certificates) => match certificates.first() {
            Some(first) => judge(name, path, first, identity),
            None => Check::fail(name, format!("{} holds no certificate", path.display()), ISSUE),
        },
        Err(error) => Check::fail(name, error.to_string(), ISSUE),
    }
}

fn judge(name: &str, path: &Path, info: &CertInfo, identity: Option<&str>) -> Check {
    let path = path.display();
    let shown = info.spiffe.as_deref().unwrap_or(&info.subject);
    if let Some(identity) = identity
        && !info.spiffe.as_deref().is_some_and(|id| id.ends_with(identity))
    {
        let remedy = "issue one for this site and node, or correct [node] site and node";
        return Check::fail(name, format!("{path} is of {shown}, not of {identity}"), remedy);
    }
    let days = info.days_left;
    match days {
        ..0 => Check::fail(name, format!("{path} expired {} days ago", -days), "renew it with: farshore cert rotate"),
        0..DAYS_LEFT_WARN => {
            Check::warn(name, format!("{path} expires in {days} days"), "renew it with: farshore cert rotate")
        }
        _ => Check::ok(name, format!("{shown}, {days} days left")),
    }
}

fn key(path: &Path) -> Check {
    const NAME: &str = "node key";
    match std::fs::metadata(path) {
        Err(error) => Check::fail(NAME, format!("{}: {error}", path.display()), "issue it with: farshore cert issue"),
        Ok(metadata) if metadata.permissions().mode() & 0o077 != 0 => Check::fail(
            NAME,
            format!("{} can be read by others ({:o})", path.display(), metadata.permissions().mode() & 0o777),
            format!("chmod 600 {}; if others had access, rotate it", path.display()),
        ),
        Ok(_) => Check::ok(NAME, format!("{} is private", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::super::run::Verdict;
    use super::*;

    #[test]
    fn certificates_are_judged_by_time_and_name() {
        let info = |days_left| CertInfo {
            subject: "CN=n1".into(),
            spiffe: Some("spiffe://farshore.local/site/east/node/n1".into()),
            issuer: "CN=ca".into(),
            not_before: time::OffsetDateTime::UNIX_EPOCH,
            not_after: time::OffsetDateTime::UNIX_EPOCH,
            days_left,
            fingerprint: String::new(),
            is_ca: false,
        };
        let verdict = |days, identity| judge("x", Path::new("/x"), &info(days), Some(identity)).verdict;
        assert_eq!(verdict(300, "/site/east/node/n1"), Verdict::Ok);
        assert_eq!(verdict(29, "/site/east/node/n1"), Verdict::Warn);
        assert_eq!(verdict(-1, "/site/east/node/n1"), Verdict::Fail);
        assert_eq!(verdict(300, "/site/west/node/n1"), Verdict::Fail);
    }

    #[test]
    fn a_key_must_be_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        assert_eq!(key(&path).verdict, Verdict::Fail);
        std::fs::write(&path, "secret").unwrap();
        for (mode, verdict) in
            [(0o600, Verdict::Ok), (0o400, Verdict::Ok), (0o640, Verdict::Fail), (0o644, Verdict::Fail)]
        {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(key(&path).verdict, verdict, "{mode:o}");
        }
    }
}
