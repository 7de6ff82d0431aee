//! Ladders that hooks have in common.

/// A hook on functions' entries and returns: by BTF, or by breakpoints; `or` with fewer functions, where a compiler has inlined
/// one of them.
macro_rules! on_functions {
    ($name:literal, $tells:literal, $provoked:literal,
     [$($kind:ident $function:literal: $by_type:literal, $by_breakpoint:literal;)+]
     $(or, $loses:literal:
     [$($fewer:ident $less:literal: $by_type_less:literal, $by_breakpoint_less:literal;)+])?) => {{
        use $crate::probe::ladder::{by_breakpoint, by_type};
        use $crate::probe::{Attach, Hook, Rung};
        Hook {
            name: $name,
            tells: $tells,
            module: None,
            provoked: $provoked,
            ladder: &[
                Rung {
                    name: "fentry",
                    loses: "",
                    attach: &[$(Attach { program: $by_type, target: by_type!($kind $function) }),+],
                },
                Rung {
                    name: "kprobe",
                    loses: "costs more per call",
                    attach: &[$(Attach { program: $by_breakpoint, target: by_breakpoint!($kind $function) }),+],
                },
                $(Rung {
                    name: "fewer_fentry",
                    loses: $loses,
                    attach: &[$(Attach { program: $by_type_less, target: by_type!($fewer $less) }),+],
                },
                Rung {
                    name: "fewer_kprobe",
                    loses: concat!($loses, "; costs more per call"),
                    attach: &[$(Attach { program: $by_breakpoint_less, target: by_breakpoint!($fewer $less) }),+],
                },)?
            ],
        }
    }};
}

macro_rules! by_type {
    (entry $function:literal) => {
        $crate::probe::Target::Fentry($function)
    };
    (end $function:literal) => {
        $crate::probe::Target::Fexit($function)
    };
    (clock $often:literal) => {
        $crate::probe::Target::Clock
    };
}

macro_rules! by_breakpoint {
    (entry $function:literal) => {
        $crate::probe::Target::Kprobe($function)
    };
    (end $function:literal) => {
        $crate::probe::Target::Kretprobe($function)
    };
    (clock $often:literal) => {
        $crate::probe::Target::Clock
    };
}

pub(crate) use {by_breakpoint, by_type, on_functions};
