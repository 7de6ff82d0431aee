//! What a user can get wrong, and which right may be missing.

use crate::harness::agent::{Agent, command, without_capabilities};

use super::chain::{Chain, FAR};

/// Exit code and standard error of a walk that should not begin.
fn refused(chain: &Chain, args: &[&str], limit: impl FnOnce(&mut std::process::Command)) -> (i32, String) {
    let mut command = command(&chain.node, args);
    limit(&mut command);
    let mut agent = Agent::spawn(&mut command);
    let code = agent.ended();
    assert_eq!(agent.stdout.count(), 0, "{}", agent.stdout.text());
    (code, agent.stderr.text())
}

#[test]
fn a_mistake_is_one_line_that_names_what_is_right() {
    let chain = Chain::lock();
    let passwd = ["trace", "mtu", "--to", FAR[0], "--netns", "/etc/passwd"];
    for (args, names) in [
        (&["trace", "drops", "--to", FAR[0]][..], &["trace mtu --to"][..]),
        (&["trace", "mtu", "--to", "10.64.6.2:99999"], &["10.0.0.1:443"]),
        (&["trace", "mtu", "--to", FAR[0], "-n", "shop"], &["--to", "--namespace"]),
        (&["trace", "mtu", "--to", FAR[0], "-6"], &["10.64.6.2", "no IPv6 address"]),
        (&["trace", "mtu", "--to", "224.0.0.1"], &["224.0.0.1", "no one host"]),
        (&["trace", "mtu", "--from-pod", "shop/near-0"], &["--to"]),
        (&["trace", "mtu", "--to", FAR[0], "--from-pod", "shop/cart"], &["shop/cart", "shop/near-0"]),
        (&["trace", "mtu", "--to", FAR[0], "--netns", "r2c-nowhere"], &["r2c-nowhere", "/run/netns"]),
        (&passwd, &["/etc/passwd", "no network namespace"]),
    ] {
        let (code, said) = refused(&chain, args, |_| ());
        assert_eq!(code, 2, "{args:?}: {said}");
        let mistakes: Vec<&str> = said.lines().filter(|line| line.contains("error")).collect();
        assert_eq!(mistakes.len(), 1, "{args:?}: {said}");
        assert!(names.iter().all(|name| mistakes[0].contains(name)), "{args:?}: {said}");
    }
}

#[test]
fn a_namespace_needs_a_right_and_a_route() {
    let chain = Chain::lock();
    let netns = chain.netns[0].path();
    // Of linux/capability.h: CAP_SYS_ADMIN.
    let args = ["trace", "mtu", "--to", FAR[0], "--netns", &netns];
    let (code, said) = refused(&chain, &args, |command| without_capabilities(command, 21..22));
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("CAP_SYS_ADMIN"), "{said}");
    let (code, said) = refused(&chain, &["trace", "mtu", "--to", "192.0.2.1", "--netns", &netns], |_| ());
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("192.0.2.1") && said.contains("no route leads there"), "{said}");
}
