//! `cargo xtask demo`: breaks a small node in five ways and shows the agent naming each cause while it happens.

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::vm::Guest;
use crate::{build, setup};

mod agents;
mod here;
mod lines;
mod node;
mod overlay;
mod resident;
mod scene;
mod story;

/// From the scene's begin to its forced end; on a busy machine it takes 15 s.
const LIMIT: Duration = Duration::from_mins(4);

/// Break a small node in five ways and watch the agent name each cause, in a guest or on this machine's kernel
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    /// The guest kernel's series: 6.1, 6.12
    #[arg(short, long, default_value = "6.12", conflicts_with = "here")]
    kernel: String,
    /// On this machine's own kernel, in namespaces that leave nothing behind; needs root
    #[arg(long)]
    here: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

/// What this program is once it runs inside the demo's own world.
#[derive(clap::Subcommand)]
enum Role {
    /// The node: builds itself, starts the agent, breaks things
    #[command(hide = true)]
    Scene(scene::Args),
    /// The one process of a pod
    #[command(hide = true)]
    Resident,
}

impl Args {
    /// Whether this program runs inside the demo's own world, where nothing is built.
    pub(crate) fn is_inside(&self) -> bool {
        self.role.is_some()
    }
}

pub(crate) fn main(args: &Args) -> Result<u8> {
    match &args.role {
        Some(Role::Scene(args)) => scene::play(args),
        Some(Role::Resident) => resident::live(),
        None if args.here => here::main(),
        None => in_guest(&args.kernel),
    }
}

/// The guest is the node: its own network namespace, cgroups and `/var/log/pods`, all gone with it.
fn in_guest(kernel: &str) -> Result<u8> {
    setup::need(&[setup::Part::Guests, setup::Part::Demo])?;
    let mut guest = Guest::new(kernel)?;
    guest.timeout = LIMIT;
    guest.programs.push(("r2c-agent", build::agent(false)?));
    guest.programs.push(("xtask", std::env::current_exe().context("this program's own file")?));
    let command = ["/r2c/bin/xtask", "demo", "scene", "--cgroup", "/sys/fs/cgroup"];
    let mut stdout = std::io::stdout().lock();
    guest.run(&command.map(str::to_owned), &mut |line| {
        Ok(stdout.write_all(line).and_then(|()| stdout.flush())?)
    })
}
