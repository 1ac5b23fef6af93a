//! One cluster of one layout, on disks, networks and clocks of its own, with volumes under verified load.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use farshore_powercut::Disk;
use farshore_tests::cluster::{
    BootClock, Cluster, Launch, Ledger, NbdClient, Network, Options, Site, Writers, all_in_sync, member, until,
};
use rand::RngExt;
use rand::rngs::StdRng;

use super::layout::Layout;
use super::tally::Tally;

const BLOCKS: usize = 1024;
const WRITERS: usize = 3;
/// So far behind a site may be that is to take over; a journal holds some thousands of records.
const CLOSE_RECORDS: u64 = 500;
/// Beyond it something hangs. Generous: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(120);
/// Writes that each volume must get through after a fault.
const PROGRESS: u64 = 25;
/// How far the clocks of later boots are ahead of the machine's, in seconds.
const BOOTS: [u64; 3] = [1_000, 86_400, 30 * 86_400];

/// A volume, where it is primary, and who writes to it.
pub struct Volume {
    pub name: &'static str,
    pub primary: usize,
    ledger: Arc<Ledger>,
    writers: Option<Writers>,
}

pub struct Stage {
    pub layout: Layout,
    pub volumes: Vec<Volume>,
    /// Held by mounts in the cluster's directory, so they go first.
    clocks: Vec<BootClock>,
    pub cluster: Cluster,
    pub tally: Arc<Tally>,
    pub began: Instant,
}

impl Stage {
    /// Says why where this machine can't do it.
    pub fn set(layout: Layout, seed: u64, tally: &Arc<Tally>) -> Result<Stage, String> {
        let network = Network::lay(layout.sites().len())?;
        // Small, so that whoever is away for some seconds needs a shipment.
        let journal = Options { journal_budget: "32MiB", journal_segment: "4MiB", ..Options::default() };
        let cluster = Cluster::lay_out_in(layout.sites(), journal, Some(network));
        cluster.put_on_disks(seed)?;
        let clock = |ahead: &u64| BootClock::ahead_by(*ahead, &cluster.dir().join(format!("clock-{ahead}")));
        let clocks = BOOTS.iter().map(clock).collect::<Result<Vec<_>, String>>()?;
        let mut stage =
            Stage { layout, volumes: Vec::new(), cluster, clocks, tally: tally.clone(), began: Instant::now() };
        stage.cluster.launch();
        // Several volumes over one journal; not all with their primary in one place.
        for (name, primary) in [("pg", 0), ("mail", 0), ("wiki", 1)] {
            stage.create(name, primary);
        }
        Ok(stage)
    }

    fn create(&mut self, name: &'static str, primary: usize) {
        let create = ["volume", "create", name, "--size=4MiB", "--lease=1s"];
        self.site(0).run(&[&create[..], self.layout.members()].concat());
        drop(self.site(0).attach(name));
        if primary != 0 {
            self.insist(0, &["switchover", name, "--to", &self.site(primary).name]);
            self.insist(primary, &["volume", "attach", name, "--device", "nbd"]);
        }
        let ledger = Ledger::of_new(BLOCKS);
        self.tally.keep(&ledger);
        let writers = Writers::start(&ledger, self.site(primary).nbd_socket(), name, WRITERS);
        self.volumes.push(Volume { name, primary, ledger, writers: Some(writers) });
    }

    pub fn site(&self, index: usize) -> &Site {
        &self.cluster.sites[index]
    }

    pub fn say(&self, what: &str) {
        println!("{:8.1} s  {what}", self.began.elapsed().as_secs_f64());
    }

    /// Starts what does not run, each with a boot clock as chance has it.
    pub fn start_all(&self, dice: &mut StdRng) {
        for (index, site) in self.cluster.sites.iter().enumerate().filter(|(_, site)| !site.runs()) {
            let network = self.cluster.network.as_ref().expect("a stage has a network");
            let mut through = network.through(index);
            if let Some(clock) = self.clocks.get(dice.random_range(0..=self.clocks.len())) {
                through.extend(clock.through());
            }
            site.set_launch(Launch { through, ..Launch::default() });
            site.launch();
        }
        self.cluster.sites.iter().for_each(Site::wait_ready);
    }

    /// Every volume's writers get on.
    pub fn wait_progress(&self) {
        for volume in &self.volumes {
            volume.writers().wait_for_within(PROGRESS, PATIENCE);
        }
    }

    /// A verb that may have to wait for what is in its way: elections, a lease, a copy that is behind.
    pub fn insist(&self, at: usize, verb: &[&str]) {
        let site = self.site(at);
        until(&format!("{verb:?} at {}", site.name), PATIENCE, || site.try_run(verb).map_err(|refusal| refusal.text));
    }

    /// Until the volumes' primaries are there. A site that has just come back may not know yet which volumes the lost one
    /// had, so it is asked again.
    pub fn fail_over(&self, lost: &str, to: usize, more: &[&str], volumes: &[usize]) {
        let site = self.site(to);
        until(&format!("{} to take over from {lost}", site.name), PATIENCE, || {
            let asked = site.try_run(&[&["failover", "--from", lost][..], more].concat());
            let elsewhere = volumes.iter().find(|volume| {
                let shown = site.try_run(&["volume", "show", self.volumes[**volume].name]);
                !shown.is_ok_and(|shown| shown["primary"]["site"] == site.name.as_str())
            });
            match elsewhere {
                None => Ok(()),
                Some(volume) => Err(format!("{} is not here: {asked:?}", self.volumes[*volume].name)),
            }
        });
    }

    /// What began a new life at this site after a failed sync counts again, for every volume.
    pub fn readmit(&self, index: usize) {
        let reborn = self.site(index).name.as_str();
        for Volume { name, primary, .. } in &self.volumes {
            let site = self.site(*primary);
            until(&format!("{reborn} to count for {name} again"), PATIENCE, || {
                let shown = site.try_run(&["volume", "show", name]).map_err(|refusal| refusal.text)?;
                let copy = member(&shown, reborn);
                // The primary may not have heard of its new life yet; it knows of that itself.
                let own = self.site(index).try_run(&["volume", "show", name]).map_err(|refusal| refusal.text)?;
                let unknown =
                    own["conditions"].as_array().is_some_and(|c| c.iter().any(|c| c["name"] == "not-readmitted"));
                if copy["state"] == "not-readmitted" || unknown {
                    let asked = site.try_run(&["member", "replace", name, reborn]);
                    return Err(format!("{asked:?}"));
                }
                if copy["in_sync_set"] == true && copy["connected"] == true { Ok(()) } else { Err(format!("{copy:#}")) }
            });
        }
    }

    /// The volume's device and its writers are at another site from now on.
    pub fn follow(&mut self, volume: usize, to: usize) {
        let name = self.volumes[volume].name;
        self.insist(to, &["volume", "attach", name, "--device", "nbd"]);
        self.volumes[volume].primary = to;
        self.volumes[volume].writers().follow(self.site(to).nbd_socket());
        Tally::add(&self.tally.moves, 1);
    }

    /// Until the site's copies are but a little behind.
    pub fn wait_close(&self, index: usize) {
        let waited_for = self.site(index).name.as_str();
        for Volume { name, primary, .. } in &self.volumes {
            let site = self.site(*primary);
            until(&format!("the copy of {name} in {waited_for} to be close"), PATIENCE, || {
                let shown = site.try_run(&["volume", "show", name]).map_err(|refusal| refusal.text)?;
                let copy = member(&shown, waited_for);
                let close = copy["lag_records"].as_u64().is_some_and(|lag| lag < CLOSE_RECORDS);
                if close && copy["in_sync_set"] == true { Ok(()) } else { Err(format!("{copy:#}")) }
            });
        }
    }

    pub fn wait_in_sync(&self, volume: usize) {
        let Volume { name, primary, .. } = &self.volumes[volume];
        let site = self.site(*primary);
        until(&format!("all copies of {name} to be in sync"), PATIENCE, || {
            match site.try_run(&["volume", "show", name]) {
                Ok(shown) if all_in_sync(&shown) => Ok(()),
                Ok(shown) => Err(format!("{shown:#}")),
                Err(refusal) => Err(format!("{refusal:?}")),
            }
        });
    }

    /// Everything is mended, the writers end, and every copy of every volume is read in full, as a primary.
    pub fn close(mut self, dice: &mut StdRng) {
        self.cluster.network.as_ref().expect("a stage has a network").heal();
        self.start_all(dice);
        self.cluster.sites.iter().for_each(|site| site.disk(Disk::mend));
        self.wait_progress();
        for index in 0..self.volumes.len() {
            let acked = self.volumes[index].writers.take().expect("they run until here").stop();
            Tally::add(&self.tally.acked, acked as usize);
            self.check_everywhere(index);
        }
        self.say(&format!("{:?} closed: every copy of every volume read in full", self.layout));
    }

    fn check_everywhere(&self, index: usize) {
        let Volume { name, primary, ledger, .. } = &self.volumes[index];
        let at = *primary;
        let mut client = self.connect(at, name);
        ledger.check_all(&mut client);
        drop(client);
        let others = (0..self.layout.data_sites()).filter(|other| *other != at);
        let mut from = at;
        for to in others {
            self.cluster.wait_in_sync(&self.site(from).name, name);
            self.insist(from, &["volume", "detach", name]);
            self.insist(from, &["switchover", name, "--to", &self.site(to).name]);
            self.insist(to, &["volume", "attach", name, "--device", "nbd"]);
            ledger.check_all(&mut self.connect(to, name));
            from = to;
        }
    }

    fn connect(&self, at: usize, name: &str) -> NbdClient {
        let socket = self.site(at).nbd_socket();
        until(&format!("{name}'s device"), PATIENCE, || NbdClient::connect(&socket, name))
    }

    pub fn dir(&self) -> &Path {
        self.cluster.dir()
    }
}

impl Volume {
    pub fn writers(&self) -> &Writers {
        self.writers.as_ref().expect("they run until the stage closes")
    }
}
