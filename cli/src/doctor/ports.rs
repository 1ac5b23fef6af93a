//! The two ports: free while the replicator is stopped, taken by it while it runs.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use farshore_replicator::config::Config;

use super::run::Check;

pub fn checks(config: &Config, running: bool) -> Vec<Check> {
    let udp = UdpSocket::bind(config.transport.listen).map(drop);
    let tcp = TcpListener::bind(config.http.listen).map(drop);
    vec![
        judge("UDP port", "[transport] listen", config.transport.listen, udp, running),
        judge("HTTP port", "[http] listen", config.http.listen, tcp, running),
    ]
}

fn judge(name: &str, key: &str, address: SocketAddr, bound: std::io::Result<()>, running: bool) -> Check {
    match (bound, running) {
        (Ok(()), false) => Check::ok(name, format!("{address} is free for the replicator")),
        (Ok(()), true) => Check::warn(
            name,
            format!("nobody listens on {address}, though the replicator runs"),
            "does it run with another configuration? Restart it after a change",
        ),
        (Err(error), true) if error.kind() == ErrorKind::AddrInUse => Check::ok(name, format!("{address} is in use")),
        (Err(error), _) => Check::fail(
            name,
            format!("{address} can't be bound: {error}"),
            format!("stop what uses it (ss -lnp), or change {key}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::run::Verdict;
    use super::*;

    #[test]
    fn a_port_is_judged_by_who_should_have_it() {
        let address = "127.0.0.1:7441".parse().unwrap();
        let verdict = |bound: Result<(), ErrorKind>, running| {
            judge("UDP port", "[transport] listen", address, bound.map_err(Into::into), running).verdict
        };
        assert_eq!(verdict(Ok(()), false), Verdict::Ok);
        assert_eq!(verdict(Ok(()), true), Verdict::Warn);
        assert_eq!(verdict(Err(ErrorKind::AddrInUse), true), Verdict::Ok);
        assert_eq!(verdict(Err(ErrorKind::AddrInUse), false), Verdict::Fail);
        assert_eq!(verdict(Err(ErrorKind::AddrNotAvailable), true), Verdict::Fail);
    }
}
