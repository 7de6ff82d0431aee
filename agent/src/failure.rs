//! How a command ends when it does not end well: one line on stderr and an exit code that says which kind it was.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;

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
        Self { code: 1, message }
    }

    /// The same, where what is said to be wrong has its value from one of these variables: their names, and their values.
    #[must_use]
    pub fn set_by(mut self, variables: &[(String, String)]) -> Self {
        let is_named = |value: &str| {
            value.split(',').map(str::trim).any(|part| !part.is_empty() && self.message.contains(part))
        };
        let names = variables.iter().filter(|(_, value)| is_named(value));
        let names: Vec<&str> = names.map(|(name, _)| name.as_str()).collect();
        if matches!(self.code, 2 | 3) && !names.is_empty() {
            self.message = format!("{} (set by {})", self.message, names.join(", "));
        }
        self
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

#[cfg(test)]
mod tests {
    use super::*;

    const FLAG: &str = "--listen or R2C_LISTEN";

    #[test]
    fn a_value_of_the_environment_is_named_by_its_variable() {
        let variables = [("R2C_NAMESPACE", "shop,shpo"), ("R2C_NETNS", "w13-9")];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let said = |failure: Failure| failure.set_by(&variables).message;
        assert_eq!(
            said(Failure::usage("no pod of namespace shpo")),
            "no pod of namespace shpo (set by R2C_NAMESPACE)"
        );
        assert_eq!(said(Failure::usage("no interface \"eht0\"")), "no interface \"eht0\"");
        assert_eq!(said(Failure::findings("shpo: findings")), "shpo: findings", "it is not wrong");
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
