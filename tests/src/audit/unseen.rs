//! Pods that the audit could not read: that nothing was found does not clear them.

use crate::harness::agent::command;
use crate::harness::netns::Netns;
use crate::harness::pod::{Node, Pod};

/// Exit code, data and notes of `audit mtu --fail-on-findings`, each text in one line.
fn audit(node: &Node, args: &[&str]) -> (Option<i32>, String, String) {
    let args = [&["audit", "mtu", "--fail-on-findings"], args].concat();
    let ended = command(node, &args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace("\n   ", " ");
    (ended.status.code(), text(&ended.stdout), text(&ended.stderr))
}

#[test]
fn a_pod_that_was_not_read_is_not_cleared() {
    let [host, web] = std::array::from_fn(|_| Netns::looped());
    let node = Node::routing(&host);
    host.ip(&format!("link add veth-web type veth peer name eth0 netns {}\n", web.path()));
    let web = Pod::start(&node, "shop/web", &web);
    let proxy = Pod::start(&node, "kube-system/proxy", &host);
    // On the host's network there is nothing of its own to be read.
    let (code, text, notes) = audit(&node, &[]);
    assert!(code == Some(0) && text.contains("everything fits: "), "{text}{notes}");
    let (code, text, notes) = audit(&node, &["--pod", "proxy"]);
    assert!(code == Some(0) && text.contains("on the host's network: kube-system/proxy"), "{text}{notes}");

    let mut late = Pod::start(&node, "shop/late", &Netns::looped());
    late.end_process();
    let unseen = "no process of them was seen or they share a network namespace: shop/late";
    for args in [&[][..], &["--pod", "late"], &["-n", "shop"]] {
        let (code, text, notes) = audit(&node, args);
        assert_eq!(code, Some(3), "{args:?}: {text}{notes}");
        assert!(text.contains("what was read fits") && text.contains(unseen), "{args:?}: {text}");
        let (code, text, notes) = audit(&node, &[args, &["-o", "json"]].concat());
        assert!(code == Some(3) && notes.contains(unseen), "{args:?}: {text}{notes}");
    }
    let (code, text, _) = audit(&node, &["--pod", "web"]);
    assert!(code == Some(0) && text.contains("everything fits for shop/web: "), "{text}");

    // It is waited for as long as it is asked, and then said that it has not come.
    let waiting = "no process of shop/late yet: waiting for it for at most 1s";
    let (code, text, notes) = audit(&node, &["--pod", "late", "--wait=1s"]);
    assert!(code == Some(3) && text.contains(unseen) && notes.contains(waiting), "{text}{notes}");
    let trace = |args: &[&str]| {
        let ended =
            command(&node, &[&["trace", "drops", "--duration", "1s"], args].concat()).output().unwrap();
        (ended.status.code(), String::from_utf8_lossy(&ended.stderr).into_owned())
    };
    let (code, said) = trace(&["--pod", "late", "--wait=1s"]);
    assert!(code == Some(0) && said.contains(waiting), "{said}");
    assert!(said.contains("the wait is over: tracing for 1s"), "{said}");
    let last = said.lines().last().unwrap_or_default();
    assert!(
        last.contains("nothing of what was asked for could be seen: no process of them was seen"),
        "{said}"
    );
    // One that can be known does not clear one that cannot.
    let (code, said) = trace(&["--pod", "late,web", "--fail-on-findings"]);
    assert!(code == Some(3) && said.contains("nothing was found, but no process of them was seen"), "{said}");

    late.end_logs();
    let (code, text, notes) = audit(&node, &[]);
    let nameless = "--pod-logs has no name for them: 1 pod";
    assert!(code == Some(3) && text.contains(nameless), "{text}{notes}");
    late.stop();

    // No packet can be known to be of a pod on the host's network.
    let trace = |args: &[&str]| {
        let args = [&["trace", "drops", "--duration", "1s", "--pod", "proxy"], args].concat();
        command(&node, &args).output().unwrap()
    };
    for (args, code) in [(&[][..], 0), (&["--fail-on-findings"], 3)] {
        let ended = trace(args);
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(code), "{said}");
        assert!(
            said.contains("on the host's network, so their packets are not known: kube-system/proxy"),
            "{said}"
        );
    }
    web.stop();
    proxy.stop();
}
