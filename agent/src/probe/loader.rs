//! Loads objects: what aya wants to know of the running kernel is told to it once, not once an object.

use std::cell::RefCell;
use std::collections::BTreeSet;

use aya::{Btf, Ebpf, EbpfError, EbpfLoader, Endianness};

use super::globals::Globals;
use super::start::Settings;
use super::{Hook, Target};
use crate::kernel::Kernel;

/// The loader of every object, and the types that programs attach by.
pub struct Loader {
    /// Kept, since each new one reads and parses all of the kernel's types, whether it has a use for them or not.
    objects: RefCell<EbpfLoader<'static>>,
    types: Option<Btf>,
}

impl Loader {
    /// A loader for programs that attach to `hooks`, all objects together.
    #[must_use]
    pub fn new<'a>(kernel: &Kernel, hooks: impl IntoIterator<Item = &'a Hook>) -> Self {
        let rungs = hooks.into_iter().flat_map(|hook| hook.ladder);
        // Entry and return of one function are one type.
        let names: BTreeSet<String> =
            rungs.flat_map(|rung| rung.attach).filter_map(|attach| type_of(attach.target)).collect();
        // aya would take a copy of each type, and compare names from the first on at every load.
        let types = kernel.btf().map(|btf| btf.outline(names.iter().map(String::as_str)));
        let types = types.and_then(|types| {
            Btf::parse(&types, Endianness::default()).map_err(|error| tracing::warn!("BTF: {error}")).ok()
        });
        let mut objects = EbpfLoader::new();
        // Objects written in Rust have nothing to relocate by types.
        objects.btf(None);
        Self { objects: RefCell::new(objects), types }
    }

    /// The kernel's types, as far as programs attach by them; `None` if it has none.
    #[must_use]
    pub fn types(&self) -> Option<&Btf> {
        self.types.as_ref()
    }

    /// Gives the types' memory back (some 5 MB). What attaches by them is refused from then on.
    pub fn drop_types(&mut self) {
        self.types = None;
    }

    /// Loads an object with these constants: its maps are made, its programs are ready to be tried.
    ///
    /// # Errors
    /// The kernel refuses a map, or the object is broken.
    pub fn load(&self, object: &[u8], globals: Globals, settings: &Settings) -> Result<Ebpf, EbpfError> {
        static SILENT: u8 = 0;
        static ALL: u8 = u8::MAX;
        let mut loader = self.objects.borrow_mut();
        globals.inject(&mut loader);
        // Frozen at zero the verifier drops every log statement: silence costs nothing in the hot path.
        loader.override_global(aya_log::LEVEL, if settings.bpf_log { &ALL } else { &SILENT }, false);
        loader.map_max_entries("RECORDS", settings.ring_bytes);
        if !settings.bpf_log {
            loader.map_max_entries("AYA_LOGS", 4096);
        }
        loader.load(object)
    }
}

/// The name of the type that a program attaches by.
fn type_of(target: Target) -> Option<String> {
    match target {
        Target::Fentry(function) | Target::Fexit(function) => Some(function.to_owned()),
        Target::BtfTracepoint(name) => Some(format!("btf_trace_{name}")),
        Target::Kprobe(_)
        | Target::Kretprobe(_)
        | Target::RawTracepoint(_)
        | Target::Clock
        | Target::Tracepoint { .. } => None,
    }
}
