//! `cargo xtask <verb>`: everything this repository does besides `cargo build`, one file a verb.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod apt;
mod bench;
mod build;
mod demo;
mod fuzz;
mod kernels;
mod lint;
mod mutate;
mod page;
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
    Bench(bench::Args),
    Build(build::Args),
    Demo(demo::Args),
    Fuzz(fuzz::Args),
    Lint(lint::Args),
    Mutate(mutate::Args),
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
    // In a guest and in the demo's own world nothing is built, and each program costs.
    let inside = match &cli.verb {
        Verb::Bench(args) => args.is_inside(),
        Verb::Demo(args) => args.is_inside(),
        _ => false,
    };
    if !inside {
        tree::check_rustc()?;
    }
    match cli.verb {
        Verb::Bench(args) => bench::main(&args),
        Verb::Build(args) => build::main(&args),
        Verb::Demo(args) => demo::main(&args),
        Verb::Fuzz(args) => fuzz::main(&args),
        Verb::Lint(args) => lint::main(&args),
        Verb::Mutate(args) => mutate::main(&args),
        Verb::Setup(args) => setup::main(&args),
        Verb::Test(args) => Ok(test::main(&args)),
        Verb::Vm(args) => vm::main(&args),
    }
}
