//! What is wrong with a command line, in one line: the flag or the variable, its value, and what would be right.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command, CommandFactory as _};

use super::{Cli, environment};
use crate::nearest;
use crate::probes;

/// What is said of a command line that clap refuses.
pub(super) fn line(error: &clap::Error, args: &[OsString]) -> String {
    let command = environment::apply(Cli::command());
    if error.kind() == ErrorKind::InvalidUtf8
        && let Some((at, value)) = not_text(args, &command).or_else(|| environment::not_text(&command))
    {
        return format!("invalid value {} for {at}: it is no text", value.display());
    }
    let at = context(error, ContextKind::InvalidArg).map(|flag| origin(error, args, &command, flag));
    match (error.kind(), at, context(error, ContextKind::InvalidValue)) {
        (ErrorKind::InvalidValue, Some(at), Some(value)) => {
            let valid = contexts(error, ContextKind::ValidValue);
            match (value, valid.is_empty()) {
                ("", true) => format!("{at} needs a value"),
                ("", false) => format!("{at} needs a value: {}", nearest::one_of(&valid)),
                (value, _) if valid.len() <= nearest::MOST => {
                    format!("invalid value {value:?} for {at}: expected {}", nearest::one_of(&valid))
                }
                (value, _) => format!("invalid value {value:?} for {at}; {}", nearest::hint(value, valid)),
            }
        }
        (ErrorKind::ValueValidation, Some(at), Some(value)) => {
            let why = std::error::Error::source(error).map_or(String::new(), |why| format!(": {why}"));
            // Clap's own words for a switch's variable.
            let why = why.replace("value was not a boolean", "expected true or false");
            format!("invalid value {value:?} for {at}{why}")
        }
        (ErrorKind::UnknownArgument, Some(at), _) if is_negative(&at) => {
            format!("unexpected {at}: a number or a time cannot be negative")
        }
        (ErrorKind::UnknownArgument, Some(at), _) => unknown(&at, args, &command),
        (ErrorKind::MissingRequiredArgument, ..) => {
            let through = through(args, None, &command);
            let missing = contexts(error, ContextKind::InvalidArg);
            let at = through.last().copied().unwrap_or(&command);
            let choices: Vec<String> = missing.iter().flat_map(|name| choices(name, at)).collect();
            let choices: Vec<&str> = choices.iter().map(String::as_str).collect();
            format!("{} needs {}", path(&through), nearest::one_of(&choices))
        }
        (ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand, ..) => {
            let through = through(args, None, &command);
            let known: Vec<&str> = through.last().into_iter().flat_map(|at| commands(at)).collect();
            format!("{} needs a command: {}", path(&through), nearest::one_of(&known))
        }
        (ErrorKind::InvalidSubcommand, ..) => no_command(error, args, &command),
        _ => rendered(error),
    }
}

/// `-1` or `-1s`, which clap takes for a flag.
fn is_negative(text: &str) -> bool {
    text.strip_prefix('-').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit() || c == '.'))
}

/// As clap says it, in one line.
fn rendered(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let lines: Vec<&str> =
        lines.take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more")).collect();
    lines.join(" ").trim_start_matches("error: ").to_owned()
}

/// The commands that the words lead through, from the program itself on; as far as `end`, where there is such a word.
fn through<'a>(args: &[OsString], end: Option<&str>, command: &'a Command) -> Vec<&'a Command> {
    let mut through = vec![command];
    let mut words = args.iter().skip(1).filter_map(|arg| arg.to_str());
    let is_end = |word: &str| end.is_some_and(|end| word.split('=').next() == Some(end));
    while let Some(word) = words.next().filter(|word| !is_end(word)) {
        let flag = flag(word, &through);
        if flag.is_some_and(|flag| flag.get_action().takes_values() && !flag.is_require_equals_set()) {
            // What follows is its value, whatever else it is the name of.
            words.next();
        } else {
            through.extend(through.last().and_then(|at| at.find_subcommand(word)));
        }
    }
    through
}

/// The flag that a word is, of these commands.
fn flag<'a>(word: &str, commands: &[&'a Command]) -> Option<&'a Arg> {
    let of = |flag: &Arg| match (word.strip_prefix("--"), word.strip_prefix('-')) {
        (Some(long), _) => flag.get_long() == Some(long),
        (_, Some(short)) => short.chars().eq(flag.get_short()),
        _ => false,
    };
    commands.iter().flat_map(|command| command.get_arguments()).find(|flag| of(flag))
}

/// The flag whose value on the command line is no text, and that value.
fn not_text(args: &[OsString], command: &Command) -> Option<(String, OsString)> {
    let at = args.iter().position(|word| word.to_str().is_none())?;
    let through = through(&args[..at], None, command);
    let long = |word: &str| Some(format!("--{}", flag(word, &through)?.get_long()?));
    let bytes = args[at].as_bytes();
    let (own, value) = match bytes.iter().position(|byte| *byte == b'=') {
        Some(equals) if bytes.starts_with(b"--") => (&bytes[..equals], &bytes[equals + 1..]),
        _ if bytes.starts_with(b"-") => bytes.split_at_checked(2)?,
        _ => return Some((long(args.get(at.checked_sub(1)?)?.to_str()?)?, args[at].clone())),
    };
    Some((long(str::from_utf8(own).ok()?)?, OsStr::from_bytes(value).to_owned()))
}

/// Their names as they are typed.
fn path(through: &[&Command]) -> String {
    through.iter().map(|command| command.get_name()).collect::<Vec<_>>().join(" ")
}

fn commands(command: &Command) -> impl Iterator<Item = &str> {
    command.get_subcommands().map(Command::get_name)
}

/// What is to be chosen from in place of `<drops|mtu>` or `<SHELL>`.
fn choices(placeholder: &str, at: &Command) -> Vec<String> {
    let name = placeholder.trim_matches(['<', '>']);
    let is_it = |arg: &&Arg| arg.get_value_names().is_some_and(|names| names.iter().any(|of| *of == name));
    let valid = at.get_arguments().find(is_it).map(Arg::get_possible_values).unwrap_or_default();
    if valid.is_empty() {
        return vec![name.to_owned()];
    }
    valid.iter().map(|value| value.get_name().to_owned()).collect()
}

/// A flag that the command does not have, or a word too many.
fn unknown(word: &str, args: &[OsString], command: &Command) -> String {
    let (before, whole) = (through(args, Some(word), command), through(args, None, command));
    if !word.starts_with('-') {
        let behind = args.windows(2).filter(|pair| pair[1] == word).filter_map(|pair| pair[0].to_str());
        let needs = |name: &&str| flag(name, &whole).is_some_and(Arg::is_require_equals_set);
        if let Some(name) = behind.into_iter().find(needs) {
            return format!(
                "unexpected {word:?}: the value of {name} goes behind an equals sign: {name}={word}"
            );
        }
        return format!("unexpected {word:?}: {} takes no such word", path(&whole));
    }
    if flag(word, &whole).is_some() {
        let (at, flag) = (path(&before), path(&whole));
        return format!("{at} has no flag {word}; it goes behind the command: {flag} {word}");
    }
    // The program's own are every command's.
    let flags = whole.iter().flat_map(|command| command.get_arguments());
    let flags = flags.filter(|flag| !flag.is_hide_set());
    let flags: Vec<String> = flags.filter_map(|flag| Some(format!("--{}", flag.get_long()?))).collect();
    let hint = nearest::hint(word, flags.iter().map(String::as_str));
    format!("{} has no flag {word}; {hint}", path(&whole))
}

/// A word where a command should be.
fn no_command(error: &clap::Error, args: &[OsString], command: &Command) -> String {
    let word = context(error, ContextKind::InvalidSubcommand).unwrap_or_default();
    let at = through(args, Some(word), command).last().copied().unwrap_or(command);
    let known: Vec<&str> = commands(at).collect();
    let no = if at.get_name() == command.get_name() {
        format!("no command {word:?}")
    } else {
        format!("{} has no {word:?}", at.get_name())
    };
    if probes::ALL.iter().any(|entry| entry.name == word) {
        return format!("{no}; there are: {}; {word} is a probe: r2c-agent trace {word}", known.join(", "));
    }
    format!("{no}; {}", nearest::hint(word, known))
}

/// What the value came by: the flag, or the variable if it was not on the command line. Clap names the flag in any case;
/// without the environment its error would not be there.
fn origin(error: &clap::Error, args: &[OsString], command: &Command, flag: &str) -> String {
    // `--wait[=<TIME>]`, `--port <PORT>`
    let name = flag.split([' ', '[', '=']).next().unwrap_or(flag);
    let Some(long) = name.strip_prefix("--") else { return name.to_owned() };
    let again = environment::without(Cli::command()).try_get_matches_from(args);
    let is_same = |again: &clap::Error| {
        again.kind() == error.kind()
            && [ContextKind::InvalidArg, ContextKind::InvalidValue]
                .iter()
                .all(|kind| again.get(*kind) == error.get(*kind))
    };
    let variable = environment::find(command, long).and_then(environment::variable);
    match variable.filter(|_| !again.as_ref().is_err_and(is_same)) {
        Some(variable) => variable.to_owned(),
        None => name.to_owned(),
    }
}

fn context(error: &clap::Error, kind: ContextKind) -> Option<&str> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text),
        _ => None,
    }
}

fn contexts(error: &clap::Error, kind: ContextKind) -> Vec<&str> {
    match error.get(kind) {
        Some(ContextValue::Strings(texts)) => texts.iter().map(String::as_str).collect(),
        _ => Vec::new(),
    }
}
