//! From the parsed arguments to the verb. Verbs that need no replicator never look for one.

use crate::args::{Cli, SiteVerb, Verb};
use crate::client::Replicator;
use crate::failure::Failure;
use crate::selection::Which;
use crate::{cert, doctor, inspect, output, views};

use super::{drill, failback, fence, members, replication, snapshots, status, volumes};

pub async fn run(cli: Cli) -> Result<(), Failure> {
    let Cli { global, verb } = cli;
    let format = global.output;
    match verb {
        Verb::Cert(verb) => return cert::run(format, verb),
        Verb::Inspect(verb) => return inspect::run(format, verb),
        Verb::Doctor { config } => return doctor::run(&global, &config).await,
        _ => {}
    }
    let replicator = Replicator::connect(&global).await?;
    match verb {
        Verb::Status(args) => status::run(&global, replicator, args).await,
        Verb::Volume(verb) => volumes::run(format, &replicator, verb).await,
        Verb::Snapshot(verb) => snapshots::run(format, &replicator, verb).await,
        Verb::Member(verb) => members::run(format, &replicator, verb).await,
        Verb::Promote(args) => replication::promote(format, &replicator, args).await,
        Verb::Demote(selection) => replication::demote(format, &replicator, selection).await,
        Verb::Switchover { selection, to, wait } => {
            replication::switchover(format, &replicator, selection, to, wait).await
        }
        Verb::Failover { from, volumes, labels, reduce } => {
            let which = Which { labels, site: None };
            replication::failover(format, &replicator, from, (volumes, which), reduce).await
        }
        Verb::Resync(args) => replication::resync(format, &replicator, args).await,
        Verb::Failback(args) => failback::failback(format, &replicator, args).await,
        Verb::Fence(args) => fence::fence(format, &replicator, args, false).await,
        Verb::Unfence(args) => fence::fence(format, &replicator, args, true).await,
        Verb::Drill(args) => drill::drill(format, &replicator, args).await,
        Verb::Scrub { volume, wait } => replication::scrub(format, &replicator, volume, wait).await,
        Verb::Site(SiteVerb::List) => {
            let peers = replicator.node().peers(farshore_proto::v1::PeersRequest {}).await?.into_inner();
            output::print(format, &views::SitesView::from(peers))
        }
        // Dealt with above.
        Verb::Cert(_) | Verb::Inspect(_) | Verb::Doctor { .. } => Ok(()),
    }
}
