//! Where the host's files are, and who the agent is.

use std::path::PathBuf;

use clap::Args;

use super::values::name;

/// Where the host's files are, and who the agent is. A DaemonSet sets these by environment.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Host")]
pub struct Host {
    /// Name of this node in logs [default: the host's name]
    #[arg(long, global = true, env = "R2C_NODE_NAME", value_name = "NAME", value_parser = name)]
    pub node_name: Option<String>,
    /// Name of the agent's own pod in logs
    #[arg(long, global = true, env = "R2C_POD_NAME", hide = true, value_parser = name)]
    pub pod_name: Option<String>,
    /// Namespace of the agent's own pod in logs
    #[arg(long, global = true, env = "R2C_POD_NAMESPACE", hide = true, value_parser = name)]
    pub pod_namespace: Option<String>,
    /// The host's process directory: in a container without hostPID, a mount of the host's
    #[arg(long, global = true, env = "R2C_HOST_PROC", default_value = "/proc", value_name = "DIR")]
    pub host_proc: PathBuf,
    /// The system directory that describes the kernel: tests have broken ones
    #[arg(
        long,
        global = true,
        env = "R2C_HOST_SYS",
        hide = true,
        default_value = "/sys",
        value_name = "DIR"
    )]
    pub host_sys: PathBuf,
    /// The host's cgroup root
    #[arg(
        long,
        global = true,
        env = "R2C_HOST_CGROUP",
        default_value = "/sys/fs/cgroup",
        value_name = "DIR"
    )]
    pub host_cgroup: PathBuf,
    /// kubelet's pod log directory: it names pods without an API server
    #[arg(long, global = true, env = "R2C_POD_LOGS", default_value = "/var/log/pods", value_name = "DIR")]
    pub pod_logs: PathBuf,
    /// Which of these were asked for.
    #[arg(skip)]
    pub named: Named,
    /// A line for each default that is not there.
    #[arg(skip)]
    pub missing: Vec<String>,
}

impl Host {
    /// Warns of each default path that is not there. A command that reads them does, once it knows that it is not refused for a
    /// typing error: of that one line is told, which names it.
    pub fn warn_of_missing(&self) {
        for line in &self.missing {
            tracing::warn!("{line}");
        }
    }
}

/// The flag or variable that a path of the host's came by; `None` where it is the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// Of [`Host::host_proc`].
    pub proc: Option<String>,
    /// Of [`Host::host_cgroup`].
    pub cgroup: Option<String>,
    /// Of [`Host::pod_logs`].
    pub pod_logs: Option<String>,
}
