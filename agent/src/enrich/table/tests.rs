//! What the table answers and tells the kernel side, second by second.

use super::*;

const PERIOD: Duration = GRACE;

fn uid(number: u32) -> Uid {
    Uid::parse(format!("{number:032x}").as_bytes()).unwrap()
}

fn pod(number: u32) -> Pod {
    Pod { namespace: "default".to_owned(), name: format!("p{number}"), uid: uid(number).to_string() }
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000 + seconds)
}

fn address(last: u8) -> IpAddr {
    [10, 0, 0, last].into()
}

fn own(netns: u32, addresses: &[u8]) -> Net {
    Net::Own { netns, pid: netns, addresses: addresses.iter().map(|last| address(*last)).collect() }
}

fn see(table: &mut Table, number: u32, born: u64, now: u64, net: Net) -> Effects {
    let seen = Sighting { born: at(born), at: at(now), cgroups: vec![u64::from(number) + 100], net };
    table.observe(&uid(number), &seen)
}

fn named(table: &mut Table, number: u32, born: u64, now: u64, net: Net) -> Effects {
    see(table, number, born, now, Net::Unknown);
    table.name(&uid(number), pod(number), at(now));
    see(table, number, born, now, net)
}

fn name_of(table: &Table, subject: Subject, second: u64) -> Option<String> {
    table.find(subject, at(second)).map(|pod| pod.name.clone())
}

fn slot(number: u16) -> Slot {
    Slot::from_wire(number).unwrap()
}

#[test]
fn a_pod_is_bound_by_address_and_namespace() {
    let mut table = Table::default();
    let effects = named(&mut table, 1, 0, 2, own(7, &[1]));
    let mut keys = effects.keys;
    keys.sort_by_key(|(key, _)| format!("{key:?}"));
    assert_eq!(keys, [(SlotKey::Address(address(1)), Some(slot(1))), (SlotKey::Netns(7), Some(slot(1)))]);
    // Younger than its first event: the hold begins with the cgroup.
    for subject in [Subject::Address(address(1)), Subject::Netns(7), Subject::Cgroup(101)] {
        assert_eq!(name_of(&table, subject, 1).as_deref(), Some("p1"), "{subject:?}");
    }
    assert_eq!(table.find(Subject::Address(address(1)), at(0) - Duration::from_millis(1)), None);
    let mapped: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
    assert_eq!(name_of(&table, Subject::Address(mapped), 1).as_deref(), Some("p1"));
}

#[test]
fn a_pod_with_no_name_is_bound_when_it_gets_one_but_counts_before() {
    let mut table = Table::default();
    assert_eq!(see(&mut table, 1, 0, 1, own(7, &[1])).keys, []);
    assert_eq!(name_of(&table, Subject::Netns(7), 1), None);
    // Another pod on the nameless one's address is not believed either.
    let effects = named(&mut table, 2, 0, 1, own(8, &[1]));
    assert_eq!((effects.keys, effects.ambiguous), (vec![(SlotKey::Netns(8), Some(slot(1)))], 1));
    let late = table.name(&uid(1), pod(1), at(2));
    assert_eq!(late.keys, [(SlotKey::Netns(7), Some(slot(2)))]);
    let forged = table.name(&uid(1), Pod { name: "forged".to_owned(), ..pod(1) }, at(2));
    assert_eq!(forged, Effects { contested: 1, ..Effects::default() }, "the first name stays");
    assert_eq!(name_of(&table, Subject::Netns(7), 1).as_deref(), Some("p1"));
}

#[test]
fn an_address_of_two_pods_is_nobodys_until_it_is_one_pods_again() {
    let mut table = Table::default();
    named(&mut table, 1, 0, 1, own(7, &[1]));
    let clash = named(&mut table, 2, 10, 11, own(8, &[1]));
    assert!(clash.keys.contains(&(SlotKey::Address(address(1)), None)), "{clash:?}");
    assert_eq!(clash.ambiguous, 1);
    let single = table.gone(&uid(1), at(20));
    assert!(single.keys.contains(&(SlotKey::Address(address(1)), Some(slot(2)))), "{single:?}");
    for (second, wanted) in [(9, Some("p1")), (15, None), (21, Some("p2"))] {
        let found = name_of(&table, Subject::Address(address(1)), second);
        assert_eq!(found.as_deref(), wanted, "second {second}");
    }
}

#[test]
fn a_namespace_of_two_pods_is_nobodys() {
    let mut table = Table::default();
    named(&mut table, 1, 0, 1, own(7, &[1]));
    named(&mut table, 2, 0, 1, own(7, &[1]));
    assert_eq!(table.bound().count(), 0);
    assert_eq!(name_of(&table, Subject::Netns(7), 2), None);
    assert_eq!(name_of(&table, Subject::Cgroup(102), 2).as_deref(), Some("p2"));
}

#[test]
fn the_hosts_network_is_nobodys() {
    let mut table = Table::default();
    // A container that is being made has the host's namespace for a moment.
    named(&mut table, 1, 0, 1, own(7, &[1]));
    let host = see(&mut table, 1, 0, 5, Net::Host);
    assert_eq!(host.keys.len(), 2);
    assert!(host.keys.iter().all(|(_, slot)| slot.is_none()));
    assert_eq!(table.bound().count(), 0);
    assert_eq!(name_of(&table, Subject::Netns(7), 6), None);
    assert_eq!(name_of(&table, Subject::Netns(7), 4).as_deref(), Some("p1"));
}

#[test]
fn a_new_sandboxs_address_was_not_the_pods_before() {
    let mut table = Table::default();
    named(&mut table, 1, 0, 1, own(7, &[1]));
    see(&mut table, 1, 0, 10, own(7, &[1]));
    see(&mut table, 1, 0, 20, Net::Unknown);
    see(&mut table, 1, 0, 30, own(8, &[2]));
    assert_eq!(name_of(&table, Subject::Address(address(2)), 9), None);
    assert_eq!(name_of(&table, Subject::Address(address(2)), 25).as_deref(), Some("p1"));
    assert_eq!(name_of(&table, Subject::Address(address(1)), 25), None);
}

#[test]
fn a_slot_outlives_its_pod_by_the_grace_period_and_is_reused_last() {
    let mut table = Table::default();
    named(&mut table, 1, 0, 1, own(7, &[1]));
    table.gone(&uid(1), at(10));
    assert_eq!(table.bound().count(), 0);
    assert_eq!(name_of(&table, Subject::Slot(slot(1)), 69).as_deref(), Some("p1"));
    assert!(table.due(at(69)).is_empty());
    let due = table.due(at(10) + PERIOD);
    assert_eq!(due, [(uid(1), Some(slot(1)))]);
    table.forget(&due, at(10) + PERIOD);
    assert_eq!(name_of(&table, Subject::Slot(slot(1)), 70), None);
    for number in 2..u32::from(MAX_SLOTS) {
        let effects = named(&mut table, number, 70, 71, own(number, &[]));
        assert_eq!(effects.keys[0].1, Slot::from_wire(u16::try_from(number).unwrap()));
    }
    let reused = named(&mut table, 5_000, 90, 91, own(5_000, &[]));
    assert_eq!(reused.keys, [(SlotKey::Netns(5_000), Some(slot(1)))]);
    assert_eq!(name_of(&table, Subject::Slot(slot(1)), 60), None, "an event of the slot's former pod");
    let full = named(&mut table, 5_001, 90, 91, own(5_001, &[]));
    assert_eq!((full.keys.len(), full.full), (0, 1));
    assert_eq!(
        name_of(&table, Subject::Netns(5_001), 91).as_deref(),
        Some("p5001"),
        "user space still tells"
    );
}

#[test]
fn a_pod_that_comes_back_keeps_its_slot() {
    let mut table = Table::default();
    named(&mut table, 1, 0, 1, own(7, &[1]));
    table.gone(&uid(1), at(10));
    let back = see(&mut table, 1, 20, 21, own(9, &[]));
    assert_eq!(back.keys, [(SlotKey::Netns(9), Some(slot(1)))]);
    assert!(table.due(at(200)).is_empty());
    assert_eq!(name_of(&table, Subject::Cgroup(101), 15), None);
}

#[test]
fn the_table_is_bounded() {
    let mut table = Table::default();
    let full: u64 = (0..10_000).map(|number| see(&mut table, number, 0, 1, Net::Unknown).full).sum();
    assert_eq!(table.alive().count(), MAX_PODS);
    assert_eq!(full, 10_000 - u64::try_from(MAX_PODS).unwrap());
}

#[test]
fn a_home_is_told_while_one_pod_alone_lives_in_it() {
    let mut table = Table::default();
    let homes = |table: &Table| {
        let mut homes: Vec<_> =
            table.homes().map(|(pod, netns, pid)| (pod.name.clone(), netns, pid)).collect();
        homes.sort_unstable();
        homes
    };
    named(&mut table, 1, 0, 1, own(7, &[1]));
    assert_eq!(homes(&table), [(pod(1).name, 7, 7)]);
    named(&mut table, 2, 2, 3, own(7, &[2]));
    assert!(homes(&table).is_empty(), "two pods in one namespace");
    see(&mut table, 2, 2, 4, own(8, &[2]));
    assert_eq!(homes(&table), [(pod(1).name, 7, 7), (pod(2).name, 8, 8)]);
    see(&mut table, 2, 2, 5, Net::Unknown);
    table.gone(&uid(1), at(6));
    assert!(homes(&table).is_empty());
}

#[test]
fn what_a_pod_has_lost_is_told_and_what_is_shared_is_counted_once() {
    let mut table = Table::default();
    assert_eq!((named(&mut table, 1, 0, 1, own(7, &[1, 2])).left, table.nameless()), (false, 0));
    assert!(!see(&mut table, 1, 0, 2, own(7, &[1, 2])).left);
    assert!(see(&mut table, 1, 0, 3, own(7, &[1])).left, "an address is gone");
    let other = Sighting { born: at(0), at: at(4), cgroups: vec![500], net: own(7, &[1]) };
    assert!(!table.observe(&uid(1), &other).left, "a container that has ended is no loss");
    assert_eq!(named(&mut table, 2, 0, 5, own(8, &[1])).ambiguous, 1);
    assert_eq!(named(&mut table, 3, 0, 6, own(9, &[1])).ambiguous, 0, "it was two pods' before");
}

#[test]
fn a_slot_is_told_of_events_a_second_older_than_it() {
    let mut table = Table::default();
    named(&mut table, 1, 0, 10, own(7, &[]));
    let of = |at| table.find(Subject::Slot(slot(1)), at).is_some();
    assert_eq!([of(at(9) - Duration::from_millis(1)), of(at(9)), of(at(11))], [false, true, true]);
}

#[test]
fn the_first_that_went_is_due_first() {
    let mut table = Table::default();
    named(&mut table, 1, 0, 1, own(7, &[]));
    named(&mut table, 2, 0, 1, own(8, &[]));
    assert_eq!(table.next_due(), None);
    table.gone(&uid(2), at(20));
    table.gone(&uid(1), at(30));
    table.gone(&uid(2), at(40));
    assert_eq!(table.next_due(), Some(at(20) + PERIOD));
    assert_eq!(table.due(at(20) + PERIOD), [(uid(2), Some(slot(2)))]);
}

#[test]
fn pods_are_told_by_their_network_and_counted_without_their_names() {
    let mut table = Table::default();
    named(&mut table, 1, 0, 1, own(7, &[]));
    named(&mut table, 2, 0, 1, Net::Host);
    named(&mut table, 3, 0, 1, Net::Unknown);
    named(&mut table, 4, 0, 1, own(8, &[]));
    table.gone(&uid(4), at(2));
    for (number, net) in [(5, own(9, &[])), (6, Net::Host), (7, Net::Unknown)] {
        see(&mut table, number, 0, 1, net);
    }
    table.gone(&uid(7), at(2));
    assert_eq!(table.nameless(), 1, "of the host's network there is nothing to name, and one is gone");
    let mut known: Vec<_> = table
        .named()
        .map(|known| (known.pod.name.clone(), known.slot.is_some(), known.network, known.gone))
        .collect();
    known.sort_by(|one, other| one.0.cmp(&other.0));
    let wanted = [
        ("p1", true, Network::Own, false),
        ("p2", false, Network::Host, false),
        ("p3", false, Network::Unseen, false),
        ("p4", true, Network::Own, true),
    ];
    assert_eq!(known, wanted.map(|(name, slot, network, gone)| (name.to_owned(), slot, network, gone)));
    let mut alive: Vec<_> = table.alive().map(|(uid, named)| (uid.clone(), named)).collect();
    alive.sort_unstable();
    let wanted = [(1, true), (2, true), (3, true), (5, false), (6, false)];
    assert_eq!(alive, wanted.map(|(number, named)| (uid(number), named)));
}
