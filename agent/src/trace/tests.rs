//! What is refused before a trace begins, and what a script is told at its end.

use super::*;
use crate::cli::{self, Command};
use crate::probe::counts::Limited as Counted;
use crate::probe::flow::Account;
use crate::probe::{Attach, Ends, Hook, Rung, Target};
use crate::sink::Told;

fn args(flags: &[&str]) -> Trace {
    match cli::read([&["r2c-agent", "trace", "drops"], flags].concat()).unwrap().command {
        Command::Trace(args) => *args,
        other => panic!("{other:?}"),
    }
}

fn by(flags: &[&str]) -> Filter {
    filter(&args(flags))
}

/// Where nothing of a packet can be read, a filter would show nothing for ever, and nobody would know why.
#[test]
fn a_filter_is_refused_where_it_would_hide_everything() {
    const PLACE: &str = "-i, -n and --pod would hide everything: the kernel's types (BTF) are missing";
    const TYPES: &str = "--ip and --port would hide everything: the kernel's types (BTF) are missing";
    const LOCKED: &str = "--ip and --port would hide everything: the kernel is locked down";
    for (flags, has_types, reads, wanted) in [
        (&[][..], false, false, ""),
        (&["--all", "--reason", "policy"], false, false, ""),
        (&["--ip", "10.0.0.1"], true, true, ""),
        (&["--ip", "10.0.0.1"], false, true, TYPES),
        (&["--port", "53"], false, true, TYPES),
        (&["--ip", "10.0.0.1"], true, false, LOCKED),
        (&["--port", "53"], true, false, LOCKED),
        (&["-i", "eth0"], false, true, PLACE),
        (&["-n", "shop"], false, true, PLACE),
        (&["--pod", "web"], false, true, PLACE),
        // The device and the pod are known by types.
        (&["-i", "eth0", "-n", "shop", "--pod", "web"], true, false, ""),
    ] {
        let refused = check_packets(has_types, || reads, &by(flags)).err();
        let message = refused.as_ref().map_or("", |refused| refused.message.as_str());
        assert!(
            message.starts_with(wanted) && message.is_empty() == wanted.is_empty(),
            "{flags:?}: {message}"
        );
        assert!(refused.is_none_or(|refused| refused.code == 3));
    }
}

const TYPED: Rung = Rung {
    name: "tp_btf",
    loses: "",
    attach: &[Attach { program: "p", target: Target::BtfTracepoint("kfree_skb") }],
};
const UNTYPED: Rung = Rung {
    name: "raw_tp",
    loses: "",
    attach: &[Attach { program: "p", target: Target::RawTracepoint("kfree_skb") }],
};
const HOOK: Hook =
    Hook { name: "kfree_skb", tells: "", module: None, provoked: true, ladder: &[TYPED, UNTYPED] };

fn climb(rung: Option<&'static Rung>) -> Climb {
    Climb { hook: &HOOK, holds: rung, refused: Vec::new() }
}

#[test]
fn a_filter_by_place_is_refused_on_a_rung_that_reads_no_place() {
    let [typed, untyped, none] = [Some(&TYPED), Some(&UNTYPED), None].map(climb);
    let refused = |flags: &[&str], reads: bool, climb: &Climb, is_asked| {
        let checked = check_rungs(|| reads, &by(flags), std::slice::from_ref(climb), is_asked);
        checked.err().map(|refused| refused.message)
    };
    for flags in [&["-i", "eth0"][..], &["-n", "shop"], &["--pod", "web"]] {
        let said = refused(flags, false, &untyped, false).unwrap();
        assert!(said.contains("everything of kfree_skb (raw_tp): ") && !said.contains("--rung"), "{said}");
        assert!(refused(flags, false, &untyped, true).unwrap().ends_with(", or leave out --rung"));
        assert_eq!(refused(flags, true, &untyped, false), None, "it may read");
        assert_eq!(refused(flags, false, &typed, false), None, "its arguments have types");
        assert_eq!(refused(flags, false, &none, false), None, "it holds nothing");
    }
    assert_eq!(refused(&["--ip", "10.0.0.1"], false, &untyped, false), None);
    assert_eq!(rungs(&[typed, none, untyped]), "kfree_skb (tp_btf), kfree_skb (raw_tp)");
}

fn drained(lost: u64, fault: Option<io::ErrorKind>) -> Drained {
    Drained { lost, taken: 0, fault: fault.map(io::Error::from) }
}

fn harmful_counted(events: u64) -> Sums {
    let pods = Ends { source: None, destination: None };
    let counted =
        Counted { level: Level::Warn, reasons: vec!["policy".to_owned()], may_be: None, pods, events };
    let account = Account { produced: events, limited: events, ..Account::default() };
    Sums::of(&account, 0, &[counted], &Filter::default(), false)
}

fn not_looked_at(events: u64) -> Sums {
    let account = Account { produced: events, ring_full: events, ..Account::default() };
    Sums::of(&account, 0, &[], &Filter::default(), false)
}

/// A script goes by the code alone.
#[test]
fn the_code_at_the_end_says_what_was_found() {
    use io::ErrorKind::{BrokenPipe, StorageFull};
    let (plain, fails) = (args(&[]), args(&["--fail-on-findings"]));
    let vain = || Failure::usage("no pod");
    let none = Sums::default();
    for (what, args, sums, told, vain, wanted) in [
        ("nothing", &fails, none, 0, None, None),
        ("a line", &fails, none, 1, None, Some(4)),
        ("a line, not asked", &plain, none, 1, None, None),
        ("only counted", &fails, harmful_counted(1), 0, None, Some(4)),
        ("both", &fails, harmful_counted(1), 1, None, Some(4)),
        ("not looked at", &fails, not_looked_at(1), 0, None, Some(1)),
        ("not looked at, not asked", &plain, not_looked_at(1), 0, None, None),
        ("no pod came", &plain, none, 0, Some(vain()), Some(2)),
        ("a finding says more", &fails, none, 1, Some(vain()), Some(4)),
    ] {
        let findings = told + sums.harmful_counted();
        let ended = end_of(Ended::Drained, drained(0, None), args, &sums, findings, vain.as_ref(), &[]);
        assert_eq!(ended.err().map(|failure| failure.code), wanted, "{what}");
    }
    let out = |kind| end_of(Ended::Drained, drained(2, Some(kind)), &plain, &none, 0, None, &[]);
    assert!(out(BrokenPipe).is_ok(), "`| head` has seen enough");
    let full = out(StorageFull).unwrap_err();
    assert!(
        full.code == 1 && full.message.starts_with("stdout: ") && !full.message.contains("lost"),
        "{}",
        full.message
    );
    let failed = Ended::Failed(io::Error::other("ring"));
    assert_eq!(end_of(failed, drained(0, None), &plain, &none, 0, None, &[]).unwrap_err().code, 1);
    // That nothing was found does not clear pods whose packets are not known.
    let dark = ["their packets are not known: a/b".to_owned()];
    let dark = |args, findings| {
        end_of(Ended::Drained, drained(0, None), args, &not_looked_at(1), findings, None, &dark)
    };
    let unknown = dark(&fails, 0).unwrap_err();
    assert_eq!(unknown.message, "nothing was found, but their packets are not known: a/b");
    assert_eq!((unknown.code, dark(&fails, 1).unwrap_err().code), (3, 4));
    assert!(dark(&plain, 0).is_ok());
    // Nor does the silence of hooks that were refused.
    let mut unseen = not_looked_at(0);
    unseen.do_not_hold(None, Some(Lost { hooks: 11, of: 13, refused: 11 }));
    let unseen = |args, findings| {
        end_of(Ended::Drained, drained(0, None), args, &unseen, findings, None, &[])
            .map_err(|failure| failure.code)
    };
    assert_eq!([unseen(&fails, 0), unseen(&fails, 1), unseen(&plain, 0)], [Err(3), Err(4), Ok(())]);
}

#[test]
fn a_reader_that_stalls_is_told_what_it_has_lost() {
    let said = stalled(&drained(3, None));
    assert_eq!(said.as_deref(), Some("3 lines lost: the reader of stdout stalls"));
    assert_eq!(stalled(&drained(0, None)), None);
    assert_eq!(stalled(&drained(3, Some(io::ErrorKind::BrokenPipe))), None);
}

#[test]
fn what_was_asked_for_is_shown_as_it_was_given() {
    let flags = [
        "-n", "shop,pay", "--pod", "web,db-*", "--ip", "10.0.0.0/8", "--port", "53", "-i", "eth0",
        "--reason", "policy",
    ];
    let all = args(&flags);
    assert_eq!(asked(&all), "-n shop,pay --pod web,db-* --ip 10.0.0.0/8 --port 53 -i eth0 --reason policy");
    assert_eq!(asked(&args(&[])), "");
    assert_eq!(until(Duration::ZERO), "; Ctrl-C ends it");
    assert_eq!(until(Duration::from_secs(90)), " for 1m 30s; Ctrl-C ends it sooner");
    let found = filter(&all);
    assert_eq!((found.namespace, found.pod.len()), (vec!["shop".to_owned(), "pay".to_owned()], 2));
    assert_eq!((found.port, found.interface), (vec![53], vec!["eth0".to_owned()]));
    assert_eq!((found.ip, found.reason), (vec!["10.0.0.0/8".parse().unwrap()], vec!["policy".to_owned()]));
    assert_eq!([found.level, by(&["--all"]).level], [Level::Warn, Level::Info]);
}

/// Takes what it is told to take.
struct Takes(Written);

impl Sink for Takes {
    fn write(&mut self, _: &Line<'_>) -> io::Result<Written> {
        Ok(self.0)
    }

    fn flush(&mut self) -> io::Result<()> {
        Err(io::Error::other("flushed"))
    }
}

/// `--fail-on-findings` goes by this number: a line that was wanted and lost was a finding all the same.
#[test]
fn each_harmful_line_that_was_wanted_is_a_finding() {
    let says = crate::sink::Saying { message: "m", fields: &[], cells: &[] };
    for (level, written, count) in [
        (Level::Warn, Written::Yes, 1),
        (Level::Warn, Written::Last, 1),
        (Level::Warn, Written::Refused, 1),
        (Level::Warn, Written::Filtered, 0),
        (Level::Warn, Written::Benign, 0),
        (Level::Info, Written::Yes, 0),
    ] {
        let told = Arc::default();
        let mut noted = Noted { inner: Box::new(Takes(written)), told: Arc::clone(&told) };
        let line = Line {
            told: Told::Event,
            at: std::time::SystemTime::UNIX_EPOCH,
            level,
            probe: "drops",
            span: crate::incident::Span::root(),
            pod: None,
            says: &says,
        };
        assert_eq!(noted.write(&line).unwrap(), written);
        assert_eq!(told.load(Relaxed), count, "{level:?} {written:?}");
        assert!(noted.flush().is_err(), "what was not flushed is said");
    }
}

#[test]
fn a_hint_is_for_those_who_are_told_nothing_else() {
    let vain = Failure::usage("no pod");
    assert!(!says_more(0, 0, None));
    assert!(says_more(1, 0, None) && says_more(0, 1, None) && says_more(0, 0, Some(&vain)));
}

#[test]
fn all_that_is_harmful_is_a_finding() {
    assert_eq!(findings(1, 20, &harmful_counted(300)), 321);
    assert_eq!(findings(0, 0, &not_looked_at(7)), 0, "nobody knows");
}
