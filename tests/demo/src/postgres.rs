//! PostgreSQL from the distribution's packages: as user postgres, on loopback, with everything on that makes a confirmed
//! commit mean something.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rand::RngExt;
use rustix::process::Signal;
use tokio_postgres::{Client, NoTls};

use crate::error::{DemoError, Result, io};
use crate::ledger::Entry;
use crate::load::{ACCOUNTS, SCHEMA};
use crate::process::{self, Daemon, run};
use crate::proof::Contents;
use crate::wait;

const SETUP_LIMIT: Duration = Duration::from_secs(90);
/// Crash recovery replays what was written since the last checkpoint.
const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(30);
const CONNECT_INTERVAL: Duration = Duration::from_millis(15);
const USER: &str = "postgres";
const ROLE: &str = "demo";
/// What a confirmed commit leans on. Set and then asked for, since a file in the data directory could say otherwise.
const DURABLE: [&str; 3] = ["fsync", "full_page_writes", "synchronous_commit"];

/// The programs, and the one role's password. One for all the places where the database runs.
#[derive(Debug, Clone)]
pub struct Postgres {
    programs: PathBuf,
    password: String,
    uid: u32,
    gid: u32,
}

/// A database that runs.
#[derive(Debug)]
pub struct Server {
    pub daemon: Daemon,
    pub port: u16,
    settings: Postgres,
}

impl Postgres {
    /// Finds the newest installed version.
    pub fn find() -> Result<Self> {
        let missing = |what: &str| DemoError::Missing {
            what: format!("{what} is not there"),
            remedy: "install Debian's packages postgresql and postgresql-contrib (make deps)".into(),
        };
        let versions = fs::read_dir("/usr/lib/postgresql").map_err(|_| missing("/usr/lib/postgresql"))?;
        let mut found: Vec<(u32, PathBuf)> = versions
            .filter_map(|entry| Some((entry.as_ref().ok()?.file_name().to_str()?.parse().ok()?, entry.ok()?.path())))
            .filter(|(_, dir)| ["initdb", "postgres", "pg_amcheck"].iter().all(|p| dir.join("bin").join(p).exists()))
            .collect();
        found.sort();
        let (_, newest) = found.pop().ok_or_else(|| missing("a PostgreSQL with initdb, postgres and pg_amcheck"))?;
        let id = |flag: &str| -> Result<u32> {
            let text = run(Command::new("id").args([flag, USER]), STOP_LIMIT).map_err(|_| missing("user postgres"))?;
            text.stdout.trim().parse().map_err(|_| missing("user postgres"))
        };
        let password = format!("{:032x}", rand::rng().random::<u128>());
        Ok(Self { programs: newest.join("bin"), password, uid: id("-u")?, gid: id("-g")? })
    }

    pub fn version(&self) -> Result<String> {
        Ok(run(Command::new(self.programs.join("postgres")).arg("--version"), STOP_LIMIT)?.stdout.trim().to_string())
    }

    pub fn dsn(&self, port: u16) -> String {
        format!("host=127.0.0.1 port={port} user={ROLE} password={} dbname={ROLE} connect_timeout=5", self.password)
    }

    /// A new cluster in `data`, whose parent is there. `scratch` is a folder off the volume.
    pub fn create(&self, data: &Path, scratch: &Path) -> Result<()> {
        fs::create_dir(data).map_err(io("create", data))?;
        fs::set_permissions(data, fs::Permissions::from_mode(0o700)).map_err(io("set the mode of", data))?;
        chown(data, Some(self.uid), Some(self.gid)).map_err(io("give to user postgres", data))?;
        let secret = scratch.join("password");
        fs::write(&secret, &self.password).map_err(io("write", &secret))?;
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).map_err(io("set the mode of", &secret))?;
        chown(&secret, Some(self.uid), Some(self.gid)).map_err(io("give to user postgres", &secret))?;
        let mut command = self.as_postgres("initdb");
        command.args([
            "--username",
            ROLE,
            "--auth=scram-sha-256",
            "--data-checksums",
            "--encoding=UTF8",
            "--no-locale",
        ]);
        command.arg("--pwfile").arg(&secret).arg("-D").arg(data);
        run(&mut command, SETUP_LIMIT).map(drop)
    }

    /// Starts the database and waits until it takes connections: after a kill that is after its recovery.
    pub fn start(&self, data: &Path, port: u16, log: &Path) -> Result<Server> {
        let mut args = vec!["-D".to_string(), data.display().to_string()];
        let shared = [
            ("listen_addresses", "127.0.0.1".to_string()),
            ("port", port.to_string()),
            ("unix_socket_directories", String::new()),
            ("max_connections", "60".into()),
            ("shared_buffers", "64MB".into()),
            ("max_wal_size", "256MB".into()),
            ("min_wal_size", "64MB".into()),
            ("jit", "off".into()),
        ];
        let durable = DURABLE.map(|name| (name, "on".to_string()));
        args.extend(shared.iter().chain(&durable).flat_map(|(name, value)| ["-c".into(), format!("{name}={value}")]));
        let name = format!("postgres on port {port}");
        let daemon = Daemon::start(&name, &self.programs.join("postgres"), Some(USER), &args, log)?;
        let mut server = Server { daemon, port, settings: self.clone() };
        wait::until(&name, START_LIMIT, CONNECT_INTERVAL, || {
            server.daemon.check()?;
            // The role's own database may not exist yet.
            let answer =
                server.ask("postgres", "connect", async |client| client.simple_query("select 1").await.map(drop));
            Ok(answer.map_err(|e| e.to_string()))
        })?;
        Ok(server)
    }

    fn as_postgres(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", USER, "--regid", USER, "--init-groups", "--"]).arg(self.programs.join(program));
        command.current_dir("/").env("LC_ALL", "C").env("PGPASSWORD", &self.password);
        // Silence is what a clean check sounds like.
        command.env("PGOPTIONS", "--client-min-messages=warning");
        command
    }
}

impl Server {
    /// The database's own tables, and proof that its settings are the ones that count.
    pub fn prepare(&self) -> Result<()> {
        self.ask("postgres", "create the database", async |client| {
            client.batch_execute(&format!("create database {ROLE}")).await
        })?;
        self.ask(ROLE, "create the tables", async |client| {
            client.batch_execute(SCHEMA).await?;
            let fill = format!("insert into accounts (id) select generate_series(0, {})", ACCOUNTS - 1);
            client.batch_execute(&fill).await
        })?;
        for name in DURABLE.iter().copied().chain(["data_checksums"]) {
            let found: String = self
                .ask(ROLE, "show", async |client| Ok(client.query_one(&format!("show {name}"), &[]).await?.get(0)))?;
            if found != "on" {
                return Err(DemoError::Broken(format!("PostgreSQL's {name} is {found}, not on")));
            }
        }
        Ok(())
    }

    pub fn dsn(&self) -> String {
        self.settings.dsn(self.port)
    }

    /// One commit, confirmed.
    pub fn commit_moment(&self, what: &str) -> Result<()> {
        self.ask(ROLE, "commit", async |client| {
            client.execute("insert into moments (what) values ($1)", &[&what]).await.map(drop)
        })
    }

    /// Everything that the clients wrote.
    pub fn contents(&self) -> Result<Contents> {
        self.ask(ROLE, "read everything", async |client| {
            let mut found = Contents::default();
            for row in client.query("select client, n, account, amount, stamp from entries", &[]).await? {
                let entry = Entry { account: row.get(2), amount: row.get(3), stamp: row.get(4) };
                found.entries.insert((row.get(0), row.get(1)), entry);
            }
            for row in client.query("select id, total, changes from accounts", &[]).await? {
                found.accounts.insert(row.get(0), (row.get(1), row.get(2)));
            }
            Ok(found)
        })
    }

    /// The database's own check of every table and index against each other.
    pub fn amcheck(&self) -> Result<()> {
        let mut command = self.settings.as_postgres("pg_amcheck");
        command.args(["--host=127.0.0.1", &format!("--port={}", self.port), "--username", ROLE, "--database", ROLE]);
        command.args(["--install-missing", "--heapallindexed", "--rootdescend"]);
        let output = run(&mut command, SETUP_LIMIT)?;
        let said = format!("{}{}", output.stdout, output.stderr);
        if said.trim().is_empty() { Ok(()) } else { Err(DemoError::Broken(format!("pg_amcheck says: {said}"))) }
    }

    /// The postmaster and all it started, as recorded now.
    pub fn pids(&self) -> Vec<u32> {
        let postmaster = self.daemon.pid();
        std::iter::once(postmaster).chain(process::children(postmaster)).collect()
    }

    /// An orderly end, with a checkpoint.
    pub fn stop(mut self) -> Result<()> {
        if self.daemon.stop(Signal::INT, STOP_LIMIT) {
            return Ok(());
        }
        let why = format!("had to be killed after {} s: {}", STOP_LIMIT.as_secs(), process::tail(&self.daemon.log));
        Err(DemoError::Command { command: self.daemon.name.clone(), why })
    }

    /// One question over a connection of its own.
    fn ask<T>(
        &self,
        database: &str,
        operation: &'static str,
        question: impl AsyncFnOnce(&Client) -> std::result::Result<T, tokio_postgres::Error>,
    ) -> Result<T> {
        let failed = |source| DemoError::Io { operation: "start", path: "a database client".into(), source };
        let said = |source| DemoError::Database { operation, source };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let mut config: tokio_postgres::Config = self.dsn().parse().map_err(said)?;
        config.dbname(database);
        runtime.block_on(async {
            let (client, connection) = config.connect(NoTls).await.map_err(said)?;
            let wire = tokio::spawn(connection);
            let answer = question(&client).await.map_err(said);
            drop(client);
            let _ = wire.await;
            answer
        })
    }
}
