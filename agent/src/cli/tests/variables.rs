//! The environment where the command line says nothing. Variables are a whole process's: each case has one of its own.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::process::Command as Process;

use super::*;

/// Set in the process that is asked: its command line, a line a word.
const ASKED: &str = "R2C_TEST_COMMAND_LINE";

/// What of a command line is not as it would be without any, and the variables that it came by.
fn told(cli: &Cli) -> String {
    let mut told: Vec<String> = cli.host.node_name.iter().map(|node| format!("node {node}")).collect();
    if let Command::Trace(args) = &cli.command {
        told.extend(args.walk.to.iter().map(|to| format!("to {}", to.host)));
        told.extend(args.walk.netns.iter().map(|netns| format!("netns {netns}")));
        told.extend(args.walk.from_pod.iter().map(|_| "from a pod".to_owned()));
        let switches =
            [(args.walk.v4, "v4"), (args.walk.v6, "v6"), (args.walk.walk, "walk"), (args.all, "all")];
        told.extend(switches.iter().filter(|(on, _)| *on).map(|(_, name)| (*name).to_owned()));
        told.extend((!args.ip.is_empty()).then(|| format!("{} ip", args.ip.len())));
    }
    let value = |name: &str| std::env::var(name).unwrap_or_default();
    told.extend(cli.variables.iter().map(|Variable { name, .. }| format!("{name}={}", value(name))));
    told.join(", ")
}

fn answer(args: &[&str]) -> String {
    match read([&["r2c-agent"], args].concat()) {
        Ok(cli) => told(&cli),
        Err(Refused::Mistake(line)) => line,
        Err(Refused::Answer(answer)) => panic!("{answer}"),
    }
}

/// The answer of a process with these variables and no others.
fn answer_with(variables: &[(&str, impl AsRef<OsStr>)], args: &[&str]) -> String {
    let name = concat!(module_path!(), "::a_variable_counts_where_the_command_line_says_nothing");
    let name = name.split_once("::").unwrap().1;
    let mut alone = Process::new(std::env::current_exe().unwrap());
    alone.args(["--exact", name, "--nocapture"]).env_clear().env(ASKED, args.join("\n"));
    let output = alone.envs(variables.iter().map(|(name, value)| (name, value))).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let answer = said.split_once("ANSWER<").and_then(|(_, rest)| rest.split_once(">ANSWER"));
    answer.unwrap_or_else(|| panic!("{said}")).0.to_owned()
}

#[test]
fn a_variable_counts_where_the_command_line_says_nothing() {
    if let Ok(asked) = std::env::var(ASKED) {
        println!("ANSWER<{}>ANSWER", answer(&asked.lines().collect::<Vec<_>>()));
        return;
    }
    let to = ("R2C_TO", "a");
    for (variables, args, wants) in [
        (&[][..], &["doctor"][..], ""),
        // A manifest's own names stand in for ours, and an empty variable for none.
        (&[("NODE_NAME", "n1")], &["doctor"], "node n1, NODE_NAME=n1"),
        (&[("R2C_NODE_NAME", "n2")], &["doctor"], "node n2, R2C_NODE_NAME=n2"),
        (&[("R2C_NODE_NAME", "n2"), ("NODE_NAME", "n1")], &["doctor"], "node n2, R2C_NODE_NAME=n2"),
        (&[("R2C_NODE_NAME", ""), ("NODE_NAME", "n1")], &["doctor"], "node n1, NODE_NAME=n1"),
        (&[("R2C_NODE_NAME", ""), ("NODE_NAME", "")], &["doctor"], ""),
        (&[("R2C_NODE_NAME", "n2")], &["doctor", "--node-name", "n3"], "node n3"),
        // A mistake is told of the variable only if it is the variable's.
        (
            &[("R2C_PORT", "http")],
            &["trace", "drops"],
            "invalid value \"http\" for R2C_PORT: expected a port's number from 1 to 65535, such as 443",
        ),
        (
            &[("R2C_PORT", "80")],
            &["trace", "drops", "--port", "http"],
            "invalid value \"http\" for --port: expected a port's number from 1 to 65535, such as 443",
        ),
        (
            &[("R2C_ALL", "perhaps")],
            &["trace", "drops"],
            "invalid value \"perhaps\" for R2C_ALL: expected true or false",
        ),
        // Another command knows the value.
        (&[("R2C_OUTPUT", "wide")], &["doctor"], ""),
        (&[("R2C_OUTPUT", "wide")], &["trace", "drops"], "R2C_OUTPUT=wide"),
        (&[("R2C_OUTPUT", "json")], &["doctor"], "R2C_OUTPUT=json"),
        (
            &[("R2C_OUTPUT", "xml")],
            &["doctor"],
            "invalid value \"xml\" for R2C_OUTPUT: expected table or json",
        ),
        // What is asked goes before what a variable says, and a switch that is off asks for nothing.
        (&[to], &["trace", "mtu"], "to a, R2C_TO=a"),
        (&[to], &["trace", "mtu", "--ip", "10.0.0.1"], "1 ip, R2C_TO=a"),
        (&[("R2C_IP", "10.0.0.1")], &["trace", "mtu", "--to", "a"], "to a, 1 ip, R2C_IP=10.0.0.1"),
        (&[to, ("R2C_ALL", "true")], &["trace", "mtu"], "R2C_TO cannot be used with R2C_ALL"),
        (&[to, ("R2C_ALL", "false")], &["trace", "mtu"], "to a, R2C_ALL=false, R2C_TO=a"),
        (
            &[("R2C_NETNS", "x")],
            &["trace", "mtu", "--to", "a", "--from-pod", "a/b"],
            "to a, from a pod, R2C_NETNS=x",
        ),
        (
            &[("R2C_FROM_POD", "a/b")],
            &["trace", "mtu", "--to", "a", "--netns", "x"],
            "to a, netns x, R2C_FROM_POD=a/b",
        ),
        (&[("R2C_IPV4", "1")], &["trace", "mtu", "--to", "a", "-6"], "to a, v6, R2C_IPV4=1"),
        (&[("R2C_IPV6", "1")], &["trace", "mtu", "--to", "a", "-4"], "to a, v4, R2C_IPV6=1"),
        (&[("R2C_WALK", "1")], &["trace", "drops"], "R2C_WALK=1"),
        (
            &[("R2C_RUNG", "nosuch-at-all")],
            &["metrics", "--node-name", "n3"],
            "invalid value \"nosuch-at-all\" for R2C_RUNG: no hook of drops or mtu has it; there are: ",
        ),
    ] {
        let answer = answer_with(variables, args);
        let is = if wants.ends_with(": ") { answer.starts_with(wants) } else { answer == wants };
        assert!(is, "{variables:?} {args:?}: {answer}");
    }
    let silent = answer_with(&[("R2C_LOG_LEVEL", "")], &["doctor"]);
    assert!(
        silent.starts_with("invalid value \"\" for R2C_LOG_LEVEL: expected one of off, error"),
        "{silent}"
    );
    let no_text = answer_with(&[("R2C_NODE_NAME", OsStr::from_bytes(b"/\xff"))], &["doctor"]);
    assert_eq!(no_text, "invalid value /\u{fffd} for R2C_NODE_NAME: it is no text");
}
