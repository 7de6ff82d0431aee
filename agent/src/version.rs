//! Which build this is.

include!(concat!(env!("OUT_DIR"), "/objects.rs"));

/// Version and commit, as `--version` and `r2c_build_info` give them.
pub const SHORT: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("R2C_GIT_HASH"), ")");

/// The release.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit it was built from, or `unknown`.
pub const REVISION: &str = env!("R2C_GIT_HASH");

/// [`SHORT`], the architecture, and the hash of each BPF object: what a bug report needs.
#[must_use]
pub fn long() -> String {
    let mut text = format!("{SHORT} {}", std::env::consts::ARCH);
    for (name, sha256) in OBJECTS {
        let short = sha256.get(..16).unwrap_or(sha256);
        text.push_str(&format!("\nbpf object {name}: sha256 {short}"));
    }
    text
}
