//! Mistakes on the command line, and what is said of each.

use clap::CommandFactory as _;

use super::*;

mod variables;

/// What is said of this command line; empty if nothing is wrong with it.
fn mistake(args: &[&str]) -> String {
    match read([&["r2c-agent"], args].concat()) {
        Ok(_) => String::new(),
        Err(Refused::Mistake(line)) => line,
        Err(Refused::Answer(answer)) => panic!("{answer}"),
    }
}

fn trace(args: &[&str]) -> Trace {
    match read([&["r2c-agent", "trace"], args].concat()) {
        Ok(Cli { command: Command::Trace(args), .. }) => *args,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
    environment::apply(Cli::command()).debug_assert();
}

#[test]
fn a_mistake_is_one_line_that_names_what_is_valid() {
    for (args, wants) in [
        (&["trace", "dropz"][..], "invalid value \"dropz\" for <drops|mtu>: expected drops or mtu"),
        (&["trace", "drops", "--ip", "10.0.0"], "10.0.0.0/8"),
        (&["trace", "drops", "--ip", ""], "invalid value \"\" for --ip: expected an address"),
        (&["trace", "drops", "--ip", "10.0.0.1,x"], "invalid value \"x\" for --ip"),
        (
            &["trace", "drops", "--port", "http"],
            "invalid value \"http\" for --port: expected a port's number",
        ),
        (&["trace", "drops", "--port", "65536"], "expected a port's number"),
        (&["trace", "drops", "--port", "-1"], "invalid value \"-1\" for --port"),
        (&["trace", "drops", "--duration", "soon"], "30s"),
        (
            &["trace", "drops", "--duration", "-1"],
            "invalid value \"-1\" for --duration: expected a time such as 30s",
        ),
        (&["trace", "drops", "--max-events", "0"], "for --max-events: expected a number of events from 1 on"),
        (&["trace", "drops", "--max-events", "-1"], "from 1 on"),
        (&["trace", "drops", "-n", ""], "invalid value \"\" for --namespace: it is empty"),
        (&["trace", "drops", "-n", "shop,"], "invalid value \"\" for --namespace: it is empty"),
        (&["trace", "drops", "--pod", ""], "invalid value \"\" for --pod: expected a pod's name"),
        (&["trace", "drops", "-i", ""], "invalid value \"\" for --interface: it is empty"),
        (&["trace", "drops", "--reason", ""], "invalid value \"\" for --reason: it is empty"),
        (&["audit", "mtu", "-n", ""], "invalid value \"\" for --namespace: it is empty"),
        (&["audit", "mtu", "--pod", "a/b/c"], "shop/cart-*"),
        (&["trace", "drops", "-n"], "--namespace needs a value"),
        (
            &["trace", "drops", "-o", "xml"],
            "invalid value \"xml\" for --output: expected table, wide or json",
        ),
        (&["trace", "drops", "-o", ""], "--output needs a value: table, wide or json"),
        (&["trace", "drops", "--ring-kib", "5"], "power of two"),
        (
            &["trace", "drops", "--rung", "nosuch"],
            "invalid value \"nosuch\" for --rung: no hook of drops has it; there are: ",
        ),
        (&["trace", "drops", "--rung", "tp_bft"], "did you mean tp_btf?"),
        (&["run", "--probe", "mtu", "--rung", "nosuch"], "no hook of mtu has it"),
        (&["metrics", "--rung", "nosuch"], "no hook of drops or mtu has it"),
        (&["run", "--probe", "mtux"], "invalid value \"mtux\" for --probe: expected drops or mtu"),
        (&["run", "--listen", "9436"], "for --listen: the host is missing: 127.0.0.1:9436"),
        (&["doctor", "--log-level", ""], "invalid value \"\" for --log-level: expected one of off, error"),
        (&["doctor", "--log-level", "loud"], "invalid value \"loud\" for --log-level"),
        (&["--log-level", "nosuch=...=x", "doctor"], "TARGET=LEVEL"),
        (&["trace", "mtu", "--to", "a:http"], "10.0.0.1:443"),
        (&["trace", "mtu", "--to", "a", "--from-pod", "web"], "shop/cart-0"),
        (&["trace", "mtu", "--to", "a", "--ip", "10.0.0.1"], "--to cannot be used with --ip"),
        (&["trace", "mtu", "--to", "a", "--duration", "5s"], "--to cannot be used with --duration"),
        (&["trace", "mtu", "--to", "a", "--ring-kib", "8"], "--to cannot be used with --ring-kib"),
        (&["trace", "mtu", "--to", "a", "-4", "-6"], "--ipv4 cannot be used with --ipv6"),
        (
            &["trace", "mtu", "--to", "a", "--netns", "b", "--from-pod", "a/b"],
            "--from-pod cannot be used with --netns",
        ),
        (&["trace", "mtu", "--from-pod", "a/b"], "--from-pod does nothing without --to"),
        (&["trace", "mtu", "--netns", "a"], "--netns does nothing without --to"),
        (&["trace", "mtu", "--timeout", "5s"], "--timeout does nothing without --to"),
        (&["trace", "mtu", "--timeout", "15s"], "--timeout does nothing without --to"),
        (&["trace", "mtu", "--max-packets", "200"], "--max-packets does nothing without --to"),
        (&["trace", "mtu", "-4"], "--ipv4 does nothing without --to"),
        (&["trace", "drops", "-6"], "--ipv6 does nothing without --to"),
        (&["trace", "mtu", "--timeout", "5s", "--duration", "3s"], "--timeout does nothing without --to"),
        (
            &["trace", "drops", "--walk"],
            "--walk goes where mtu finds that segments vanish: r2c-agent trace mtu --walk",
        ),
        (&["trace", "mtu", "--walk", "--to", "a"], "--to cannot be used with --walk"),
        (&["trace", "mtu", "--walk", "--from-pod", "a/b"], "--from-pod does nothing without --to"),
        (&["trace", "mtu", "--walk", "--netns", "a"], "--netns does nothing without --to"),
        (&["trace", "drops", "--max-packets", "9"], "--max-packets does nothing without --to or --walk"),
        (&["trace", "drops", "--wait"], "--wait does nothing without -n or --pod"),
        (&["trace", "mtu", "--to", "a", "--wait=5s"], "--wait does nothing without --from-pod"),
        (&["audit", "mtu", "--wait"], "--wait does nothing without -n or --pod"),
        (&["trace", "drops", "-n", "a", "--wait=soon"], "invalid value \"soon\" for --wait: expected a time"),
        (&["trace", "mtu", "--to", "a", "--timeout", "0"], "10m"),
        (&["doctor", "-1s"], "unexpected -1: a number or a time cannot be negative"),
        (&["doctor", "-.5s"], "unexpected -.: a number or a time cannot be negative"),
        (&["run", "--rung", "nosuch"], "no hook of drops or mtu has it"),
        (&["selftest", "--rung", "nosuch"], "no hook of drops has it"),
    ] {
        let line = mistake(args);
        assert!(line.contains(wants) && !line.contains('\n'), "{args:?}: {line:?}");
    }
}

#[test]
fn a_command_or_a_flag_that_there_is_not_is_named_with_the_nearest() {
    for (args, wants) in [
        (&["frobnicate"][..], "no command \"frobnicate\"; there are: "),
        (&["trcae"], "did you mean trace?"),
        (&["drops"], "drops is a probe: r2c-agent trace drops"),
        (&["audit", "nothing"], "audit has no \"nothing\"; there are: mtu"),
        (
            &["audit", "drops"],
            "audit has no \"drops\"; there are: mtu; drops is a probe: r2c-agent trace drops",
        ),
        (&["audit"], "r2c-agent audit needs a command: mtu"),
        (&["trace"], "r2c-agent trace needs drops or mtu"),
        (&["trace", "drops", "--filter", "x"], "r2c-agent trace has no flag --filter; there are: --"),
        (&["trace", "drops", "--prt", "5"], "r2c-agent trace has no flag --prt; did you mean --port?"),
        (&["audit", "mtu", "--pord", "x"], "r2c-agent audit mtu has no flag --pord; did you mean --pod?"),
        (&["--log", "warn", "doctor"], "r2c-agent doctor has no flag --log; did you mean --log-level?"),
        (&["completions"], "r2c-agent completions needs bash, elvish, fish, powershell or zsh"),
        (
            &["--output", "json", "doctor"],
            "r2c-agent has no flag --output; it goes behind the command: r2c-agent doctor --output",
        ),
        (
            &["-n", "shop", "trace", "drops"],
            "r2c-agent has no flag -n; it goes behind the command: r2c-agent trace -n",
        ),
        (&["audit", "--pod", "web", "mtu"], "it goes behind the command: r2c-agent audit mtu --pod"),
        (&["--log-level", "trace"], "r2c-agent needs a command: run, trace, "),
        (&["--log-level", "trace", "doctor", "--jsn"], "r2c-agent doctor has no flag --jsn"),
        (&["--log-level", "trace", "dctor"], "no command \"dctor\"; did you mean doctor?"),
        (
            &["trace", "drops", "--port=5", "--prt=5"],
            "r2c-agent trace has no flag --prt; did you mean --port?",
        ),
        (&["trace", "drops", "mtu"], "unexpected \"mtu\": r2c-agent trace takes no such word"),
        (
            &["trace", "drops", "-n", "late", "--wait", "5s"],
            "unexpected \"5s\": the value of --wait goes behind an equals sign: --wait=5s",
        ),
        (&[], "r2c-agent needs a command: run, trace, "),
    ] {
        let line = mistake(args);
        assert!(line.contains(wants) && !line.contains('\n'), "{args:?}: {line:?}");
    }
}

#[test]
fn a_value_that_is_no_text_is_named_with_its_flag() {
    use std::os::unix::ffi::OsStrExt as _;
    let said = |args: &[&[u8]]| {
        let args = args.iter().map(|arg| std::ffi::OsStr::from_bytes(arg));
        match read([std::ffi::OsStr::new("r2c-agent")].into_iter().chain(args)) {
            Err(Refused::Mistake(line)) => line,
            other => panic!("{other:?}"),
        }
    };
    let wanted = "invalid value \u{fffd} for --namespace: it is no text";
    assert_eq!(said(&[b"trace", b"drops", b"-n", b"\xff"]), wanted);
    assert_eq!(said(&[b"trace", b"drops", b"-n\xff"]), wanted);
    assert_eq!(said(&[b"trace", b"drops", b"--namespace", b"\xff"]), wanted);
    assert_eq!(said(&[b"trace", b"drops", b"--namespace=\xff"]), wanted);
}

#[test]
fn commas_make_lists_in_every_filter() {
    let args = trace(&[
        "drops", "-n", "shop,pay", "-n", "data", "--pod", "a,pay/b*", "--ip", "10.0.0.1,fd00::/8", "--port",
        "80,443", "-i", "eth0,lo", "--reason", "policy,mtu",
    ]);
    assert_eq!(args.namespace, ["shop", "pay", "data"]);
    assert_eq!(args.pod.iter().map(ToString::to_string).collect::<Vec<_>>(), ["a", "pay/b*"]);
    assert_eq!((args.ip.len(), args.port.as_slice()), (2, &[80, 443][..]));
    assert_eq!([args.interface, args.reason], [["eth0", "lo"], ["policy", "mtu"]]);
}

#[test]
fn walks_are_asked_for_and_bounded() {
    assert!(!trace(&["mtu"]).walk.walk, "they send packets");
    let asked = trace(&["mtu", "--walk", "--timeout", "5s", "--max-packets", "9", "-n", "shop"]).walk;
    assert!(asked.walk && asked.to.is_none());
    assert_eq!((asked.timeout, asked.max_packets), (Duration::from_secs(5), 9));
}

#[test]
fn waiting_has_a_time_or_none() {
    assert_eq!(trace(&["drops", "-n", "a"]).wait, None);
    assert_eq!(trace(&["drops", "-n", "a", "--wait"]).wait, Some(Duration::ZERO));
    assert_eq!(trace(&["drops", "--wait=5s", "-n", "a"]).wait, Some(Duration::from_secs(5)));
    assert_eq!(trace(&["--wait", "drops", "-n", "a"]).probe, "drops", "a probe is no time");
}

/// Whatever has no words of its own is told by clap's, without its advice.
#[test]
fn a_mistake_of_a_rare_kind_is_one_line_as_well() {
    let line = mistake(&["trace", "drops", "--duration", "1s", "--duration", "2s"]);
    assert_eq!(line, "the argument '--duration <TIME>' cannot be used multiple times");
}

#[test]
fn what_waits_needs_only_one_thing_to_wait_for() {
    for of in [["-n", "shop"], ["--pod", "web"]] {
        assert_eq!(mistake(&[&["audit", "mtu", "--wait"], &of[..]].concat()), "");
        assert_eq!(mistake(&[&["trace", "mtu", "--wait"], &of[..]].concat()), "");
    }
    assert_eq!(mistake(&["trace", "mtu", "--to", "a", "--from-pod", "a/b", "--wait=5s"]), "");
}

#[test]
fn a_walk_is_as_its_one_flag_says() {
    let of = |more: &[&str]| {
        let walk = trace(&[&["mtu", "--to", "a"], more].concat()).walk;
        (walk.netns, walk.from_pod.is_some(), walk.v4, walk.v6)
    };
    assert_eq!(of(&[]), (None, false, false, false));
    assert_eq!(of(&["--netns", "x"]), (Some("x".to_owned()), false, false, false));
    assert_eq!(of(&["--from-pod", "a/b"]), (None, true, false, false));
    assert_eq!(of(&["-4"]), (None, false, true, false));
    assert_eq!(of(&["-6"]), (None, false, false, true));
}

#[test]
fn what_was_named_is_told_from_a_default() {
    for args in [&["--pod-logs", "/a", "audit", "mtu"][..], &["audit", "mtu", "--pod-logs", "/a"]] {
        let Ok(cli) = read([&["r2c-agent"], args].concat()) else { panic!("{args:?}") };
        assert_eq!(cli.host.named.pod_logs.as_deref(), Some("--pod-logs"));
        assert_eq!(cli.host.named.proc, None);
    }
}
