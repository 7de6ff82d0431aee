//! Constants for the kernel side: offsets, enum values, addresses and settings, injected before load.

use aya::EbpfLoader;

/// The offset that tells the kernel side "this kernel has no such field".
pub const ABSENT: u32 = u32::MAX;

/// Named constants of one object. A name the object does not use is no error: the linker drops unused ones.
#[derive(Debug, Default)]
pub struct Globals {
    words: Vec<(&'static str, u32)>,
    addresses: Vec<(&'static str, u64)>,
}

impl Globals {
    /// Sets a 32-bit constant.
    pub fn set(&mut self, name: &'static str, value: u32) {
        self.words.push((name, value));
    }

    /// Sets an offset; `None` becomes [`ABSENT`].
    pub fn set_offset(&mut self, name: &'static str, offset: Option<u32>) {
        self.set(name, offset.unwrap_or(ABSENT));
    }

    /// Sets a kernel address; `None` becomes 0.
    pub fn set_address(&mut self, name: &'static str, address: Option<u64>) {
        self.addresses.push((name, address.unwrap_or(0)));
    }

    /// Hands every constant to the loader.
    pub fn inject<'a>(&'a self, loader: &mut EbpfLoader<'a>) {
        for (name, value) in &self.words {
            loader.override_global(name, value, false);
        }
        for (name, value) in &self.addresses {
            loader.override_global(name, value, false);
        }
    }
}
