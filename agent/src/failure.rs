//! How a command ends when it does not end well: one line on stderr and an exit code that says which kind it was.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use crate::cli::Variable;

/// A command that could not do what it was asked to.
#[derive(Clone, Debug)]
pub struct Failure {
    /// 1 runtime error, 2 usage, 3 unsupported here or preflight failed, 4 findings.
    pub code: u8,
    /// What to tell the user, in one line, and what to do about it.
    pub message: String,
    /// The flags whose values it refuses, by the names that the parser has for them.
    pub of: &'static [&'static str],
}

impl Failure {
    fn new(code: u8, message: impl fmt::Display) -> Self {
        Self { code, message: message.to_string(), of: &[] }
    }

    /// It went wrong.
    pub fn runtime(message: impl fmt::Display) -> Self {
        Self::new(1, message)
    }

    /// The user asked for something that does not exist.
    pub fn usage(message: impl fmt::Display) -> Self {
        Self::new(2, message)
    }

    /// This kernel, or these rights, do not allow it.
    pub fn unsupported(message: impl fmt::Display) -> Self {
        Self::new(3, message)
    }

    /// The same, where it refuses the values of these flags.
    #[must_use]
    pub fn of(self, flags: &'static [&'static str]) -> Self {
        Self { of: flags, ..self }
    }

    /// An address that `flag` names cannot be listened on.
    #[must_use]
    pub fn listen(flag: &str, address: SocketAddr, error: &io::Error) -> Self {
        let message = match error.kind() {
            ErrorKind::AddrInUse => {
                format!("{address} is in use; choose another with {flag}")
            }
            ErrorKind::AddrNotAvailable => {
                format!("no interface of this host has {}; choose another address with {flag}", address.ip())
            }
            ErrorKind::PermissionDenied => {
                format!(
                    "{address} may not be listened on: {error}; ports below 1024 need CAP_NET_BIND_SERVICE"
                )
            }
            _ => format!("{flag} {address}: {error}"),
        };
        Self::runtime(message)
    }

    /// The same, with the variables that the flags it refuses have their values from, where it does not name them.
    #[must_use]
    pub fn set_by(mut self, variables: &[Variable]) -> Self {
        let refused = variables.iter().filter(|variable| self.of.contains(&variable.flag.as_str()));
        let unnamed = refused.filter(|variable| !self.message.contains(&variable.name));
        let names: Vec<&str> = unnamed.map(|variable| variable.name.as_str()).collect();
        if !names.is_empty() {
            self.message = format!("{} (set by {})", self.message, names.join(", "));
        }
        self
    }

    /// The command ran and found something wrong.
    pub fn findings(message: impl fmt::Display) -> Self {
        Self::new(4, message)
    }
}

impl<E: fmt::Display> From<E> for Failure
where
    E: Into<anyhow::Error>,
{
    fn from(error: E) -> Self {
        Self::runtime(format!("{:#}", error.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAG: &str = "--listen or R2C_LISTEN";

    #[test]
    fn a_value_of_the_environment_is_named_by_its_variable() {
        let set = |flag: &str, name: &str| Variable { flag: flag.to_owned(), name: name.to_owned() };
        let variables = [
            set("namespace", "R2C_NAMESPACE"),
            set("pod_logs", "R2C_POD_LOGS"),
            set("port", "R2C_PORT"),
            set("wait", "R2C_WAIT"),
        ];
        for (failure, wanted) in [
            (
                Failure::usage("no pod of namespace \"shpo\"").of(&["namespace"]),
                "no pod of namespace \"shpo\" (set by R2C_NAMESPACE)",
            ),
            (
                Failure::unsupported("-n and --port would hide everything").of(&["namespace", "pod", "port"]),
                "-n and --port would hide everything (set by R2C_NAMESPACE, R2C_PORT)",
            ),
            // It came by the command line.
            (Failure::usage("no interface \"eht0\"").of(&["interface"]), "no interface \"eht0\""),
            // It says so itself.
            (
                Failure::usage("R2C_POD_LOGS /nope: does not exist").of(&["pod_logs"]),
                "R2C_POD_LOGS /nope: does not exist",
            ),
            // No value is refused, whatever the words are.
            (
                Failure::usage("r2c-agent: shop80 (os error 2) within 2s"),
                "r2c-agent: shop80 (os error 2) within 2s",
            ),
        ] {
            assert_eq!(failure.set_by(&variables).message, wanted);
        }
    }

    #[test]
    fn an_address_that_cannot_be_listened_on_is_named() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = std::net::TcpListener::bind(address).unwrap_err();
        let failure = Failure::listen(FLAG, address, &error);
        let wanted = format!("{address} is in use; choose another with --listen or R2C_LISTEN");
        assert_eq!((failure.code, failure.message), (1, wanted));
        let elsewhere = "192.0.2.1:9436".parse().unwrap();
        let error = std::net::TcpListener::bind(elsewhere).unwrap_err();
        assert!(
            Failure::listen(FLAG, elsewhere, &error)
                .message
                .contains("no interface of this host has 192.0.2.1")
        );
    }
}
