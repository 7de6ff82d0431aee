//! r2c-agent's rooms: a straight path from a kernel hook to an operator's eyes.

pub mod http;
pub mod incident;
pub mod kernel;
pub mod log;
pub mod metrics;
pub mod pod;
pub mod probe;
pub mod probes;
pub mod shutdown;
pub mod sink;
