//! `cargo xtask <verb>`: everything this repository does besides `cargo build`, one file a verb.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod apt;
mod build;
mod demo;
mod kernels;
mod lint;
mod run;
mod setup;
mod test;
mod tree;
mod vm;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "r2c-agent's development commands")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Build(build::Args),
    Demo(demo::Args),
    Lint(lint::Args),
    Setup(setup::Args),
    Test(test::Args),
    Vm(vm::Args),
}

fn main() -> ExitCode {
    match dispatch(Cli::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs one verb; what it returns is the exit code of the process.
fn dispatch(cli: Cli) -> Result<u8> {
    // Inside the demo's own world nothing is built, and in a guest each program costs.
    if !matches!(&cli.verb, Verb::Demo(args) if args.is_inside()) {
        tree::check_rustc()?;
    }
    match cli.verb {
        Verb::Build(args) => build::main(&args),
        Verb::Demo(args) => demo::main(&args),
        Verb::Lint(args) => lint::main(&args),
        Verb::Setup(args) => setup::main(&args),
        Verb::Test(args) => Ok(test::main(&args)),
        Verb::Vm(args) => vm::main(&args),
    }
}
