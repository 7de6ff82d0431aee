//! How a command ends when it does not end well: one line on stderr and an exit code that says which kind it was.

use std::fmt;

/// A command that could not do what it was asked to.
#[derive(Debug)]
pub struct Failure {
    /// 1 runtime error, 2 usage, 3 unsupported here or preflight failed, 4 findings.
    pub code: u8,
    /// What to tell the user, in one line, and what to do about it.
    pub message: String,
}

impl Failure {
    /// The user asked for something that does not exist.
    pub fn usage(message: impl fmt::Display) -> Self {
        Self { code: 2, message: message.to_string() }
    }

    /// This kernel, or these rights, do not allow it.
    pub fn unsupported(message: impl fmt::Display) -> Self {
        Self { code: 3, message: message.to_string() }
    }

    /// The command ran and found something wrong.
    pub fn findings(message: impl fmt::Display) -> Self {
        Self { code: 4, message: message.to_string() }
    }
}

impl<E: fmt::Display> From<E> for Failure
where
    E: Into<anyhow::Error>,
{
    fn from(error: E) -> Self {
        Self { code: 1, message: format!("{:#}", error.into()) }
    }
}
