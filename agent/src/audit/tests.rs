//! What of a reading is printed for whom, and what a script is told that finds nothing.

use std::sync::Arc;

use super::*;
use crate::cli::{self, AuditOf, Command};
use crate::links::{Link, NetnsId, Unread};

fn args(flags: &[&str]) -> (Host, AuditMtu) {
    let cli = cli::read([&["r2c-agent", "audit", "mtu"], flags].concat()).unwrap();
    match cli.command {
        Command::Audit(audit) => {
            let AuditOf::Mtu(args) = audit.of;
            (cli.host, args)
        }
        other => panic!("{other:?}"),
    }
}

fn pod(name: &str) -> Arc<Pod> {
    Arc::new(Pod { namespace: "shop".into(), name: name.into(), uid: name.into() })
}

/// A host whose ends of the veths of `web` and `db` take 1,400 bytes and 1,500; each pod's end takes 1,500.
fn reading() -> Vec<Namespace> {
    let veth = |index, name: &str, mtu, lower, netns| Link {
        lower: Some(lower),
        lower_netns: Some(NetnsId(netns)),
        ..Link::up(index, name, "veth", mtu)
    };
    let of_pod = |name: &str, netns, near| Namespace {
        owner: Some(pod(name)),
        id: Some(NetnsId(netns)),
        links: vec![veth(2, "eth0", 1500, near, 0)],
        ..Namespace::default()
    };
    let host = Namespace {
        id: Some(NetnsId(0)),
        links: vec![veth(3, "cali1", 1400, 2, 1), veth(4, "cali2", 1500, 2, 2)],
        ..Namespace::default()
    };
    vec![host, of_pod("web", 1, 3), of_pod("db", 2, 4)]
}

fn shown(read: Vec<Namespace>, flags: &[&str]) -> Shown {
    let (_, args) = args(flags);
    let asked = PodsAsked { namespaces: args.namespace.clone(), pods: args.pod.clone() };
    let judgement = overlay::judge(&read);
    Shown { of: Reading { read, asked, unseen: Unseen::default() }, judgement, args }
}

fn printed(shown: &Shown) -> (String, usize) {
    let (text, findings) = shown.print(&args(&[]).0).unwrap();
    (String::from_utf8(text).unwrap(), findings)
}

#[test]
fn who_asks_for_a_pod_sees_its_rows_and_what_hurts_it() {
    for (flags, findings, has, has_not) in [
        (
            &["-o", "wide"][..],
            1,
            &["cali1", "cali2", "shop/web", "shop/db", "Fix: "][..],
            &["everything fits"][..],
        ),
        (&["--pod", "web"], 1, &["shop/web", "Fix: "], &["shop/db", "cali2", "everything fits"]),
        (&["--pod", "db"], 0, &["shop/db", "everything fits for shop/db"], &["shop/web", "Fix: "]),
    ] {
        let (text, count) = printed(&shown(reading(), flags));
        assert_eq!(count, findings, "{text}");
        for part in has {
            assert!(text.contains(part), "{flags:?} lacks {part}: {text}");
        }
        for part in has_not {
            assert!(!text.contains(part), "{flags:?} has {part}: {text}");
        }
    }
}

/// A program gets one line a thing, gaps included: it has no last line that says what was not read.
#[test]
fn json_has_a_line_for_each_thing_and_for_each_that_is_missing() {
    let mut read = reading();
    for namespace in &mut read {
        namespace.unread.push(Unread { what: "routes", why: "w".to_owned() });
    }
    let events = |flags: &[&str]| {
        let (text, findings) = printed(&shown(read.clone(), &[&["-o", "json"], flags].concat()));
        let of = |event: &str| text.lines().filter(|line| line.contains(&format!("\"{event}\""))).count();
        (of("link"), of("not_judged"), of("finding"), findings, text.lines().count())
    };
    assert_eq!(events(&[]).0, 4);
    assert_eq!((events(&[]).2, events(&[]).3), (1, 1));
    assert_eq!((events(&["--pod", "db"]).0, events(&["--pod", "db"]).3), (1, 0));
    // The host's may be on the way of any pod; another pod's is not.
    assert_eq!((events(&[]).1, events(&["--pod", "db"]).1), (3, 2));
    assert_eq!(events(&["--pod", "db"]).4, 3, "nothing but lines of JSON");
}

/// A pod on the host's network suffers what is wrong there.
#[test]
fn what_is_wrong_in_a_namespace_concerns_who_lives_there() {
    let (web, db) = (pod("web"), pod("db"));
    for (flags, on_host, of_host, of_web) in [
        (&[][..], &[][..], true, true),
        (&["--pod", "web"], &[], false, true),
        (&["--pod", "db"], &[], false, false),
        (&["--pod", "proxy"], &["shop/proxy"], true, false),
        (&["--pod", "web"], &["shop/proxy"], true, true),
    ] {
        let mut shown = shown(reading(), flags);
        shown.of.unseen.on_host = on_host.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!((shown.wants_of(None), shown.wants_of(Some(&web))), (of_host, of_web), "{flags:?}");
        // And who is hurt by it.
        let found = |owner: Option<&Arc<Pod>>, hurt: &[&Arc<Pod>]| Finding {
            owner: owner.cloned(),
            pods: hurt.iter().map(|pod| Arc::clone(pod)).collect(),
            ..shown.judgement.findings[0].clone()
        };
        assert_eq!(shown.wants_finding(&found(None, &[])), of_host, "{flags:?}");
        assert_eq!(shown.wants_finding(&found(Some(&web), &[])), of_web, "{flags:?}");
        assert_eq!(shown.wants_finding(&found(None, &[&web])), of_host || of_web, "{flags:?}");
        let of_db = shown.wants(Some(&db));
        assert_eq!(shown.wants_finding(&found(Some(&db), &[&web])), of_db || of_web, "{flags:?}");
    }
}

/// Nothing found and not all seen is no good news: a script must not go on.
#[test]
fn an_audit_that_could_not_see_says_so() {
    let blind = |at: usize, why: &str, flags: &[&str]| {
        let mut read = reading();
        read[at].unread.push(Unread { what: "routes", why: why.to_owned() });
        shown(read, flags).blind()
    };
    let told = |names: &str| Some(format!("nothing was found, but not all could be read: {names}"));
    assert_eq!(shown(reading(), &[]).blind(), None);
    assert_eq!(blind(0, "w", &["--pod", "db"]), told("host"), "it is on the way of each pod");
    assert_eq!(blind(1, "w", &[]), told("shop/web"));
    assert_eq!(blind(1, "w", &["--pod", "web"]), told("shop/web"));
    assert_eq!(blind(1, "w", &["--pod", "db"]), None, "what is not asked for is no matter");
    assert_eq!(blind(1, "it is gone", &[]), None, "what is gone is not missed");
    let mut hidden = shown(reading(), &[]);
    hidden.of.unseen = Unseen { hidden: true, ..Unseen::default() };
    assert_eq!(hidden.blind(), Some(format!("nothing was found, but {}", clear::HIDDEN)));
    // What no reading would judge is on this node for good, and fails no audit.
    for (owner, unread, is_blind) in [(None, true, true), (None, false, false), (Some("web"), true, false)] {
        let mut shown = shown(reading(), &["--pod", "db"]);
        shown.judgement.not_judged = vec![NotJudged {
            owner: owner.map(pod),
            subject: "vx".to_owned(),
            kind: "vxlan".to_owned(),
            why: "w".into(),
            unread,
        }];
        assert_eq!(shown.blind().is_some(), is_blind, "{owner:?} {unread}");
    }
}

#[test]
fn what_could_not_be_read_for_one_reason_is_one_line() {
    let mut read = reading();
    for (at, what, why) in [(0, "routes", "a"), (2, "routes", "a"), (1, "routes", "b"), (1, "links", "a")] {
        read[at].unread.push(Unread { what, why: why.to_owned() });
    }
    assert_eq!(
        unread(&read),
        ["links not read: a: shop/web", "routes not read: a: host, shop/db", "routes not read: b: shop/web"]
    );
}

#[test]
fn a_script_is_told_of_findings_before_what_could_not_be_read() {
    let ended = |findings, blind: Option<&str>| {
        end_of(findings, blind.map(str::to_owned)).map_err(|failure| (failure.code, failure.message))
    };
    assert_eq!(ended(0, None), Ok(()));
    assert_eq!(ended(2, None), Err((4, "2 findings".to_owned())));
    assert_eq!(ended(1, Some("no links")), Err((4, "1 finding".to_owned())));
    assert_eq!(ended(0, Some("no links")), Err((3, "no links".to_owned())));
}

/// Each thing that is missing is said once: by the table's last line or by a note.
#[test]
fn what_is_missing_is_noted_where_no_last_line_says_it() {
    let not_judged = NotJudged {
        owner: None,
        subject: "ovs".to_owned(),
        kind: "k".to_owned(),
        why: "w".into(),
        unread: false,
    };
    let said = |flags: &[&str], findings, more_not_judged, left_out| {
        let mut read = reading();
        read[0].unread.push(Unread { what: "routes", why: "r".to_owned() });
        let mut shown = shown(read, flags);
        shown.of.unseen.nameless = 1;
        shown.judgement.not_judged = vec![not_judged.clone()];
        (shown.judgement.more_not_judged, shown.judgement.left_out) = (more_not_judged, left_out);
        shown.notes(findings)
    };
    let unseen = "not read, since --pod-logs has no name for them: 1 pod";
    let (unread, not) = ("routes not read: r: host", "not judged: ovs (w)");
    assert_eq!(said(&[], 0, 0, 0), [unread]);
    assert_eq!(said(&[], 1, 0, 0), [unseen, unread, not]);
    assert_eq!(said(&["-o", "json"], 0, 0, 0), [unseen, unread]);
    assert_eq!(said(&["-o", "json"], 1, 0, 0), [unseen, unread]);
    assert_eq!(said(&[], 0, 1, 0), [unread, "1 more device not judged in pods that have many"]);
    assert_eq!(said(&[], 0, 0, 2), [unread, "2 more findings in pods that have many"]);
}

/// One table after the other, each under its own heading; a program gets one namespace after the other.
#[test]
fn a_table_has_all_links_before_the_first_route() {
    let mut read = reading();
    for namespace in &mut read {
        namespace.routes = Some(vec![links::Route {
            destination: "10.0.0.0/8".parse().unwrap(),
            device: namespace.links[0].index,
            gateway: None,
            table: 254,
            metric: 0,
            mtu: Some(1300),
            advmss: None,
            expires: false,
            object: None,
            dead: false,
            linkdown: false,
        }]);
    }
    let order = |flags: &[&str]| {
        let (text, _) = printed(&shown(read.clone(), flags));
        let rows = text.lines().filter_map(|line| {
            let is_route = line.contains("10.0.0.0/8") && !line.contains("=>");
            let is_link = line.contains("veth") && !line.contains("=>") && !line.contains("finding");
            (is_route || is_link).then_some(if is_route { 'r' } else { 'l' })
        });
        rows.collect::<String>()
    };
    assert_eq!(order(&[]), "llllrrr");
    assert_eq!(order(&["-o", "wide"]), "llllrrr");
    assert_eq!(order(&["-o", "json"]), "llrlrlr");
}

#[test]
fn loopback_and_the_rarer_columns_are_for_those_who_ask_for_all() {
    let mut read = reading();
    read[0].links.push(Link { loopback: true, ..Link::up(1, "lo", "loopback", 65_536) });
    let shows = |flags: &[&str]| {
        let (text, _) = printed(&shown(read.clone(), flags));
        [text.contains("loopback"), text.contains("REMOTE")]
    };
    assert_eq!(shows(&[]), [false, false]);
    assert_eq!(shows(&["-o", "wide"]), [true, true]);
    assert_eq!(shows(&["-o", "json"]), [true, false]);
}

#[tokio::test]
async fn the_hosts_namespace_is_the_first_place_and_each_pods_own_follows() {
    let node = crate::enrich::tests::node::Node::new();
    node.pod(1).run(51, 7, &[]);
    let running = node.start().await;
    let proc = node.roots().proc;
    // What process 1 is cannot be seen in this tree: the process's own namespace stands for the host's.
    let doubt = Some("process 1 cannot be seen; the agent's own was read as the host's");
    let host = Place { owner: None, file: "/proc/self/ns/net".into(), inode: None, doubt };
    let [first, second] = &places(&proc, &running.index)[..] else { panic!() };
    assert_eq!(*first, host);
    assert_eq!(second.owner.as_ref().unwrap().name, "p1");
    assert_eq!((&second.file, second.inode, second.doubt), (&proc.join("51/ns/net"), Some(7), None));
    let addresses = ["192.0.2.1", "192.0.2.2"].map(|address| address.parse().unwrap());
    assert_eq!(subnets_of_pods(&proc, &running.index, &addresses), [None, None], "no pod was read");
    running.end().await;
}
