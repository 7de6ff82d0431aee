//! What each part needs: how to see that it is there, and how to get it.

use std::fmt::{Display, Formatter};
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::{Part, arm64, find};
use crate::kernels::{self, Kernel};
use crate::run::Run as _;

/// The toolchain linked to Debian's compiler; agent's build script looks for it by this name.
pub(super) const TOOLCHAIN: &str = "r2c-bpf";

/// The version of cargo-deny that deny.toml is written for.
pub(super) const DENY: &str = "0.20.2";

/// The version of cargo-mutants whose report `cargo xtask mutate` reads.
pub(super) const MUTANTS: &str = "27.1.0";

/// One thing that can be missing.
pub(super) struct Item {
    /// As the user should read it.
    what: String,
    pub(super) present: bool,
    /// Debian's packages for it.
    pub(super) packages: &'static [&'static str],
    /// What is to be done after these are installed.
    pub(super) install: Install,
}

/// A way of installing, after the packages.
#[derive(Clone, Copy)]
pub(super) enum Install {
    /// Nothing more than the packages.
    Packages,
    /// Name Debian's compiler to rustup.
    Link,
    /// Compile bpf-linker.
    Linker,
    /// Compile cargo-deny.
    Deny,
    /// Compile cargo-mutants.
    Mutants,
    /// Unpack the kernel of this name into the cache.
    Kernel(&'static str),
    /// Unpack this package into the cache instead of installing it.
    Unpack(&'static str),
    /// Unpack Rust's standard library for arm64 into the cache.
    Std,
    /// Unpack the programs of an arm64 machine into the cache.
    Root,
}

impl Display for Item {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.what)?;
        match (self.packages, self.install) {
            ([], Install::Unpack(package)) => write!(f, " (Debian: {package}, unpacked in the cache)"),
            ([], _) => Ok(()),
            (packages, _) => write!(f, " (Debian: {})", packages.join(" ")),
        }
    }
}

/// Everything one part needs, present or not.
pub(super) fn of(part: Part) -> Result<Vec<Item>> {
    match part {
        Part::Build => Ok(build()),
        Part::Guests => guests(),
        Part::Demo => Ok(vec![program("ip", &["iproute2"]), program("nft", &["nftables"])]),
        Part::Oracles => Ok(oracles()),
        Part::Bench => Ok(bench()),
        Part::Lint => Ok(lint()),
        Part::Fuzz => Ok(vec![program("g++", &["g++"])]),
        Part::Mutate => Ok(vec![Item {
            what: format!("cargo-mutants {MUTANTS}"),
            present: find("cargo-mutants").is_some(),
            packages: &[],
            install: Install::Mutants,
        }]),
        Part::Reach => kernels::REACHED.iter().map(|name| kernel(name)).collect(),
        Part::Arm64 => arm64(),
    }
}

fn build() -> Vec<Item> {
    vec![
        Item {
            what: "a toolchain with the source of `core`, for the BPF target".to_owned(),
            present: bpf_toolchain().is_some(),
            packages: &["rustc-web", "cargo-web", "rust-web-src"],
            install: Install::Link,
        },
        Item {
            what: "bpf-linker 0.13.0, compiled against LLVM 22".to_owned(),
            present: find("bpf-linker").is_some(),
            packages: &["llvm-22-dev", "g++", "libzstd-dev", "zlib1g-dev"],
            install: Install::Linker,
        },
    ]
}

fn guests() -> Result<Vec<Item>> {
    let mut items = vec![
        program("qemu-system-x86_64", &["qemu-system-x86"]),
        program("depmod", &["kmod"]),
        program("xz", &["xz-utils"]),
        Item {
            what: "/bin/busybox, statically linked".to_owned(),
            // ldd fails for what needs no loader.
            present: Path::new("/bin/busybox").exists()
                && Command::new("ldd").arg("/bin/busybox").read().is_err(),
            packages: &["busybox-static"],
            install: Install::Packages,
        },
    ];
    for name in kernels::TESTED {
        items.push(kernel(name)?);
    }
    Ok(items)
}

/// One kernel for guests.
pub(super) fn kernel(name: &'static str) -> Result<Item> {
    Ok(Item {
        what: format!("kernel {name}, unpacked in the cache"),
        present: Kernel::cached(name)?.is_some(),
        packages: &[],
        install: Install::Kernel(name),
    })
}

fn arm64() -> Result<Vec<Item>> {
    let unpacked = |what: &str, present: bool, install| Item {
        what: format!("{what}, unpacked in the cache"),
        present,
        packages: &[],
        install,
    };
    Ok(vec![
        Item {
            what: format!("the toolchain {TOOLCHAIN}, Debian's compiler"),
            present: has_core_source(TOOLCHAIN),
            packages: &["rustc-web", "cargo-web", "rust-web-src"],
            install: Install::Link,
        },
        program("aarch64-linux-gnu-gcc", &["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"]),
        program("qemu-system-aarch64", &["qemu-system-arm"]),
        unpacked("Rust's standard library for arm64", arm64::std_library()?.exists(), Install::Std),
        unpacked("the programs of an arm64 machine", arm64::has_root()?, Install::Root),
    ])
}

fn oracles() -> Vec<Item> {
    let mut items = vec![
        program("apparmor_parser", &["apparmor"]),
        program("bpftool", &["bpftool"]),
        program("bpftrace", &["bpftrace"]),
        program("conntrack", &["conntrack"]),
        program("ethtool", &["ethtool"]),
        program("ip", &["iproute2"]),
        program("iptables", &["iptables"]),
        program("jq", &["jq"]),
        program("nc", &["netcat-openbsd"]),
        program("nft", &["nftables"]),
        program("ping", &["iputils-ping"]),
        program("socat", &["socat"]),
        program("tcpdump", &["tcpdump"]),
        program("wg", &["wireguard-tools"]),
        // Installed, it would start a server.
        Item { install: Install::Unpack("prometheus"), ..program("prometheus", &[]) },
    ];
    items.push(Item {
        what: "scapy for /usr/bin/python3".to_owned(),
        present: Path::new("/usr/lib/python3/dist-packages/scapy").exists(),
        packages: &["python3-scapy"],
        install: Install::Packages,
    });
    items
}

fn bench() -> Vec<Item> {
    vec![
        program("bpftool", &["bpftool"]),
        program("bpftrace", &["bpftrace"]),
        program("dropwatch", &["dropwatch"]),
        program("ip", &["iproute2"]),
        program("nft", &["nftables"]),
        // Installed, it would start a server.
        Item {
            install: Install::Unpack("prometheus-node-exporter"),
            ..program("prometheus-node-exporter", &[])
        },
    ]
}

fn lint() -> Vec<Item> {
    let mut items = vec![Item {
        what: format!("cargo-deny {DENY}"),
        present: find("cargo-deny").is_some(),
        packages: &[],
        install: Install::Deny,
    }];
    // Where there is no toolchain yet, ours is about to be linked: its clippy must come in the same go.
    if bpf_toolchain().is_none_or(|toolchain| toolchain == TOOLCHAIN) {
        items.push(Item {
            what: "clippy for the BPF toolchain".to_owned(),
            present: Path::new("/usr/bin/clippy-driver").exists(),
            packages: &["rust-web-clippy"],
            install: Install::Packages,
        });
    }
    items
}

fn program(name: &str, packages: &'static [&'static str]) -> Item {
    Item { what: name.to_owned(), present: find(name).is_some(), packages, install: Install::Packages }
}

/// The toolchain that agent's build script will take: ours, else a nightly, if it has the source of its `core`.
pub(super) fn bpf_toolchain() -> Option<String> {
    let listed = Command::new("rustup").args(["toolchain", "list", "--quiet"]).read().ok()?;
    let nightlies = listed.lines().filter(|name| name.starts_with("nightly"));
    let ours = listed.lines().filter(|name| *name == TOOLCHAIN);
    ours.chain(nightlies).find(|name| has_core_source(name)).map(str::to_owned)
}

fn has_core_source(toolchain: &str) -> bool {
    let sysroot = Command::new("rustup").args(["run", toolchain, "rustc", "--print", "sysroot"]).read();
    sysroot.is_ok_and(|root| Path::new(&root).join("lib/rustlib/src/rust/library/core/src/lib.rs").exists())
}
