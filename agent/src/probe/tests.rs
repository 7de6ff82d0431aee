//! What a rung may read and may miss, and what a verdict says.

use super::attach::Lost;
use super::*;
use crate::kernel::{self, Kernel};

/// Under lockdown only what has types may be read: one program without is enough to lose it.
#[test]
fn a_rung_is_typed_if_all_its_programs_are() {
    let typed = [Target::BtfTracepoint("kfree_skb"), Target::Fentry("ip_rcv"), Target::Fexit("ip_rcv")];
    let bare = [
        Target::RawTracepoint("kfree_skb"),
        Target::Kprobe("ip_rcv"),
        Target::Kretprobe("ip_rcv"),
        Target::Clock,
        Target::Tracepoint { category: "skb", name: "kfree_skb" },
    ];
    let is_typed = |targets: &[Target]| {
        let attach: Vec<Attach> =
            targets.iter().map(|target| Attach { program: "program", target: *target }).collect();
        Rung { name: "rung", loses: "", attach: attach.leak() }.is_typed()
    };
    assert!(is_typed(&typed));
    for target in bare {
        assert!(!is_typed(&[target]) && !is_typed(&[typed[0], target]), "{target:?}");
    }
}

/// What the doctor says of a rung, and what a trace's end claims, come from one place.
#[test]
fn a_rung_that_may_miss_events_says_so() {
    const HOOK: Hook = Hook { name: "hook", tells: "", module: None, provoked: false, ladder: &[] };
    let rung = |target, loses| {
        let attach = vec![Attach { program: "program", target }].leak();
        Rung { name: "rung", loses, attach }
    };
    let classic = Target::Tracepoint { category: "skb", name: "kfree_skb" };
    for (target, misses) in [
        (Target::BtfTracepoint("kfree_skb"), None),
        (Target::RawTracepoint("kfree_skb"), None),
        (Target::Fentry("ip_rcv"), None),
        (Target::Fexit("ip_rcv"), None),
        (Target::Clock, None),
        (Target::Kprobe("ip_rcv"), Some(Misses::Kprobes)),
        (Target::Kretprobe("ip_rcv"), Some(Misses::Kprobes)),
        (classic, Some(Misses::Tracepoints)),
    ] {
        assert_eq!(rung(target, "").misses(), misses, "{target:?}");
    }
    assert_eq!(rung(Target::Clock, "costs more").loss(false), "costs more");
    assert_eq!(rung(classic, "costs more").loss(true), "costs more; may miss some");
    assert_eq!(rung(classic, "").loss(false), "may miss some, which this kernel does not count");
    let climb = |rung: Rung| attach::Climb {
        hook: &HOOK,
        holds: Some(Box::leak(Box::new(rung))),
        refused: Vec::new(),
    };
    let climbs =
        [climb(rung(Target::Clock, "")), climb(rung(classic, "")), climb(rung(Target::Kprobe("ip_rcv"), ""))];
    let uncounted = |climbs: &[attach::Climb]| attach::uncounted(climbs, false);
    assert_eq!(uncounted(&climbs[..1]), None);
    assert_eq!(uncounted(&climbs[..2]), Some("this kernel does not count what its tracepoints miss"));
    assert_eq!(uncounted(&climbs[2..]), Some("this kernel does not count what its kprobes miss"));
    assert_eq!(uncounted(&climbs), Some("this kernel does not count what its kprobes and tracepoints miss"));
    assert_eq!(attach::uncounted(&climbs, true), None);
}

/// What a module that is not loaded would tell does not happen, and drops all come from one hook.
#[test]
fn hooks_that_were_refused_are_lost() {
    const RUNG: Rung = Rung { name: "rung", loses: "", attach: &[] };
    const HOOK: Hook = Hook { name: "hook", tells: "", module: None, provoked: false, ladder: &[RUNG] };
    const IN_MODULE: Hook = Hook { module: Some("nf_conntrack"), ..HOOK };
    let dir = tempfile::tempdir().unwrap();
    let kernel = || Kernel::load_from(kernel::Roots::under(dir.path()));
    let climb =
        |hook, holds: bool| attach::Climb { hook, holds: holds.then_some(&RUNG), refused: Vec::new() };
    let lost = |climbs: &[attach::Climb], source| Lost::of(climbs, source, &kernel());
    let held = climb(&HOOK, true);
    let climbs = [held.clone(), climb(&HOOK, false), climb(&IN_MODULE, false)];
    assert_eq!(lost(&climbs, None), Some(Lost { hooks: 1, of: 2, refused: 0 }));
    assert_eq!(lost(&climbs, Some("hook")), None, "its source holds, else it would not be up");
    assert_eq!(lost(&[held, climb(&IN_MODULE, false)], None), None);
    std::fs::create_dir_all(dir.path().join("sys/module/nf_conntrack")).unwrap();
    assert_eq!(lost(&climbs, None), Some(Lost { hooks: 2, of: 3, refused: 0 }));
}

/// A verdict has no row of its own, and every field that it was given.
#[test]
fn a_verdict_says_what_it_was_given() {
    let fields: Vec<Field<'_>> =
        vec![("finding", Value::Text("small_hop".into())), ("count", Value::Number(3))];
    let (at, message) = (SystemTime::UNIX_EPOCH, "hop takes 1400 bytes".to_owned());
    let verdict = Verdict { at, level: Level::Warn, pod: None, message, fields: fields.clone() };
    let (mut text, mut said, mut cells) = (String::new(), Vec::new(), Vec::new());
    verdict.message(&mut text);
    Says::fields(&verdict, &mut said);
    verdict.cells(&mut cells);
    assert_eq!((text.as_str(), said, cells.len()), ("hop takes 1400 bytes", fields, 0));
}
