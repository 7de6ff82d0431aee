//! What the command ends with: a script goes by it.

use super::hooks::HookReport;
use super::*;

fn hook(probe: &'static str, takes: Option<&'static str>) -> HookReport {
    HookReport { probe, hook: "p", tells: "", rungs: Vec::new(), takes, module_absent: None }
}

fn report(statuses: &[(&'static str, Status)], hooks: Vec<HookReport>) -> Report {
    let check = |(id, status): &(&'static str, Status)| Check {
        id,
        status: *status,
        found: String::new(),
        advice: None,
    };
    let checks = statuses.iter().map(check).collect();
    Report { version: "0", kernel: None, arch: "x86_64", checks, hooks }
}

fn outcome(report: &Report, fail_on_degraded: bool) -> Option<(u8, String)> {
    report.outcome(fail_on_degraded, None).err().map(|failure| (failure.code, failure.message))
}

#[test]
fn a_probe_that_attaches_nowhere_fails_and_the_missing_right_is_named() {
    let hooks =
        || vec![hook("drops", None), hook("drops", None), hook("mtu", Some("kprobe")), hook("tcp", None)];
    let dead = report(&[], hooks());
    let what = "no hook of probe drops, tcp can be attached to here";
    assert_eq!(outcome(&dead, false), Some((3, what.to_owned())));
    let lacking = rights::Refused {
        cause: rights::Cause::Capability(vec![rights::Right::Bpf]),
        why: "this process lacks CAP_BPF".to_owned(),
        cure: None,
    };
    let failure = dead.outcome(true, Some(lacking)).unwrap_err();
    assert_eq!(failure.message, format!("{what}: this process lacks CAP_BPF"));
    // One hook is enough for a probe.
    let alive = report(&[], vec![hook("drops", None), hook("drops", Some("kprobe"))]);
    assert_eq!(outcome(&alive, true), None);
}

#[test]
fn what_is_degraded_fails_only_who_asks_for_it() {
    let all = [("a", Status::Ok), ("b", Status::Degraded), ("c", Status::Unknown), ("d", Status::Failed)];
    let hooks = || vec![hook("drops", Some("kprobe"))];
    assert_eq!(outcome(&report(&all, hooks()), false), None);
    for (statuses, message) in [
        (&all[..1], None),
        (&all[2..3], None),
        (&all[..2], Some("1 check is not ok: b (--fail-on-degraded)")),
        (&all, Some("2 checks are not ok: b, d (--fail-on-degraded)")),
    ] {
        let expected = message.map(|message| (3, message.to_owned()));
        assert_eq!(outcome(&report(statuses, hooks()), true), expected);
    }
}
