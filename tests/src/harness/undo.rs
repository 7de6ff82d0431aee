//! Puts the machine back as it was, whichever way the tests end: a shell outlives them and does what it was told.

use std::io::Write as _;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError};

/// Commands, the last first, once standard input ends: when this process is gone, killed or not.
const SHELL: &str =
    r#"trap '' INT TERM; todo=; while read -r line; do todo="$line; $todo"; done; eval "$todo""#;

static STDIN: LazyLock<Mutex<ChildStdin>> = LazyLock::new(|| {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", SHELL]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    // Not waited for: it is there for when we are not.
    let shell = Box::leak(Box::new(shell.spawn().expect("/bin/sh")));
    Mutex::new(shell.stdin.take().expect("stdin is piped"))
});

/// One shell command to be run when the tests are over, before those given earlier.
pub(crate) fn at_end(command: &str) {
    assert!(!command.contains('\n'));
    let mut stdin = STDIN.lock().unwrap_or_else(PoisonError::into_inner);
    writeln!(stdin, "{command}").expect("the shell that cleans up lives");
}
