//! Flags by environment: the variable of each, and what counts as set.
//!
//! What the command line says goes before what the environment says, and that before a default. A variable that is set but
//! empty counts as not set, as a manifest's template leaves it: else it would be a name that nothing has. An empty log level
//! is refused: it would silence everything.

use std::env;
use std::ffi::OsString;

use clap::builder::{BoolishValueParser, Resettable};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};

/// Variables that manifests set for these flags (by the downward API) in place of their own.
const OTHERS: [(&str, &str); 3] =
    [("R2C_NODE_NAME", "NODE_NAME"), ("R2C_POD_NAME", "POD_NAME"), ("R2C_POD_NAMESPACE", "POD_NAMESPACE")];

/// The one whose empty value is refused.
const LOG_LEVEL: &str = "R2C_LOG_LEVEL";

/// A variable that a flag has its value from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// The flag, by the name that the parser has for it.
    pub flag: String,
    /// The variable.
    pub name: String,
}

/// `command` with the variables as they are now. One whose value only other commands know is theirs.
pub(super) fn apply(command: Command) -> Command {
    let whole = command.clone();
    each(command, &|arg| {
        let Some(own) = variable(&arg) else { return arg };
        let is_set =
            |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty() || name == LOG_LEVEL);
        let other = OTHERS.iter().find(|(name, _)| *name == own).map(|(_, other)| *other);
        let arg = match other.filter(|other| !is_set(own) && is_set(other)) {
            Some(other) => arg.env(other),
            // Help names a variable only where it is in effect: it says once how all of them are named.
            None if is_set(own) && (knows_value(&arg, own) || !any_knows_value(&whole, own)) => arg,
            None => arg.env(Resettable::Reset),
        };
        match arg.get_action() {
            // A manifest may well have "1".
            ArgAction::SetTrue => arg.value_parser(BoolishValueParser::new()),
            // Else `--duration -1` is taken for a flag `-1`.
            _ => arg.allow_negative_numbers(true),
        }
    })
}

/// Whether each value that the variable has is one of those that the flag may have.
fn knows_value(arg: &Arg, name: &str) -> bool {
    let known = arg.get_possible_values();
    let Ok(value) = env::var(name) else { return true };
    known.is_empty() || value.split(',').all(|value| known.iter().any(|known| known.matches(value, false)))
}

/// The same of the flags with this variable of whatever command.
fn any_knows_value(command: &Command, name: &str) -> bool {
    command.get_arguments().any(|arg| variable(arg) == Some(name) && knows_value(arg, name))
        || command.get_subcommands().any(|command| any_knows_value(command, name))
}

/// `command` as if no variable were set.
pub(super) fn without(command: Command) -> Command {
    each(command, &|arg| if arg.get_env().is_some() { arg.env(Resettable::Reset) } else { arg })
}

/// The variable that a flag has its value from, or would have.
pub(super) fn variable(arg: &Arg) -> Option<&str> {
    arg.get_env().and_then(|name| name.to_str())
}

/// The flag whose long name this is, in whatever command.
pub(super) fn find<'a>(command: &'a Command, long: &str) -> Option<&'a Arg> {
    let own = command.get_arguments().find(|arg| arg.get_long() == Some(long) && arg.get_env().is_some());
    own.or_else(|| command.get_subcommands().find_map(|command| find(command, long)))
}

/// The variables that a flag of this command line has its value from.
pub(super) fn used(command: &Command, matches: &ArgMatches) -> Vec<Variable> {
    let from_variable =
        |arg: &&Arg| matches.value_source(arg.get_id().as_str()) == Some(ValueSource::EnvVariable);
    let own = command.get_arguments().filter(from_variable);
    let own = own.filter_map(|arg| Some((arg.get_id().to_string(), variable(arg)?.to_owned())));
    let mut used: Vec<Variable> = own.map(|(flag, name)| Variable { flag, name }).collect();
    if let Some((name, matches)) = matches.subcommand()
        && let Some(command) = command.find_subcommand(name)
    {
        used.extend(self::used(command, matches));
    }
    used
}

/// The value of a variable that is no text.
pub(super) fn not_text(command: &Command) -> Option<(String, OsString)> {
    let own = command.get_arguments().filter_map(variable).find_map(|name| {
        let value = env::var_os(name).filter(|value| value.to_str().is_none())?;
        Some((name.to_owned(), value))
    });
    own.or_else(|| command.get_subcommands().find_map(not_text))
}

fn each(command: Command, change: &dyn Fn(Arg) -> Arg) -> Command {
    command.mut_args(change).mut_subcommands(|command| each(command, change))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::super::Cli;
    use super::*;

    fn walk(command: &Command, found: &mut usize) {
        for arg in command.get_arguments() {
            let Some(long) = arg.get_long() else { continue };
            if ["help", "version"].contains(&long) {
                continue;
            }
            let wanted = format!("R2C_{}", long.replace('-', "_").to_uppercase());
            assert_eq!(variable(arg), Some(wanted.as_str()), "--{long} of {}", command.get_name());
            *found += 1;
        }
        command.get_subcommands().for_each(|command| walk(command, found));
    }

    #[test]
    fn every_flag_has_a_variable_of_its_name() {
        let mut found = 0;
        walk(&Cli::command(), &mut found);
        assert!(found > 40, "{found}");
    }
}
