//! The guest's first file system: a cpio archive in memory, with just enough to reach the host's files.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::kernels::Kernel;
use crate::run::Run as _;

/// Modules that must be there before the host's files are: they carry them.
const CARRIERS: [&str; 5] = ["virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay"];

/// An archive in the `newc` format of the kernel's `Documentation/driver-api/early-userspace/buffer-format.rst`.
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// A new archive with what every guest of this kernel needs: busybox, the carrying modules, the init script.
    pub(super) fn new(kernel: &Kernel, files: &Path) -> Result<Self> {
        let mut archive = Self { bytes: Vec::new(), entries: 0 };
        for directory in ["bin", "dev", "modules", "proc", "r2c", "r2c/bin", "sys"] {
            archive.entry(directory, 0o040_755, &[])?;
        }
        archive.copy("bin/busybox", &files.join("bin/busybox"))?;
        archive.file("init", include_bytes!("init.sh"))?;
        archive.file("r2c/guest", include_bytes!("guest.sh"))?;
        archive.modules(kernel)?;
        Ok(archive)
    }

    /// Adds an executable file.
    pub(super) fn file(&mut self, name: &str, content: &[u8]) -> Result<()> {
        self.entry(name, 0o100_755, content)
    }

    /// Adds a copy of a file of the host, so that a rebuild cannot change it under the guest.
    pub(super) fn copy(&mut self, name: &str, from: &Path) -> Result<()> {
        let content = std::fs::read(from).with_context(|| from.display().to_string())?;
        self.file(name, &content)
    }

    /// Ends the archive; the file has no name, so nothing is left behind however the guest ends.
    pub(super) fn finish(mut self) -> Result<OwnedFd> {
        self.entry("TRAILER!!!", 0, &[])?;
        // Not close-on-exec: QEMU opens it again as /proc/self/fd/N.
        let file = memfd_create(c"initramfs", MFdFlags::empty())?;
        File::from(file.try_clone()?).write_all(&self.bytes)?;
        Ok(file)
    }

    fn modules(&mut self, kernel: &Kernel) -> Result<()> {
        let mut order = Vec::<String>::new();
        for carrier in CARRIERS {
            let listed = Command::new("/sbin/modprobe")
                .arg("--dirname")
                .arg(&kernel.root)
                .args(["--set-version", &kernel.release, "--show-depends", carrier])
                .read()?;
            // Built-in ones are listed as "builtin NAME" and need nothing.
            for path in listed.lines().filter_map(|line| line.strip_prefix("insmod ")) {
                let path = Path::new(path.trim());
                let name =
                    path.file_name().context("a module without a name")?.to_string_lossy().into_owned();
                if !order.contains(&name) {
                    self.copy(&format!("modules/{name}"), path)?;
                    order.push(name);
                }
            }
        }
        self.file("modules/order", (order.join("\n") + "\n").as_bytes())
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.entries += 1;
        let size = u32::try_from(content.len()).with_context(|| format!("{name} is too large"))?;
        let name_size = u32::try_from(name.len() + 1)?;
        // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            write!(self.bytes, "{field:08x}")?;
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}
