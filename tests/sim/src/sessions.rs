//! Whose device is it? Sessions come and go in one order, and only where the volume was promoted.
//!
//! | checker | what it holds against the run |
//! |---|---|
//! | session | a session that was released, detached or followed by another never gets its device again |
//! | home | a device opens only in the first primary site, or one that somebody promoted or handed over to |

use std::collections::{BTreeMap, BTreeSet};

use farshore_core::api::{Change, Command, Promotion};
use farshore_core::ids::{MemberId, SessionId};
use farshore_core::register::Member;

use crate::branches::Lineage;
use crate::oracle::{Verdict, wrong};

#[derive(Default)]
pub struct Sessions {
    /// Where each session was open last.
    opened: BTreeMap<SessionId, MemberId>,
    /// In each lineage.
    newest: BTreeMap<Lineage, SessionId>,
    /// Sessions that are over, and why.
    over: BTreeMap<SessionId, &'static str>,
    sites: BTreeMap<MemberId, String>,
    homes: BTreeSet<String>,
    /// The sessions that commands under way detach.
    detaching: BTreeMap<u64, SessionId>,
}

impl Sessions {
    /// The first members, and where the primary is at first.
    pub fn begin(&mut self, members: &[Member], home: &str) {
        self.sites = members.iter().map(|m| (m.id, m.site.clone())).collect();
        self.homes.insert(home.to_string());
    }

    /// A command was given at `node`; from then on it may have its way.
    pub fn asked(&mut self, node: MemberId, number: u64, command: &Command) {
        let to = match command {
            Command::Promote { why: Promotion::Verb | Promotion::Takeover, .. } | Command::Force { .. } => node,
            Command::Handover { to } => *to,
            Command::Change(Change::Add { member, .. }) => {
                self.sites.insert(member.id, member.site.clone());
                return;
            }
            Command::Detach { session } => {
                self.detaching.insert(number, *session);
                return;
            }
            _ => return,
        };
        if let Some(site) = self.sites.get(&to).filter(|site| !self.homes.contains(*site)) {
            self.homes.insert(site.clone());
        }
    }

    pub fn answered(&mut self, number: u64, ok: bool) {
        if let Some(session) = self.detaching.remove(&number).filter(|_| ok) {
            self.over.entry(session).or_insert("was detached");
        }
    }

    pub fn opened(&mut self, node: MemberId, session: SessionId, lineage: Lineage) -> Verdict {
        let site = self.sites.get(&node).map_or("?", String::as_str);
        if !self.homes.contains(site) {
            return wrong("home", format!("a device opens at {node} in {site}, which nobody promoted"));
        }
        if let Some(why) = self.over.get(&session) {
            return wrong("session", format!("{node} opens a device for {session}, which {why}"));
        }
        if let Some(before) = self.newest.insert(lineage, session).filter(|before| *before != session) {
            self.over.insert(before, "was followed by another");
        }
        self.opened.insert(session, node);
        Ok(())
    }

    /// The holder at `node` has said that its epoch is over.
    pub fn released(&mut self, node: MemberId) {
        let here = self.opened.iter().filter(|(_, at)| **at == node).map(|(session, _)| *session);
        for session in here.collect::<Vec<_>>() {
            self.over.entry(session).or_insert("was released");
        }
    }
}
