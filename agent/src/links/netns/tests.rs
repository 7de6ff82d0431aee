//! Which namespace is which, and why one cannot be read.

use super::*;

fn place(file: &std::path::Path) -> Place {
    Place { owner: None, file: file.to_owned(), inode: None, doubt: None }
}

#[test]
fn a_namespace_is_told_from_others_by_its_inode() {
    let directory = tempfile::tempdir().unwrap();
    let files = ["one", "other"].map(|name| directory.path().join(name));
    for file in &files {
        std::fs::write(file, "").unwrap();
    }
    let [one, again, other] = [&files[0], &files[0], &files[1]].map(|file| Held::open(&place(file)).unwrap());
    assert!(one.is(&again) && !one.is(&other));
    assert!(
        one.is_at(&files[0]) && !one.is_at(&files[1]) && !one.is_at(directory.path().join("none").as_ref())
    );
    let inode = |inode: u64| Place { inode: Some(u32::try_from(inode).unwrap_or(0)), ..place(&files[0]) };
    if u32::try_from(one.inode).is_ok() {
        assert!(Held::open(&inode(one.inode)).is_ok());
    }
    let another = Held::open(&inode(u64::from(u32::MAX) + 1)).err();
    assert_eq!(another.as_deref(), Some("its process is gone"), "another has its number now");
}

#[test]
fn a_process_that_is_gone_is_told_from_what_cannot_be_opened() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let why = |file: &std::path::Path| Held::open(&place(file)).err();
    assert_eq!(why(&directory.path().join("none")).as_deref(), Some("its process is gone"));
    assert_eq!(why(&file.join("net")).as_deref(), Some("Not a directory (os error 20)"));
}

/// What is missing beside routes changes no way of a packet.
#[test]
fn only_devices_and_routes_are_ways() {
    let is = |what| Unread { what, why: String::new() }.is_of_ways();
    assert!(is("links") && is("routes and PMTU exceptions"));
    assert!(!is("WireGuard peers") && !is("IPsec policies") && !is("BPF programs and filters of devices"));
}

#[test]
fn a_namespace_is_named_by_its_descriptor() {
    let held = Held::own().unwrap();
    let descriptor = held.file.as_raw_fd().to_ne_bytes();
    let wanted = [&[0; 4][..], &8_u16.to_ne_bytes(), &3_u16.to_ne_bytes(), &descriptor].concat();
    assert_eq!(body(&held), wanted);
}

/// Whether or not this process may enter any.
#[test]
fn each_namespace_has_an_answer() {
    let held = [Held::own().unwrap(), Held::own().unwrap()];
    let answers = inside(&[&held[0], &held[1]], |at, _| Ok(at));
    assert_eq!(answers.len(), 2);
    for (at, answer) in answers.iter().enumerate() {
        assert!(answer.as_ref().map_or(true, |told| *told == at), "{answer:?}");
    }
}

#[test]
fn a_right_that_is_not_given_on_purpose_is_named_without_advice() {
    let refused = |right| {
        let cure = Some("give it".to_owned());
        Some(Refused { cause: Cause::Capability(vec![right]), why: "it is not allowed".to_owned(), cure })
    };
    let error = SocketError::Refused(Errno::EPERM as i32);
    assert_eq!(worded(&error, refused(Right::SysAdmin)), "needs CAP_SYS_ADMIN");
    assert_eq!(worded(&error, refused(Right::NetAdmin)), "it is not allowed; give it");
    assert_eq!(worded(&error, None), "Operation not permitted");
    assert_eq!(why(&SocketError::Garbled, Act::ListLinks), "the kernel's reply makes no sense");
}
