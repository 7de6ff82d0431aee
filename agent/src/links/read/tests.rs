//! Namespaces that are gone or too many, and lists that are longer than is kept.

use std::sync::Arc;

use super::super::tests::{attribute, kind, message, number, route};
use super::*;
use crate::pod::Pod;

fn own() -> Place {
    Place { owner: None, file: "/proc/self/ns/net".into(), inode: None, doubt: None }
}

fn gone() -> Place {
    let owner = Some(Arc::new(Pod { namespace: "shop".into(), name: "web".into(), uid: "u".into() }));
    Place { owner, file: "/nonexistent/ns/net".into(), inode: None, doubt: Some("it may be another's") }
}

const WANTS: Wants = Wants { pod_exceptions: false };

/// Only the host's is what all hangs on.
#[test]
fn a_pod_that_is_gone_is_told_and_the_others_are_read() {
    let read = super::read(&[own(), gone()], WANTS).unwrap();
    assert_eq!((read[0].owner.as_ref(), read[1].owner.as_ref()), (None, gone().owner.as_ref()));
    assert!(!read[0].links.is_empty() && read[1].links.is_empty());
    let unread = |what, why: &str| Unread { what, why: why.to_owned() };
    assert_eq!(
        read[1].unread,
        [unread("network namespace", "it may be another's"), unread("links", "its process is gone")]
    );
}

#[test]
fn that_there_are_too_many_namespaces_is_told_of_the_host() {
    let told = |pods: usize| {
        let places = [vec![own()], vec![gone(); pods]].concat();
        let read = super::read(&places, WANTS).unwrap();
        let told = read[0].unread.iter().find(|unread| unread.what == "links of some pods");
        (read.len(), told.map(|unread| unread.why.clone()))
    };
    assert_eq!(told(511), (512, None));
    assert_eq!(told(512), (512, Some("there are more than 512".to_owned())));
    assert_eq!(told(600).1.as_deref(), Some("there are more than 512"));
}

#[test]
fn a_list_is_cut_where_it_is_longer_than_is_kept() {
    for (most, whole, wanted) in [
        (4, Whole::Yes, (vec![1, 2, 3], Whole::Yes)),
        (3, Whole::Yes, (vec![1, 2, 3], Whole::Yes)),
        (3, Whole::No, (vec![1, 2, 3], Whole::No)),
        (2, Whole::Yes, (vec![1, 2], Whole::No)),
        (1, Whole::Yes, (vec![1], Whole::No)),
    ] {
        assert_eq!(bounded(vec![1, 2, 3], most, whole), wanted, "{most}");
    }
    let mut namespace = Namespace::default();
    part(LINKS, Whole::Yes, &mut namespace);
    assert_eq!(namespace.unread, []);
    part(LINKS, Whole::No, &mut namespace);
    let why = "there are too many: the first of them were read".to_owned();
    assert_eq!(namespace.unread, [Unread { what: "links", why }]);
}

#[test]
fn no_more_paths_are_kept_than_there_is_room_for() {
    let metrics = attribute(8, &number(2, 1400));
    let path = route(32, 254, 0x200, &[attribute(1, &[10, 1, 2, 3]), number(4, 3), metrics]);
    let one = super::route::exception(&path).unwrap();
    for (before, has_room) in [(4094, true), (4095, false), (4096, false)] {
        let mut learned = vec![one.clone(); before];
        assert_eq!((learn(&path, &mut learned), learned.len()), (has_room, before + 1));
    }
    assert!(learn(&[], &mut Vec::new()), "a message of something else");
}

/// A number may have become another namespace's meanwhile, or another device's.
#[test]
fn the_other_end_of_a_veth_is_a_veth_that_names_it() {
    let answer = |netns: u32, name: &str, lower: u32| {
        let attributes =
            [attribute(3, b"eth0\0"), number(4, 1400), number(46, netns), number(5, lower), kind(name, &[])];
        far_end(&message(12, 1, &attributes), NetnsId(3), 7)
    };
    assert_eq!(answer(3, "veth", 7), Some(Far { name: "eth0".to_owned(), mtu: 1400, up: true }));
    assert_eq!(answer(4, "veth", 7), None, "of another namespace");
    assert_eq!(answer(3, "vxlan", 7), None);
    assert_eq!(answer(3, "veth", 8), None, "of another one");
}
