//! What is no drop: packets that were used up.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;

use crate::harness::DEADLINE;

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
    let lab = Lab::lock();
    for to in [db4(7301), db6(7302)] {
        let listener = lab.db.netns.inside(|| TcpListener::bind(to).unwrap());
        let watch = lab.watch();
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
        watch.expect_no_harm(&ADDRESSES);
    }
}
