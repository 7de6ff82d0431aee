//! Routes and rules that refuse packets: no new route helps.

use super::{EXT4, EXT6, Scene, fix};

/// A network plugin keeps a blackhole for its block of addresses: what is sent to a pod that has gone ends there.
#[test]
fn a_route_or_rule_that_refuses() {
    let scene = Scene::new();
    let refuses = |text: &str| text.contains("refuses it (blackhole, prohibit, unreachable)");
    let discards = |text: &str| text.contains("a blackhole route took it");
    for (add, delete, to, is_told) in [
        (
            "route add blackhole 10.97.9.2",
            "route del blackhole 10.97.9.2",
            EXT4,
            &refuses as &dyn Fn(&str) -> bool,
        ),
        ("route add unreachable 10.97.9.2", "route del unreachable 10.97.9.2", EXT4, &refuses),
        ("rule add from 10.97.1.2 prohibit", "rule del from 10.97.1.2 prohibit", EXT4, &refuses),
        ("-6 route add blackhole fd97:9::2", "-6 route del blackhole fd97:9::2", EXT6, &discards),
        ("-6 route add prohibit fd97:9::2", "-6 route del prohibit fd97:9::2", EXT6, &refuses),
    ] {
        scene.host.run("ip", &add.split(' ').collect::<Vec<_>>());
        let trace = scene.trace("drops");
        assert!(!scene.is_answered(to), "{add}");
        let event = trace.expect_class("routing", |event| event["destination_port"] == 7);
        let text = event["message"].as_str().unwrap();
        assert!(is_told(text), "{add}: {event:#}");
        // Where the kernel tells them from a missing route, the fix is another.
        let is_sure = !text.contains("no route to its destination");
        assert_eq!(fix(&event).contains("take it away"), is_sure, "{add}: {event:#}");
        scene.host.run("ip", &delete.split(' ').collect::<Vec<_>>());
        assert!(scene.is_answered(to), "cured: {add}");
    }
}
