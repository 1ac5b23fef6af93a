//! All the links between some sites.

use std::io;
use std::net::SocketAddr;

use crate::conditions::Conditions;
use crate::link::{Counts, Direction, Link};

pub struct Wan {
    /// Of the sites i < k, for each such pair in order.
    links: Vec<((usize, usize), Link)>,
}

impl Wan {
    /// A link between each two of the sites that listen at these addresses.
    pub fn start(sites: &[SocketAddr], conditions: Conditions, seed: u64) -> io::Result<Wan> {
        let pairs = (0..sites.len()).flat_map(|k| (0..k).map(move |i| (i, k)));
        let links = pairs
            .zip(seed..)
            .map(|((i, k), seed)| Link::start([sites[i], sites[k]], conditions, seed).map(|link| ((i, k), link)));
        Ok(Wan { links: links.collect::<io::Result<_>>()? })
    }

    /// Where `from` finds `to`.
    pub fn address(&self, from: usize, to: usize) -> SocketAddr {
        self.link(from, to).door(usize::from(from > to))
    }

    /// The link between two sites, whichever is named first.
    pub fn link(&self, one: usize, other: usize) -> &Link {
        let pair = (one.min(other), one.max(other));
        let found = self.links.iter().find(|(sites, _)| *sites == pair);
        found.map(|(_, link)| link).unwrap_or_else(|| panic!("no link between the sites {one} and {other}"))
    }

    /// Every link, both directions.
    pub fn set(&self, conditions: Conditions) {
        self.links.iter().for_each(|(_, link)| link.set(conditions));
    }

    /// What has passed from one site to another.
    pub fn counts(&self, from: usize, to: usize) -> Counts {
        self.link(from, to).counts(if from < to { Direction::There } else { Direction::Back })
    }

    /// Cuts a site off from all others, or takes it back.
    pub fn isolate(&self, site: usize, cut: bool) {
        let of_site = self.links.iter().filter(|((i, k), _)| *i == site || *k == site);
        of_site.for_each(|(_, link)| link.cut(cut));
    }
}
