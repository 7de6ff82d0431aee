//! Programs that come in kinds, for the rungs of one hook.

/// Two programs for what is only noted at a function's entry: by BTF, and by registers. No structure is looked into.
#[macro_export]
macro_rules! on_begin {
    ($fentry:ident, $kprobe:ident: $event:path => ($($arg:literal),*)) => {
        #[::aya_ebpf::macros::fentry]
        fn $fentry(ctx: ::aya_ebpf::programs::FEntryContext) -> i32 {
            let _ = $event($(ctx.arg($arg)),*);
            0
        }

        #[::aya_ebpf::macros::kprobe]
        fn $kprobe(ctx: ::aya_ebpf::programs::ProbeContext) -> u32 {
            let _ = (|| $event($(ctx.arg($arg)?),*))();
            0
        }
    };
}
