//! r2c-agent's tests on a real kernel. All of them are in the one executable of `kernel.rs`.
