//! Which build this is.

use std::sync::LazyLock;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;

include!(concat!(env!("OUT_DIR"), "/objects.rs"));

/// Version and commit, as `--version` and `r2c_build_info` give them.
pub const SHORT: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("R2C_GIT_HASH"), ")");

/// The release.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit it was built from, or `unknown`.
pub const REVISION: &str = env!("R2C_GIT_HASH");

/// [`SHORT`], the architecture, and the hash of each BPF object: what a bug report needs.
pub static LONG: LazyLock<String> = LazyLock::new(|| {
    let head = format!("{SHORT} {}", std::env::consts::ARCH);
    let objects = OBJECTS.iter().map(|(name, sha256)| format!("bpf object {name}: sha256 {sha256}"));
    std::iter::once(head).chain(objects).collect::<Vec<_>>().join("\n")
});

/// `r2c_build_info`.
#[derive(Debug)]
pub struct Build;

impl Collector for Build {
    fn encode(&self, mut encoder: DescriptorEncoder) -> std::fmt::Result {
        let labels = [("version", VERSION), ("revision", REVISION), ("arch", std::env::consts::ARCH)];
        encoder
            .encode_descriptor(
                "build",
                "Version, commit and architecture of the agent",
                None,
                MetricType::Info,
            )?
            .encode_info(&labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Format, Metrics};

    #[test]
    fn a_scrape_says_which_build_it_is_of() {
        let mut metrics = Metrics::default();
        metrics.registry().register_collector(Box::new(Build));
        let text = metrics.encode(Format::Classic).unwrap();
        let wanted = format!("version=\"{VERSION}\",revision=\"{REVISION}\",arch=");
        assert!(text.contains("r2c_build_info{") && text.contains(&wanted), "{text}");
    }
}
