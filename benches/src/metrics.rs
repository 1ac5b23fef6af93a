//! What a replicator says of itself at /metrics.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);

/// The text at /metrics of the replicator whose HTTP port on loopback this is.
pub fn scrape(port: u16) -> Result<String, String> {
    let asked = || {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok::<_, std::io::Error>(text)
    };
    asked().map_err(|e| format!("reading /metrics at port {port}: {e}"))
}

/// The sum of a metric's samples whose labels hold all of these.
pub fn sum(text: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let wanted: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
    let samples = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let (found, value) = match rest.strip_prefix('{') {
            Some(rest) => rest.rsplit_once("} ")?,
            None => ("", rest.strip_prefix(' ')?),
        };
        let value: f64 = value.split(' ').next()?.parse().ok()?;
        wanted.iter().all(|label| found.split(',').any(|has| has == label)).then_some(value)
    });
    samples.reduce(|a, b| a + b)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP farshore_peer_lost_packets Packets to it that were lost.\n\
        farshore_peer_lost_packets_total{site=\"west\",node=\"n1\"} 12.0\n\
        farshore_peer_lost_packets_total{site=\"north\",node=\"n1\"} 30.5\n\
        farshore_journal_used_bytes 7\n";

    #[test]
    fn samples_are_found_by_name_and_label_and_added_up() {
        let lost = "farshore_peer_lost_packets_total";
        assert_eq!(sum(TEXT, lost, &[]), Some(42.5));
        assert_eq!(sum(TEXT, lost, &[("site", "north"), ("node", "n1")]), Some(30.5));
        assert_eq!(sum(TEXT, "farshore_journal_used_bytes", &[]), Some(7.0));
        assert_eq!(sum(TEXT, lost, &[("site", "south")]), None);
        assert_eq!(sum(TEXT, "farshore_peer_lost_packets", &[]), None);
    }
}
