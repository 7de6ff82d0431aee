//! Whose kernel is under test, and what it must have.

use std::fs;
use std::io::{Write as _, stderr};

use super::tool;

/// Whether the machine is ours alone.
pub(crate) fn is_guest() -> bool {
    std::env::var("R2C_GUEST").is_ok_and(|guest| guest != "here")
}

/// Loads a module; whether its symbols are there then, or were all the time. Every guest's kernel has all that the tests need: one
/// that is missing there fails the test. Of another kernel it is said that something is not tested.
pub(crate) fn has_module(name: &str) -> bool {
    let loaded = tool("modprobe").args(["-q", name]).status().is_ok_and(|status| status.success());
    if loaded || fs::exists(format!("/sys/module/{name}")).unwrap() {
        return true;
    }
    assert!(!is_guest(), "a guest's kernel has module {name}");
    // Not by a macro: what those print of a test that passes is not shown.
    let _ = stderr().write_all(format!("not tested: this kernel has no module {name}\n").as_bytes());
    false
}
