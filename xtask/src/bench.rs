//! `cargo xtask bench`: what the agent costs, beside its peers, in guests whose clock counts instructions.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::vm::Guest;
use crate::{build, setup};

mod baseline;
mod figures;
mod inside;
mod loads;
mod maps;
mod peer;
mod pods;
mod report;
mod scrapes;
mod tun;
mod watch;

use baseline::Baseline;

/// A guest that counts instructions takes several times as long as one that does not.
const LIMIT: Duration = Duration::from_hours(1);

/// Processors of the guest in which the kernel's memory is measured: enough that what is per processor outweighs the rest.
const MANY: u8 = 8;

/// Measure what the agent costs beside its peers: instructions, memory, size; compared with the targets
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    /// The guest kernel's series: 6.1, 6.12
    #[arg(short, long, default_value = "6.12")]
    kernel: String,
    /// Fail where a figure is not the committed one
    #[arg(long)]
    check: bool,
    /// Make these figures the committed ones, here and in the README
    #[arg(long, conflicts_with = "check")]
    write: bool,
    /// Measure only these; for a look while working on them
    #[arg(long, value_name = "WHAT", value_delimiter = ',', value_parser = parts(), conflicts_with_all = ["check", "write"])]
    only: Vec<String>,
    #[command(subcommand)]
    role: Option<Role>,
}

/// What this program is inside a guest.
#[derive(clap::Subcommand)]
enum Role {
    /// Measures all that one processor can tell
    #[command(hide = true)]
    Costs {
        /// Only these parts of it
        only: Vec<String>,
    },
    /// Measures what the kernel holds for the agent
    #[command(hide = true)]
    Memory,
}

/// The part that has a guest of its own.
const MEMORY: &str = "memory";

/// All parts that can be measured alone.
fn parts() -> clap::builder::PossibleValuesParser {
    inside::PARTS.iter().map(|part| part.0).chain([MEMORY]).collect::<Vec<_>>().into()
}

/// Figures by name.
type Figures = BTreeMap<String, f64>;

impl Args {
    /// Whether this program runs inside a guest, where nothing is built.
    pub(crate) fn is_inside(&self) -> bool {
        self.role.is_some()
    }
}

pub(crate) fn main(args: &Args) -> Result<u8> {
    match &args.role {
        Some(Role::Costs { only }) => return inside::costs(only).map(|()| 0),
        Some(Role::Memory) => return inside::memory().map(|()| 0),
        None => {}
    }
    setup::need(&[setup::Part::Build, setup::Part::Guests, setup::Part::Bench])?;
    // Before an hour's work, not after it.
    let committed = if args.check { Some(Baseline::read(&args.kernel)?) } else { None };
    let agent = build::agent(true)?;
    let mut figures = Figures::new();
    for role in ["costs", MEMORY] {
        let mut guest = Guest::new(&args.kernel)?;
        guest.timeout = LIMIT;
        if role == MEMORY {
            guest.cpus = MANY;
        } else {
            guest.count_instructions();
        }
        guest.programs.push(("r2c-agent", agent.clone()));
        guest.programs.push(("xtask", std::env::current_exe().context("this program's own file")?));
        let mut command: Vec<String> = ["/r2c/bin/xtask", "bench", role].map(str::to_owned).into();
        let of_it: Vec<&String> =
            args.only.iter().filter(|part| (*part == MEMORY) == (role == MEMORY)).collect();
        if of_it.is_empty() && !args.only.is_empty() {
            continue;
        }
        if role != MEMORY {
            command.extend(of_it.into_iter().cloned());
        }
        let code = guest.run(&command, &mut |line| note(line, &mut figures))?;
        if code != 0 {
            bail!("the {} guest could not measure its {role}", args.kernel);
        }
    }
    let measured = Baseline { kernel: args.kernel.clone(), figures };
    measured.keep()?;
    println!("{}", report::table(std::slice::from_ref(&measured)));
    if args.write {
        measured.commit()?;
    }
    let Some(committed) = committed else { return Ok(0) };
    let changed = committed.changes(&measured);
    for change in &changed {
        println!("{change}");
    }
    Ok(u8::from(!changed.is_empty()))
}

/// Takes a line of the guest's: a figure, or a word on how it goes.
fn note(line: &[u8], figures: &mut Figures) -> Result<()> {
    let text = String::from_utf8_lossy(line);
    match serde_json::from_str::<Value>(&text) {
        Ok(Value::Object(told)) if told.contains_key("figure") => {
            let name = told["figure"].as_str().context("a figure's name")?;
            let value =
                told.get("value").and_then(Value::as_f64).with_context(|| format!("{name}: no value"))?;
            eprintln!("xtask bench: {name} {value:.1}");
            figures.insert(name.to_owned(), value);
        }
        _ => eprint!("{text}"),
    }
    Ok(())
}
