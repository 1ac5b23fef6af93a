//! The load: clients in a process of their own, each with one transaction under way at any time.
//!
//! Every transaction inserts an entry and changes an account, so that half of one would show. It ends at SIGTERM after
//! the transactions under way, and at the first error of the database.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rand::{Rng, RngExt};
use tokio_postgres::{Client, NoTls};

use crate::error::{DemoError, Result};
use crate::ledger::{Entry, Writer};

/// Fewer than clients times some, so that transactions wait for each other now and then.
pub const ACCOUNTS: i32 = 500;

pub const SCHEMA: &str = "
    create table entries (
        client int not null, n bigint not null, account int not null, amount bigint not null, stamp text not null,
        note text not null, primary key (client, n));
    create index on entries (account);
    create table accounts (id int primary key, total bigint not null default 0, changes bigint not null default 0);
    create table moments (what text not null, at timestamptz not null default clock_timestamp());";

/// Runs clients `first..first + count` until SIGTERM.
pub fn run(dsn: &str, ledger: &Path, first: i32, count: i32) -> Result<()> {
    let failed = |source| DemoError::Io { operation: "start", path: "the clients".into(), source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let ledger = Arc::new(Mutex::new(Writer::append(ledger)?));
    runtime.block_on(async {
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = tokio::task::JoinSet::new();
        for client in first..first + count {
            clients.spawn(one(dsn.to_string(), client, ledger.clone(), stop.clone()));
        }
        let mut terminate =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).map_err(failed)?;
        loop {
            tokio::select! {
                _ = terminate.recv() => stop.store(true, Ordering::Relaxed),
                ended = clients.join_next() => match ended {
                    None => return Ok(()),
                    Some(Ok(result)) => result?,
                    Some(Err(e)) => return Err(DemoError::Broken(format!("a client panicked: {e}"))),
                },
            }
        }
    })
}

async fn one(dsn: String, client: i32, ledger: Arc<Mutex<Writer>>, stop: Arc<AtomicBool>) -> Result<()> {
    let said = |operation| move |source| DemoError::Database { operation, source };
    let (mut database, connection) = tokio_postgres::connect(&dsn, NoTls).await.map_err(said("connect"))?;
    let wire = tokio::spawn(connection);
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        n += 1;
        let entry = drawn(&mut rand::rng());
        commit(&mut database, client, n, &entry).await.map_err(said("commit"))?;
        ledger.lock().expect("no holder of this lock panics").confirm((client, n), &entry)?;
    }
    drop(database);
    let _ = wire.await;
    Ok(())
}

fn drawn(rng: &mut impl Rng) -> Entry {
    let account = rng.random_range(0..ACCOUNTS);
    Entry { account, amount: rng.random_range(-100..=100), stamp: format!("{:032x}", rng.random::<u128>()) }
}

async fn commit(
    database: &mut Client,
    client: i32,
    n: i64,
    entry: &Entry,
) -> std::result::Result<(), tokio_postgres::Error> {
    let transaction = database.transaction().await?;
    // The note makes a row as large as an ordinary one.
    let note = entry.stamp.repeat(6);
    let insert = "insert into entries (client, n, account, amount, stamp, note) values ($1, $2, $3, $4, $5, $6)";
    let values: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
        [&client, &n, &entry.account, &entry.amount, &entry.stamp, &note];
    let change = "update accounts set total = total + $2, changes = changes + 1 where id = $1";
    transaction.execute(insert, &values).await?;
    transaction.execute(change, &[&entry.account, &entry.amount]).await?;
    transaction.commit().await
}
