//! What a user can get wrong on the command line: one line that names what would be right, and exit code 2.

use crate::harness::agent::{Agent, command};
use crate::harness::has_reasons;
use crate::harness::pod::Node;

/// Exit code and standard error of a command that should not get far.
fn refused(args: &[&str]) -> (i32, String) {
    let mut agent = Agent::spawn(&mut command(&Node::new(), args));
    let code = agent.ended();
    assert_eq!(agent.stdout.count(), 0, "{}", agent.stdout.text());
    (code, agent.stderr.text())
}

#[test]
fn a_mistake_is_one_line_that_names_what_is_right() {
    // A kernel without reasons has classes to choose from.
    let (wrong, right) =
        if has_reasons() { ("NETFLITER_DROP", "NETFILTER_DROP") } else { ("no_scoket", "no_socket") };
    for (args, names) in [
        (&["trace", "dropz"][..], &["dropz", "drops"][..]),
        (&["run", "--probe", "mtux"], &["mtux", "drops"]),
        (&["trace", "drops", "--filter", "x"], &["--filter"]),
        (&["trace", "drops", "--ip", "10.0.0"], &["10.0.0", "10.0.0.0/8"]),
        (&["trace", "drops", "--interface", "r2c-nowhere"], &["r2c-nowhere", "there are"]),
        (&["trace", "drops", "--reason", wrong], &[wrong, right]),
        (&["trace", "drops", "--ready-file", "/r2c-nowhere/file"], &["/r2c-nowhere/file"]),
    ] {
        let (code, said) = refused(args);
        assert_eq!(code, 2, "{args:?}: {said}");
        let mistakes: Vec<&str> = said.lines().filter(|line| line.contains("error")).collect();
        assert_eq!(mistakes.len(), 1, "{args:?}: {said}");
        assert!(names.iter().all(|name| mistakes[0].contains(name)), "{args:?}: {said}");
    }
}

#[test]
fn an_address_that_is_taken_is_a_runtime_error() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (code, said) = refused(&["run", "--listen", &taken.local_addr().unwrap().to_string()]);
    assert_eq!(code, 1, "{said}");
    let wanted =
        format!("{} is in use; choose another with --listen or R2C_LISTEN", taken.local_addr().unwrap());
    assert!(said.contains(&wanted), "{said}");
}

#[test]
fn two_listeners_on_one_address_are_the_users_own() {
    let (code, said) = refused(&["run", "--listen", "127.0.0.1:9999", "--health-listen", "127.0.0.1:9999"]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("--listen and --health-listen are both 127.0.0.1:9999"), "{said}");
}
