//! What is no drop: packets that were used up.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use crate::harness::DEADLINE;
use crate::harness::netns::Netns;

use super::{Lab, db4, db6};

const ADDRESSES: [&str; 4] = ["10.99.1.2", "10.99.2.2", "fd99:1::2", "fd99:2::2"];

#[test]
fn pings_that_are_answered() {
    let lab = Lab::lock();
    let watch = lab.watch();
    lab.web.netns.run("ping", &["-c", "3", "-i", "0.2", "10.99.2.2"]);
    lab.web.netns.run("ping", &["-c", "3", "-i", "0.2", "fd99:2::2"]);
    watch.expect_no_harm(&ADDRESSES);
}

#[test]
fn a_transfer_from_first_to_last_byte() {
    const TRIES: u32 = 5;
    let lab = Lab::lock();
    for to in [db4(7301), db6(7302)] {
        let quiet = (0..TRIES).any(|_| {
            let before = retransmitted(&lab);
            let watch = lab.watch();
            transfer(&lab, to);
            // Where the machine stalls, TCP sends twice, and of two the later is dropped: nothing is wrong with that.
            let is_clean = retransmitted(&lab) == before;
            if is_clean {
                watch.expect_no_harm(&ADDRESSES);
            }
            is_clean
        });
        assert!(quiet, "none of {TRIES} transfers to {to} went without a retransmission");
    }
}

/// A million bytes from `web` to `db`, and an orderly end.
fn transfer(lab: &Lab, to: SocketAddr) {
    let listener = lab.db.netns.inside(|| TcpListener::bind(to).unwrap());
    let server = thread::spawn(move || {
        let mut bytes = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut bytes).unwrap();
        bytes.len()
    });
    let mut client = lab.web.netns.inside(|| TcpStream::connect(to).unwrap());
    client.set_write_timeout(Some(DEADLINE)).unwrap();
    client.write_all(&vec![7; 1_000_000]).unwrap();
    drop(client);
    assert_eq!(server.join().unwrap(), 1_000_000);
}

/// Segments that `web` and `db` have sent again so far.
fn retransmitted(lab: &Lab) -> u64 {
    let of = |netns: &Netns| {
        let text = netns.inside(|| fs::read_to_string("/proc/thread-self/net/snmp").unwrap());
        let mut tcp = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
        let (names, numbers) = (tcp.next().unwrap().split(' '), tcp.next().unwrap().split(' '));
        let (_, number) = names.zip(numbers).find(|(name, _)| *name == "RetransSegs").unwrap();
        number.parse::<u64>().unwrap()
    };
    of(&lab.web.netns) + of(&lab.db.netns)
}
