//! What decoding and attaching must know of the running kernel: types, symbols, clock, what it allows.

pub mod btf;
pub mod kallsyms;
