//! How much memory an act takes at its height: what is bounded must be seen to be.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The system's allocator, with an account of what is in use. Targets that bound memory make it theirs.
#[derive(Debug, Default)]
pub struct Counted {
    used: AtomicUsize,
    height: AtomicUsize,
}

impl Counted {
    /// Nothing in use.
    #[must_use]
    pub const fn new() -> Self {
        Self { used: AtomicUsize::new(0), height: AtomicUsize::new(0) }
    }

    /// What `act` gives, and the bytes that it had in use at its height beyond those in use before.
    pub fn height_of<T>(&self, act: impl FnOnce() -> T) -> (T, usize) {
        let before = self.used.load(Relaxed);
        self.height.store(before, Relaxed);
        let given = act();
        (given, self.height.load(Relaxed).saturating_sub(before))
    }

    fn took(&self, bytes: usize) {
        let used = self.used.fetch_add(bytes, Relaxed) + bytes;
        self.height.fetch_max(used, Relaxed);
    }

    fn gave(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Relaxed);
    }
}

// SAFETY: every call is passed on to the system's allocator as it came; counting allocates nothing.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.took(layout.size());
        // SAFETY: the caller's promises are the system allocator's terms.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        self.gave(layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        self.took(size);
        self.gave(layout.size());
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}
