//! r2c-agent on a real kernel: each cause is made for real, and what the agent says of it is compared. Needs root.
//!
//! `R2C_AGENT` is the binary to test (default: this workspace's debug build), `R2C_GUEST` says where it runs.
//! `cargo xtask build` makes this one executable, and a guest runs it by itself.

#[cfg(test)]
mod audit;
#[cfg(test)]
mod causes;
#[cfg(test)]
mod confined;
#[cfg(test)]
mod degraded;
#[cfg(test)]
mod drops;
#[cfg(test)]
mod ends;
#[cfg(test)]
mod exact;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod http;
#[cfg(test)]
mod lines;
#[cfg(test)]
mod lockdown;
#[cfg(test)]
mod mtu;
#[cfg(test)]
mod path;
#[cfg(test)]
mod pods;
#[cfg(test)]
mod rights;
#[cfg(test)]
mod scrapes;
#[cfg(test)]
mod stalls;
#[cfg(test)]
mod storm;
#[cfg(test)]
mod sums;
#[cfg(test)]
mod typos;
#[cfg(test)]
mod usage;
