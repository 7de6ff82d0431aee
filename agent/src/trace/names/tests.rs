//! Names that nothing here has, and pods whose packets nobody could tell.

use super::*;
use crate::cli;
use crate::enrich::tests::node::{HOST_NETNS, Node as FakeNode};

#[test]
fn an_address_of_elsewhere_names_the_nearest_here() {
    let known = [
        ("10.244.1.2", "shop/web"),
        ("10.244.1.30", "shop/db"),
        ("fd00::2", "shop/web"),
        ("10.0.0.5", "host"),
    ]
    .map(|(address, whose)| (address.parse().unwrap(), whose.to_owned()));
    let mut here = Addresses { known: known.to_vec(), in_part: false };
    let said = elsewhere("10.244.1.29".parse().unwrap(), &here);
    assert!(said.contains("has 10.244.1.29"), "{said}");
    assert!(said.ends_with("10.244.1.30 (shop/db), 10.244.1.2 (shop/web), 10.0.0.5 (host)"), "{said}");
    let said = elsewhere("2001:db8::1".parse().unwrap(), &here);
    assert!(said.ends_with("nearest here: fd00::2 (shop/web)"), "{said}");
    assert!(!elsewhere("10.0.0.1".parse().unwrap(), &Addresses::default()).contains("nearest"));
    // Under a profile that hides namespaces it may be a pod's.
    here.in_part = true;
    let said = elsewhere("10.244.1.29".parse().unwrap(), &here);
    assert!(said.contains("not all could") && !said.contains("elsewhere"), "{said}");
}

/// What is refused here shows nothing; what is refused though a pod may have it cannot be traced at all.
#[test]
fn an_address_that_only_a_pod_could_have_is_refused_unless_one_may_have_it() {
    let address = "10.244.1.29".parse().unwrap();
    let subnet = Subnet { network: "10.244.1.0/24".parse().unwrap(), bridge: "cni0".to_owned() };
    let known = vec![("10.244.1.30".parse().unwrap(), "shop/db".to_owned())];
    let said = |subnet, in_part, waits| {
        absent_here(address, subnet, &Addresses { known: known.clone(), in_part }, waits)
    };
    let refused = said(Some(&subnet), false, false).unwrap_err();
    assert_eq!(
        refused,
        "no pod of this node has 10.244.1.29, and 10.244.1.0/24 (cni0) is its pods' alone; nearest: 10.244.1.30 (shop/db); \
         to trace who still sends there: --ip 10.244.1.29/32"
    );
    assert!(said(Some(&subnet), true, false).unwrap().contains("not all could"), "it was not seen");
    assert!(said(Some(&subnet), false, true).is_ok(), "a pod that is waited for may get it");
    assert!(said(None, false, false).unwrap().contains("elsewhere match it"));
}

#[test]
fn of_many_addresses_some_are_noted_and_the_others_counted() {
    let notes = |count: usize| (0..count).map(|number| number.to_string()).collect::<Vec<_>>();
    assert_eq!(capped(notes(10)), notes(10));
    let last = |count| capped(notes(count)).split_off(10);
    assert_eq!(last(11), ["and 1 more that nothing here is known to have"]);
    assert_eq!(last(52), ["and 42 more that nothing here is known to have"]);
}

/// Of what no device is asked for nothing is said: each packet to a group would be refused.
#[test]
fn an_address_of_everybody_is_no_address_of_somebody() {
    for address in [
        "169.254.1.1", "fe80::1", "127.0.0.1", "::1", "0.0.0.0", "::", "224.0.0.1", "ff02::1",
        "255.255.255.255",
    ] {
        assert!(!is_somebodys(&address.parse().unwrap()), "{address}");
    }
    for address in ["10.244.1.29", "198.51.100.2", "fd00::2", "2001:db8::1", "255.255.255.254"] {
        assert!(is_somebodys(&address.parse().unwrap()), "{address}");
    }
}

#[test]
fn whose_packets_are_not_known_is_said_by_cause() {
    let homeless = |on_host: &[&str], unseen: &[&str]| Homeless {
        on_host: on_host.iter().map(|name| (*name).to_owned()).collect(),
        unseen: unseen.iter().map(|name| (*name).to_owned()).collect(),
    };
    let unseen = "no process of them was seen, or they share a network namespace, so their packets are not known: a/b, a/c";
    let hidden =
        "the network namespaces of pods cannot be seen here, so their packets may not be known: a/b, a/c";
    let on_host = "on the host's network, so their packets are not known: a/d";
    let nameless =
        |pods: &str| format!("--pod-logs has no name for them, so their packets are not known: {pods}");
    assert!(unknown(&homeless(&[], &[]), false, 0).is_empty());
    assert_eq!(unknown(&homeless(&[], &["a/b", "a/c"]), false, 0), [unseen]);
    assert_eq!(unknown(&homeless(&[], &["a/b", "a/c"]), true, 0), [hidden]);
    assert_eq!(unknown(&homeless(&["a/d"], &[]), false, 0), [on_host]);
    assert_eq!(unknown(&homeless(&[], &[]), false, 1), [nameless("1 pod")]);
    let all = [unseen.to_owned(), on_host.to_owned(), nameless("2 pods")];
    assert_eq!(unknown(&homeless(&["a/d"], &["a/b", "a/c"]), false, 2), all);
}

/// A trace that is to fail on findings and can make none would end as if all were well.
#[tokio::test]
async fn a_trace_is_refused_where_none_of_the_packets_asked_for_can_be_told() {
    let fake = FakeNode::new();
    fake.pod(1).run(51, 7, &[]);
    fake.pod(2).run(52, HOST_NETNS, &[]);
    let _unseen = fake.pod(3);
    let running = fake.start().await;
    let refused = |patterns: &[&str], fails| {
        let pods = patterns.iter().map(|text| text.parse().unwrap()).collect();
        let asked = PodsAsked { namespaces: Vec::new(), pods };
        let told = Dark::told(&asked, &running.index, fails);
        told.map(|dark| dark.why()).map_err(|failure| (failure.code, failure.message))
    };
    let on_host = "on the host's network, so their packets are not known: default/p2";
    assert_eq!(refused(&["p1"], true), Ok(Vec::new()));
    assert_eq!(refused(&["p2"], true), Err((3, on_host.to_owned())));
    assert_eq!(refused(&["p2"], false), Ok(vec![on_host.to_owned()]));
    assert_eq!(refused(&["p1", "p2"], true), Ok(vec![on_host.to_owned()]), "those of the first can");
    let (code, message) = refused(&["p2", "p3"], true).unwrap_err();
    assert_eq!(code, 3);
    assert!(
        message.starts_with("no process of them was seen") && message.ends_with(&format!("; {on_host}")),
        "{message}"
    );
    running.end().await;
}

/// What a trace could not see is said at its end, too: also of a pod that was not known at its beginning and is gone.
#[tokio::test]
async fn pods_whose_packets_were_not_known_are_told_at_the_end() {
    let fake = FakeNode::new();
    fake.pod(1).run(51, 7, &[]);
    let (late, lost) = (fake.pod(2), fake.pod(3));
    let running = fake.start().await;
    let asked = |names: &[&str]| PodsAsked {
        namespaces: Vec::new(),
        pods: names.iter().map(|text| text.parse().unwrap()).collect(),
    };
    let all = asked(&["p1", "p2", "p3"]);
    let begun = Dark::of(&all, &running.index);
    assert_eq!(begun.homeless.unseen, ["default/p2", "default/p3"]);
    assert_eq!(begun.blind(), None, "those of the first can be seen");
    let blind = Dark::of(&asked(&["p2"]), &running.index).blind().unwrap();
    assert!(
        blind.starts_with("nothing of what was asked for could be seen: no process of them was seen"),
        "{blind}"
    );
    assert!(blind.ends_with("default/p2"), "{blind}");
    assert_eq!(Dark::of(&PodsAsked::default(), &running.index), Dark::default(), "nothing was asked for");
    late.run(52, 8, &[]);
    lost.remove();
    let is_changed = || Dark::of(&asked(&["p2", "p3"]), &running.index).homeless == Homeless::default();
    running.until("one is there and one is gone", is_changed).await;
    let ended = begun.until_now(&all, &running.index);
    assert_eq!(ended.homeless.unseen, ["default/p3"]);
    assert_eq!(Dark::default().until_now(&all, &running.index), Dark::default());
    running.end().await;
}

fn host_of(fake: &FakeNode) -> Host {
    let roots = fake.roots();
    let host = cli::read(["r2c-agent", "doctor"]).unwrap().host;
    Host { host_proc: roots.proc, host_cgroup: roots.cgroup, pod_logs: roots.pod_logs, ..host }
}

fn args(flags: &[&str]) -> Trace {
    match cli::read([&["r2c-agent", "trace", "drops"], flags].concat()).unwrap().command {
        cli::Command::Trace(args) => *args,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_interface_that_nothing_here_has_is_refused_unless_pods_are_waited_for() {
    let fake = FakeNode::bare();
    let dev = "Inter-|   Receive\n face |bytes\n    lo: 0 0\n  eth0: 0 0\n";
    std::fs::write(fake.at("proc/1/net/dev"), dev).unwrap();
    let host = host_of(&fake);
    let refused = |names: &[&str], waits| {
        let flags = names.iter().flat_map(|name| ["-i", name]).collect::<Vec<_>>();
        interfaces(&host, &args(&flags), waits).map_err(|failure| (failure.code, failure.message))
    };
    assert_eq!(refused(&[], false), Ok(()));
    assert_eq!(refused(&["eth0", "lo"], false), Ok(()));
    let (code, message) = refused(&["eth0", "eht0"], false).unwrap_err();
    assert_eq!(code, 2);
    assert!(
        message.starts_with("no interface \"eht0\" in this node's or its pods' network namespaces; "),
        "{message}"
    );
    assert_eq!(refused(&["eht0"], true), Ok(()), "a pod that comes may have it");
}

#[test]
fn the_pods_asked_for_are_those_of_both_flags() {
    let asked = pods(&args(&["-n", "shop", "--pod", "web-*"]));
    assert_eq!(asked.namespaces, ["shop"]);
    assert_eq!(asked.pods, ["web-*".parse().unwrap()]);
}

/// Without what the kernel says of itself drops may have any reason; those of `mtu` are the program's own.
#[test]
fn a_reason_that_no_event_can_have_is_refused() {
    let kernel = Kernel::load_from(crate::kernel::Roots::under("/nonexistent".as_ref()));
    let refused = |probe: &str, asked: &[&str]| {
        let entry = probes::ALL.iter().find(|entry| entry.name == probe).unwrap();
        let asked: Vec<String> = asked.iter().map(|reason| (*reason).to_owned()).collect();
        reasons(entry, &kernel, &asked).map_err(|failure| (failure.code, failure.message))
    };
    assert_eq!(refused("drops", &["bogus"]), Ok(()));
    assert_eq!(refused("mtu", &[]), Ok(()));
    assert_eq!(refused("mtu", &["LEARNED"]), Ok(()), "in either case");
    let (code, message) = refused("mtu", &["learned", "leanred"]).unwrap_err();
    assert_eq!(code, 2);
    assert!(
        message.starts_with("no reason \"leanred\" of mtu on this kernel; ") && message.contains("learned"),
        "{message}"
    );
}
