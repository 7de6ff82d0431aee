//! Names that no pod has, what is said of them, and how long they are waited for.

use super::*;
use crate::cli;
use crate::enrich::tests::node::{HOST_NETNS, Node, uid};

fn pods(names: &[&str]) -> Vec<Arc<Pod>> {
    let pod = |name: &&str| {
        let (namespace, name) = name.split_once('/').unwrap();
        Arc::new(Pod { namespace: namespace.into(), name: name.into(), uid: name.into() })
    };
    names.iter().map(pod).collect()
}

#[test]
fn what_no_pod_is_is_named_with_the_nearest() {
    let here = pods(&["shop/web", "shop/db-0", "shop/db-1", "pay/api", "kube-system/dns"]);
    let said = |namespaces: &[&str], patterns: &[&str]| {
        let asked = PodsAsked {
            namespaces: namespaces.iter().map(|name| (*name).to_owned()).collect(),
            pods: patterns.iter().map(|text| text.parse().unwrap()).collect(),
        };
        asked.missing_of(&here).map(|missing| missing.to_string()).unwrap_or_default()
    };
    for (namespaces, patterns, text) in [
        (&["shop", "pay"][..], &[][..], ""),
        (&["shop"], &["web", "db-*"], ""),
        (&[], &["shop/web", "pay/*"], ""),
        (&["shpo"], &[], "no pod of namespace \"shpo\" on this node; did you mean shop?"),
        (&["SHOP"], &[], "no pod of namespace \"SHOP\" on this node; did you mean shop?"),
        (&["shop", "pya"], &[], "no pod of namespace \"pya\" on this node; did you mean pay?"),
        (&[], &["wbe"], "no pod \"wbe\" on this node; did you mean shop/web?"),
        (&[], &["web", "db"], "no pod \"db\" on this node; did you mean shop/db-0 or shop/db-1?"),
        (&[], &["shpo/web"], "no pod \"shpo/web\" on this node; did you mean shop/web?"),
        (&[], &["shop/bd-*"], "no pod \"shop/bd-*\" on this node; did you mean shop/db-0 or shop/db-1?"),
        (&["pay"], &["web"], "no pod \"web\" of namespace pay on this node; did you mean shop/web?"),
        (
            &["pay"],
            &["shop/web"],
            "no pod \"shop/web\" of namespace pay on this node; --pod and -n exclude each other",
        ),
        (&["data"], &[], "no pod of namespace \"data\" on this node; there are: pay, shop, kube-system"),
    ] {
        assert_eq!(said(namespaces, patterns), text);
    }
}

#[test]
fn few_names_are_all_named() {
    let names: Vec<String> = (0..7).map(|number| format!("shop/web-{number}")).collect();
    assert_eq!(few(&names[..2]), "shop/web-0, shop/web-1");
    assert!(few(&names).ends_with("shop/web-4 and 2 more"));
}

fn asked(namespaces: &[&str], patterns: &[&str]) -> PodsAsked {
    PodsAsked {
        namespaces: namespaces.iter().map(|name| (*name).to_owned()).collect(),
        pods: patterns.iter().map(|text| text.parse().unwrap()).collect(),
    }
}

/// Only where each is named in full a pod without a name is none of those asked for.
#[test]
fn pods_are_asked_for_by_name_if_each_is_named_in_full() {
    for (namespaces, patterns, is_by_name) in [
        (&[][..], &["web", "shop/db-0"][..], true),
        (&["shop"], &["web"], true),
        (&[], &["web", "db-*"], false),
        (&[], &["*"], false),
        (&["shop"], &[], false),
        (&[], &[], false),
    ] {
        assert_eq!(asked(namespaces, patterns).is_by_name(), is_by_name, "{namespaces:?} {patterns:?}");
    }
}

#[test]
fn a_pod_is_asked_for_by_its_namespace_and_its_name() {
    let here = pods(&["shop/web", "shop/db", "pay/web"]);
    let wanted = |namespaces: &[&str], patterns: &[&str]| {
        let asked = asked(namespaces, patterns);
        let wanted = here.iter().filter(|pod| asked.wants(pod)).map(|pod| full_name(pod));
        (wanted.collect::<Vec<_>>().join(" "), asked.is_empty())
    };
    let told = |names: &str, is_empty| (names.to_owned(), is_empty);
    assert_eq!(wanted(&[], &[]), told("shop/web shop/db pay/web", true));
    assert_eq!(wanted(&["shop"], &[]), told("shop/web shop/db", false));
    assert_eq!(wanted(&[], &["web"]), told("shop/web pay/web", false));
    assert_eq!(wanted(&["shop"], &["web"]), told("shop/web", false));
    assert_eq!(wanted(&["shop", "pay"], &["db", "none"]), told("shop/db", false));
}

#[test]
fn who_waits_is_told_for_what_and_how_long() {
    let what = "no pod \"web\" on this node".to_owned();
    let missing = Early::Name(Missing { what, hint: "h".to_owned(), of: &["pod"] });
    let said = |seconds| missing.waited_for(Duration::from_secs(seconds));
    let unseen = Early::Network(vec!["shop/web".to_owned()]).waited_for(Duration::from_secs(5));
    assert_eq!(unseen, "no process of shop/web yet: waiting for it for at most 5s; Ctrl-C ends it");
    assert_eq!(said(0), "no pod \"web\" on this node yet: waiting for it; Ctrl-C ends it");
    assert_eq!(
        said(90),
        "no pod \"web\" on this node yet: waiting for it for at most 1m 30s; Ctrl-C ends it"
    );
}

fn host(node: &Node) -> Host {
    let roots = node.roots();
    let host = cli::read(["r2c-agent", "doctor"]).unwrap().host;
    Host { host_proc: roots.proc, host_cgroup: roots.cgroup, pod_logs: roots.pod_logs, ..host }
}

/// A mount that is missing is the commonest mistake, and looks like a node without pods.
#[test]
fn where_no_pod_is_known_it_says_what_is_not_there() {
    let node = Node::bare();
    let host = host(&node);
    let why = || asked(&[], &["web"]).missing(&host, &PodIndex::new()).unwrap().hint;
    assert!(why().starts_with("no pod is known here: there is no kubepods in "), "{}", why());
    assert!(why().ends_with("(--host-cgroup)"));
    std::fs::create_dir(node.at("cgroup/kubepods")).unwrap();
    assert!(why().contains("log/pods (--pod-logs): No such file"), "{}", why());
    std::fs::create_dir(node.at("log/pods")).unwrap();
    std::fs::create_dir(node.at("log/pods/lost+found")).unwrap();
    assert!(why().ends_with("log/pods (--pod-logs) has no directory of a pod"), "{}", why());
    std::fs::create_dir(node.at("log/pods").join(format!("shop_web_{}", uid(1)))).unwrap();
    assert_eq!(why(), "no pod is known here: kubelet runs none");
}

#[tokio::test]
async fn a_pod_that_is_there_is_not_waited_for_and_one_that_has_left_is_missing() {
    let node = Node::new();
    node.pod(1).run(50, 7, &["10.0.0.5"]);
    let gone = node.pod(2);
    let (running, host) = (node.start().await, host(&node));
    let present = async |name, wait| asked(&[], &[name]).present(&host, &running.index, wait).await;
    assert!(present("p1", None).await.is_ok() && present("p2", None).await.is_ok());
    gone.remove();
    let leaves = || asked(&[], &["p2"]).missing(&host, &running.index).is_some();
    running.until("the second pod is gone", leaves).await;
    let refused = present("p2", None).await.unwrap_err();
    assert_eq!(refused.code, 2);
    assert!(refused.message.starts_with("no pod \"p2\" on this node; "), "{}", refused.message);
    let late = present("p2", Some(Duration::from_millis(1))).await.unwrap_err();
    assert!(late.message.starts_with("no pod \"p2\" on this node within 1ms; "), "{}", late.message);
    running.end().await;
}

/// Nobody else ends a wait: with a time it ends by itself, and without one never.
#[tokio::test(start_paused = true)]
async fn a_pod_that_does_not_come_is_waited_for_as_long_as_was_asked() {
    let (node, index) = (Node::new(), PodIndex::new());
    let (host, web) = (host(&node), asked(&[], &["web"]));
    let (began, day) = (Instant::now(), Duration::from_hours(24));
    let late = tokio::time::timeout(day, web.come(&host, &index, Duration::from_secs(5))).await;
    let late = late.expect("it ends by itself").unwrap_err();
    assert_eq!(late.what, "no pod \"web\" on this node within 5s");
    assert_eq!(began.elapsed(), Duration::from_secs(5));
    let for_ever = tokio::time::timeout(day, web.come(&host, &index, Duration::ZERO)).await;
    assert!(for_ever.is_err(), "it ended by itself");
    assert!(asked(&[], &[]).come(&host, &index, Duration::ZERO).await.is_ok(), "nothing was asked for");
}

/// Packets of a pod without a namespace of its own are nobody's: a trace of it would stay empty without a word.
#[tokio::test]
async fn pods_whose_packets_cannot_be_told_are_named() {
    let node = Node::new();
    for (number, netns) in [(1, 7), (3, HOST_NETNS), (2, HOST_NETNS)] {
        node.pod(number).run(50 + number, netns, &[]);
    }
    for number in [5, 4] {
        node.pod(number);
    }
    let running = node.start().await;
    let homeless = |patterns: &[&str]| asked(&[], patterns).homeless(&running.index);
    let names = |names: &[&str]| names.iter().map(|name| format!("default/{name}")).collect::<Vec<_>>();
    let all = Homeless { on_host: names(&["p2", "p3"]), unseen: names(&["p4", "p5"]) };
    assert_eq!(homeless(&[]), all);
    assert_eq!(homeless(&["p1"]), Homeless::default());
    assert_eq!(homeless(&["p4", "p3"]), Homeless { on_host: names(&["p3"]), unseen: names(&["p4"]) });
    running.end().await;
}

/// A name is there before its network, and packets are known by that.
#[tokio::test]
async fn a_pod_is_waited_for_until_its_network_is_known() {
    const WAIT: Duration = Duration::from_mins(1);
    let node = Node::new();
    node.pod(1).run(51, 7, &[]);
    node.pod(3).run(53, HOST_NETNS, &[]);
    let late = node.pod(4);
    let (running, host) = (node.start().await, host(&node));
    let waited = async |name| {
        tokio::time::pause();
        let began = Instant::now();
        let came = asked(&[], &[name]).come(&host, &running.index, WAIT).await;
        tokio::time::resume();
        (came, began.elapsed())
    };
    for name in ["p1", "p3"] {
        let (came, after) = waited(name).await;
        assert!(came.is_ok() && after < WAIT / 2, "{name}: it has its network, or will have none of its own");
    }
    let (came, after) = waited("p4").await;
    assert!(came.is_ok() && (WAIT..WAIT * 2).contains(&after), "{after:?}: its name is there");
    let p4 = asked(&[], &["p4"]);
    assert_eq!(p4.early(&host, &running.index), Some(Early::Network(vec!["default/p4".to_owned()])));
    assert_eq!(PodsAsked::default().early(&host, &running.index), None, "nothing was asked for");
    late.run(54, 8, &[]);
    p4.come(&host, &running.index, Duration::ZERO).await.unwrap();
    assert_eq!(p4.homeless(&running.index), Homeless::default());
    running.end().await;
}
