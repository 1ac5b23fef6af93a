//! What a completion promises in each durability class, when the primary's site is lost or its daemon dies.

use farshore_tests::cluster::{Cluster, Image, NbdClient, eventually};

const BLOCK: u64 = 4096;
const FLUSHED: u64 = 200;
const WRITTEN: u64 = 400;

fn write(client: &mut NbdClient, blocks: std::ops::Range<u64>) {
    for block in blocks {
        let bytes = Image::Stamp(block + 1).bytes(block);
        client.write(block * BLOCK, &bytes).expect("a write to a healthy volume completes");
    }
}

fn read(client: &mut NbdClient, block: u64) -> Image {
    let bytes = client.read(block * BLOCK, BLOCK as usize).expect("a healthy volume can be read");
    Image::read(block, &bytes).expect("a block is whole")
}

fn create(cluster: &Cluster) {
    let east = cluster.site("east");
    east.run(&[
        "volume",
        "create",
        "pg",
        "--size=8MiB",
        "--members=east,west,north",
        "--lease=1s",
        "--durability=flush",
    ]);
}

#[test]
fn in_class_flush_a_lost_site_takes_only_what_was_not_flushed_and_that_from_the_end() {
    let cluster = Cluster::start(&["east", "west", "north"]);
    let [east, west] = ["east", "west"].map(|s| cluster.site(s));
    create(&cluster);
    let mut client = east.attach("pg");
    write(&mut client, 0..FLUSHED);
    client.flush().expect("a flush completes");
    write(&mut client, FLUSHED..WRITTEN);
    east.kill();

    west.run(&["failover", "--from", "east"]);
    let mut client = west.attach("pg");
    for block in 0..FLUSHED {
        assert_eq!(read(&mut client, block), Image::Stamp(block + 1), "block {block} was flushed");
    }
    let kept = (FLUSHED..WRITTEN).take_while(|b| read(&mut client, *b) == Image::Stamp(b + 1)).count() as u64;
    for block in FLUSHED + kept..WRITTEN {
        assert_eq!(read(&mut client, block), Image::Zeroes, "what is kept is a prefix; {kept} writes were");
    }
    println!("{kept} of {} writes that were not flushed survived", WRITTEN - FLUSHED);
}

#[test]
fn in_class_flush_a_restarted_daemon_still_has_every_completed_write() {
    let cluster = Cluster::start(&["east", "west", "north"]);
    let east = cluster.site("east");
    create(&cluster);
    let mut client = east.attach("pg");
    write(&mut client, 0..WRITTEN);
    east.kill();
    east.start();
    cluster.wait_connected();
    let mut client = eventually("the device to be taken back", || NbdClient::connect(&east.nbd_socket(), "pg"));
    for block in 0..WRITTEN {
        assert_eq!(read(&mut client, block), Image::Stamp(block + 1), "block {block} was completed");
    }
}
