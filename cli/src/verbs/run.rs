//! From the parsed arguments to the verb. Verbs that need no replicator never look for one.

use crate::args::{Cli, SiteVerb, Verb};
use crate::client::Replicator;
use crate::failure::{Exit, Failure};
use crate::{cert, doctor, inspect, output, views};

use super::{drill, failback, members, replication, snapshots, status, volumes};

pub async fn run(cli: Cli) -> Result<(), Failure> {
    let Cli { global, verb } = cli;
    let format = global.output;
    match verb {
        Verb::Cert(verb) => return cert::run(format, verb),
        Verb::Inspect(verb) => return inspect::run(format, verb),
        Verb::Doctor { config } => return doctor::run(&global, &config).await,
        Verb::Fence(_) => return Err(later("fence", "a demoted or detached volume takes no writes: farshore demote")),
        _ => {}
    }
    let replicator = Replicator::connect(&global).await?;
    match verb {
        Verb::Status(args) => status::run(&global, replicator, args).await,
        Verb::Volume(verb) => volumes::run(format, &replicator, verb).await,
        Verb::Snapshot(verb) => snapshots::run(format, &replicator, verb).await,
        Verb::Member(verb) => members::run(format, &replicator, verb).await,
        Verb::Promote(args) => replication::promote(format, &replicator, args).await,
        Verb::Demote { volume } => replication::demote(format, &replicator, volume).await,
        Verb::Switchover { volume, to } => replication::switchover(format, &replicator, volume, to).await,
        Verb::Failover { from, volumes, reduce } => {
            replication::failover(format, &replicator, from, volumes, reduce).await
        }
        Verb::Resync(args) => replication::resync(format, &replicator, args).await,
        Verb::Failback(args) => failback::failback(format, &replicator, args).await,
        Verb::Drill(args) => drill::drill(format, &replicator, args).await,
        Verb::Scrub { volume, wait } => replication::scrub(format, &replicator, volume, wait).await,
        Verb::Site(SiteVerb::List) => {
            let peers = replicator.node().peers(farshore_proto::v1::PeersRequest {}).await?.into_inner();
            output::print(format, &views::SitesView::from(peers))
        }
        // Dealt with above.
        Verb::Cert(_) | Verb::Inspect(_) | Verb::Doctor { .. } => Ok(()),
        Verb::Fence(_) => Ok(()),
    }
}

fn later(verb: &str, instead: &str) -> Failure {
    Failure::new(Exit::Unsupported, format!("{verb} is not supported by this version"), instead)
}
