//! Flags that come by environment, and paths of the host's: what is wrong names the flag or the variable that it came by.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::harness::agent::{command, json};
use crate::harness::agent_binary;
use crate::harness::pod::Node;

use super::{Shop, ended, refused};

#[test]
fn variables_are_flags_and_are_named_where_they_are_wrong() {
    let shop = Shop::new();
    for (variable, value, args, wants) in [
        (
            "R2C_OUTPUT",
            "xml",
            &["audit", "mtu"][..],
            "invalid value \"xml\" for R2C_OUTPUT: expected table, wide or json",
        ),
        ("R2C_NAMESPACE", "shpo", &["audit", "mtu"], "did you mean shop?"),
        ("R2C_POD", "a/b/c", &["audit", "mtu"], "invalid value \"a/b/c\" for R2C_POD: expected a pod's name"),
        ("R2C_PROBE", "mtux", &["run"], "invalid value \"mtux\" for R2C_PROBE: expected drops or mtu"),
        (
            "R2C_LISTEN",
            "9436",
            &["run"],
            "invalid value \"9436\" for R2C_LISTEN: the host is missing: 127.0.0.1:9436",
        ),
        (
            "R2C_LOG_LEVEL",
            "loud",
            &["audit", "mtu"],
            "invalid value \"loud\" for R2C_LOG_LEVEL: expected one of off, error",
        ),
        (
            "R2C_LOG_LEVEL",
            "",
            &["audit", "mtu"],
            "invalid value \"\" for R2C_LOG_LEVEL: expected one of off, error",
        ),
        ("R2C_LOG_LEVEL", "nosuch=...=x", &["run"], "invalid value \"nosuch=...=x\" for R2C_LOG_LEVEL"),
        (
            "R2C_MAX_EVENTS",
            "0",
            &["trace", "drops"],
            "for R2C_MAX_EVENTS: expected a number of events from 1 on",
        ),
        ("R2C_DURATION", "-1", &["trace", "drops"], "invalid value \"-1\" for R2C_DURATION: expected a time"),
        ("R2C_ALL", "perhaps", &["trace", "drops"], "invalid value \"perhaps\" for R2C_ALL"),
        (
            "R2C_RUNG",
            "nosuch",
            &["trace", "drops"],
            "invalid value \"nosuch\" for R2C_RUNG: no hook of drops has it",
        ),
        (
            "R2C_FROM_POD",
            "web",
            &["trace", "mtu", "--to", "127.0.0.1"],
            "invalid value \"web\" for R2C_FROM_POD",
        ),
        ("R2C_OUTPUT", "json", &["audit", "mtu", "-o", "xml"], "invalid value \"xml\" for --output"),
        ("R2C_PORT", "http", &["trace", "drops", "--port", "https"], "invalid value \"https\" for --port"),
    ] {
        refused(command(&shop.node, args).env(variable, value), wants);
    }
    for (variables, args) in [
        // Empty is not set, and what the command line says holds.
        (
            &[("R2C_NAMESPACE", ""), ("R2C_POD", ""), ("R2C_WAIT", ""), ("R2C_OUTPUT", "")][..],
            &["-o", "json"][..],
        ),
        (&[("R2C_OUTPUT", "xml"), ("R2C_NAMESPACE", "shpo")], &["-o", "json", "-n", "shop"]),
        (&[("R2C_OUTPUT", "json"), ("R2C_NAMESPACE", "shop,pay"), ("R2C_FAIL_ON_FINDINGS", "0")], &[]),
        // Of other commands, and of another errand of this one.
        (&[("R2C_OUTPUT", "json"), ("R2C_TIMEOUT", "5s"), ("R2C_LISTEN", "9436"), ("R2C_PROBE", "x")], &[]),
    ] {
        let mut audit = command(&shop.node, &[&["audit", "mtu"], args].concat());
        let (code, said, notes) =
            ended(audit.envs(variables.iter().copied()).env("R2C_NODE_NAME", "another"));
        let lines: Vec<_> = said.lines().filter_map(|line| json(line.as_bytes())).collect();
        assert_eq!(code, 0, "{variables:?}: {notes}");
        assert!(
            !lines.is_empty() && lines.iter().all(|line| line["node_name"] == "another"),
            "{variables:?}: {said}"
        );
    }
    let (_, said, _) = ended(command(&shop.node, &["audit", "mtu"]).env("R2C_OUTPUT", "json"));
    assert!(said.contains("\"node_name\":\"r2c-test\""), "NODE_NAME is read, too: {said}");
    shop.stop();
}

/// A variable is named where its own value is refused, and only there.
#[test]
fn a_variable_is_blamed_for_its_own_value_alone() {
    let shop = Shop::new();
    let said = |variables: &[(&str, &str)], args: &[&str]| {
        let (_, _, said) = ended(command(&shop.node, args).envs(variables.iter().copied()));
        said
    };
    for (variables, args, wants) in [
        (
            &[("R2C_NAMESPACE", "shop,shpo")][..],
            &["audit", "mtu"][..],
            "did you mean shop? (set by R2C_NAMESPACE)",
        ),
        (
            &[("POD_NAMESPACE", "r2c-agent")],
            &["trace", "drops", "--reason", "received"],
            "received is a reason of mtu: r2c-agent trace mtu --reason received",
        ),
        (
            &[("R2C_REASON", "received")],
            &["trace", "drops"],
            "trace mtu --reason received (set by R2C_REASON)",
        ),
        (
            &[("NODE_NAME", "pod"), ("R2C_PORT", "80")],
            &["trace", "drops", "-n", "shop80"],
            "did you mean shop?",
        ),
        (
            &[("R2C_WAIT", "1s")],
            &["trace", "drops", "-n", "late"],
            "no pod of namespace \"late\" on this node within 1s; there are: pay, shop",
        ),
        (&[("R2C_INTERFACE", "r2c-none")], &["trace", "drops"], "(set by R2C_INTERFACE)"),
    ] {
        let said = said(variables, args);
        assert!(said.trim_end().ends_with(wants), "{variables:?} {args:?}: {said}");
    }
    shop.stop();
}

/// What asks for a walk by a flag is not in the way of one that waits, and the other way round.
#[test]
fn a_variable_of_another_errand_is_not_in_the_way() {
    let node = Node::new();
    let walk = ["trace", "mtu", "--to", "127.0.0.1", "-o", "json"];
    let (code, said, notes) = ended(command(&node, &walk).env("R2C_DURATION", "5s").env("R2C_ALL", "true"));
    assert!(code == 0 && said.contains("path_clear"), "{said}{notes}");
    let events = ["trace", "mtu", "--duration", "1s"];
    let (code, _, notes) = ended(command(&node, &events).env("R2C_TO", "127.0.0.1").env("R2C_TIMEOUT", "5s"));
    assert!(code == 3 || code == 0 && notes.contains("no event lost"), "{notes}");
    refused(
        command(&node, &walk).env("R2C_TO", "127.0.0.1").arg("--port").arg("80"),
        "--to cannot be used with --port",
    );
    refused(
        command(&node, &["trace", "mtu"]).env("R2C_TO", "127.0.0.1").env("R2C_PORT", "80"),
        "R2C_TO cannot be used with R2C_PORT",
    );
}

#[test]
fn a_path_of_the_hosts_that_is_wrong_is_refused_where_it_was_named() {
    let node = Node::new();
    let other = node.logs.with_file_name("other");
    fs::create_dir(&other).unwrap();
    let (other, passwd) = (other.to_str().unwrap(), "/etc/passwd");
    for (flag, variable, value, wants) in [
        ("--pod-logs", "R2C_POD_LOGS", "/r2c-nowhere", "/r2c-nowhere: does not exist"),
        ("--pod-logs", "R2C_POD_LOGS", passwd, "/etc/passwd: is no directory"),
        ("--host-proc", "R2C_HOST_PROC", "/r2c-nowhere", "/r2c-nowhere: does not exist"),
        ("--host-proc", "R2C_HOST_PROC", other, "is no proc file system"),
        ("--host-cgroup", "R2C_HOST_CGROUP", "/r2c-nowhere", "/r2c-nowhere: does not exist"),
        ("--host-cgroup", "R2C_HOST_CGROUP", other, "is no cgroup file system"),
    ] {
        for command in [&["audit", "mtu"][..], &["trace", "drops"], &["run"], &["doctor"], &["metrics"]] {
            let mut bare = Command::new(agent_binary());
            let by_flag = bare.args(command).args([flag, value]);
            refused(by_flag, &format!("{flag} {value}: "));
            refused(Command::new(agent_binary()).args(command).env(variable, value), wants);
            let (_, _, said) = ended(Command::new(agent_binary()).args(command).env(variable, value));
            assert_eq!(said.matches(variable).count(), 1, "{said}");
            assert!(said.contains(&format!("{variable} {value}: ")), "{said}");
        }
    }
    // Where nobody has named it, it is one line, and the rest is done.
    if !Path::new("/var/log/pods").exists() {
        let bare = |args: &[&str]| {
            let mut bare = Command::new(agent_binary());
            bare.args(args).arg("--host-cgroup").arg(&node.cgroup).arg("--host-proc").arg(&node.proc);
            bare
        };
        let (code, _, said) = ended(&mut bare(&["audit", "mtu"]));
        let lines: Vec<_> = said.lines().filter(|line| line.contains("/var/log/pods")).collect();
        assert!(code == 0 && lines.len() == 1 && lines[0].contains("warning: "), "{said}");
        // What is refused is one line.
        refused(&mut bare(&["audit", "mtu", "-n", "shop"]), "no pod of namespace \"shop\"");
        refused(&mut bare(&["trace", "drops", "--reason", "polciy"]), "did you mean policy?");
    }
}
