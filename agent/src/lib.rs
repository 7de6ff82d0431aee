//! r2c-agent's rooms: a straight path from a kernel hook to an operator's eyes.

pub mod audit;
pub mod cli;
pub mod digits;
pub mod doctor;
pub mod enrich;
pub mod failure;
pub mod http;
pub mod incident;
pub mod kernel;
pub mod links;
pub mod log;
pub mod metrics;
pub mod metrics_once;
pub mod node;
pub mod path;
pub mod pod;
pub mod probe;
pub mod probes;
pub mod rights;
pub mod run;
pub mod selftest;
pub mod shutdown;
pub mod sink;
pub mod trace;
pub mod version;
