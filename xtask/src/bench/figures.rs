//! The figures: what each is, what it must be, whose it is compared with, and how far it may stray.

use std::fmt::{Display, Formatter};

/// One row of the table.
#[derive(Clone, Copy)]
pub(super) struct Figure {
    /// As the guest tells it.
    pub(super) name: &'static str,
    /// As a person reads it.
    pub(super) what: &'static str,
    pub(super) unit: Unit,
    pub(super) target: Target,
    /// The figure of a peer's that it stands beside, and whose.
    pub(super) beside: Option<(&'static str, &'static str)>,
    pub(super) tolerance: Tolerance,
}

/// How a figure is written.
#[derive(Clone, Copy)]
pub(super) enum Unit {
    /// A number of instructions, or of anything else.
    Count,
    /// Instructions, in thousands of millions.
    Giga,
    /// Nanoseconds of processor time, as milliseconds.
    Milliseconds,
    /// Bytes, as millions of them.
    Megabytes,
    /// KiB, as MiB.
    Mebibytes,
    /// KiB.
    Kibibytes,
    /// Nanoseconds a second, as a share of a core.
    Share,
}

/// What a figure must be.
#[derive(Clone, Copy)]
pub(super) enum Target {
    /// It is there for others to be compared with.
    None,
    AtMost(f64),
    AtLeast(f64),
    /// At most this many times another figure, and whose that is.
    TimesAtMost(f64, &'static str, &'static str),
    /// At least this many times another figure, and whose that is.
    TimesAtLeast(f64, &'static str, &'static str),
    /// This share of another figure more or less, and whose that is.
    Near(f64, &'static str, &'static str),
}

/// How far a figure may be from the committed one.
#[derive(Clone, Copy)]
pub(super) struct Tolerance {
    ratio: f64,
    /// In the figure's own unit: a change this small is none, whatever the ratio.
    slack: f64,
}

/// Instructions of a path that is the same each time repeat to two; 1 % of a few is less than that.
const EXACT: Tolerance = Tolerance { ratio: 0.01, slack: 3. };

/// What the order of threads or the allocator's moods have a part in.
const LOOSE: Tolerance = Tolerance { ratio: 0.05, slack: 0. };

/// A growth in KiB that should be none, or wake-ups that are few.
const FEW: Tolerance = Tolerance { ratio: 0., slack: 200. };

impl Tolerance {
    pub(super) fn allows(self, was: f64, is: f64) -> bool {
        (is - was).abs() <= (was.abs() * self.ratio).max(self.slack)
    }
}

impl Display for Tolerance {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        if self.ratio > 0. { write!(f, "{} %", self.ratio * 100.) } else { write!(f, "{}", self.slack) }
    }
}

const fn row(
    name: &'static str,
    what: &'static str,
    unit: Unit,
    target: Target,
    tolerance: Tolerance,
) -> Figure {
    Figure { name, what, unit, target, beside: None, tolerance }
}

const fn beside(figure: Figure, name: &'static str, whose: &'static str) -> Figure {
    Figure { beside: Some((name, whose)), ..figure }
}

/// All rows, in the table's order.
pub(super) const ALL: &[Figure] = {
    use Target::{AtLeast, AtMost, Near, None, TimesAtLeast, TimesAtMost};
    use Unit::{Count, Giga, Kibibytes, Mebibytes, Megabytes, Milliseconds, Share};
    &[
        beside(
            row(
                "rule.counters",
                "instructions added to a drop by a rule, counted only",
                Count,
                AtMost(350.),
                EXACT,
            ),
            "rule.dropwatch",
            "dropwatch",
        ),
        beside(
            row("rule.events", "the same in a storm, 8 a second described", Count, AtMost(350.), EXACT),
            "rule.bpftrace",
            "bpftrace",
        ),
        row(
            "rule.bpftrace",
            "bpftrace's one-liner for the same",
            Count,
            TimesAtLeast(3.5, "rule.events", "ours"),
            LOOSE,
        ),
        beside(
            row(
                "closed_port.counters",
                "added to a drop at a closed port, counted only",
                Count,
                AtMost(350.),
                EXACT,
            ),
            "closed_port.dropwatch",
            "dropwatch",
        ),
        beside(
            row(
                "closed_port.events",
                "the same in a storm, 8 a second described",
                Count,
                AtMost(350.),
                EXACT,
            ),
            "closed_port.bpftrace",
            "bpftrace",
        ),
        row(
            "rule.mtu_counters",
            "added by the probe mtu to a drop of this node's own TCP or UDP",
            Count,
            AtMost(150.),
            EXACT,
        ),
        row("other_rule.mtu_counters", "to a drop of another machine's", Count, AtMost(350.), EXACT),
        row("sent_again.mtu_counters", "to a segment that is sent again", Count, AtMost(350.), EXACT),
        row("stalls.last", "its program alone, at a sixth timeout", Count, None, EXACT),
        row(
            "closed.quiet",
            "the program at the end of a TCP socket, where none is stuck",
            Count,
            AtMost(100.),
            EXACT,
        ),
        row("made.mtu_counters", "to a frag-needed that is made, counted only", Count, AtMost(350.), EXACT),
        row("received.mtu_counters", "to one that is received", Count, AtMost(350.), EXACT),
        row("received.mtu_events", "the same in a storm, 8 a second described", Count, AtMost(350.), EXACT),
        row("lost.mtu_counters", "to one that a rule drops", Count, AtMost(350.), EXACT),
        row("delivered.mtu_events", "to a packet that is not dropped", Count, AtMost(0.), EXACT),
        row("forwarded.mtu_events", "to a packet that is forwarded", Count, AtMost(0.), EXACT),
        row(
            "limit.events.path",
            "one drop in 100 described, on the packet's path",
            Count,
            TimesAtMost(1.05, "limit.counters", "counted only"),
            LOOSE,
        ),
        row(
            "limit.events",
            "the same and what the agent's process executes meanwhile to write the lines",
            Count,
            None,
            LOOSE,
        ),
        row("delivered.events", "added to a packet that is not dropped", Count, AtMost(0.), EXACT),
        beside(
            row("start.agent", "instructions from exec to all attached, 10^9", Giga, AtMost(0.5e9), LOOSE),
            "start.bpftrace",
            "bpftrace",
        ),
        row("ready.agent", "the same to ready, with the kernel's symbols read, 10^9", Giga, None, LOOSE),
        beside(
            row("resident.agent", "resident memory at rest, MiB", Mebibytes, AtMost(16. * 1024.), LOOSE),
            "resident.node_exporter",
            "node_exporter",
        ),
        beside(
            row("resident.pods", "the same with 110 pods, MiB", Mebibytes, AtMost(18. * 1024.), LOOSE),
            "resident.bpftrace",
            "bpftrace",
        ),
        row("resident.agent.growth", "its growth over 1,000 scrapes, KiB", Kibibytes, AtMost(0.), FEW),
        beside(
            row(
                "kernel.formula",
                "kernel memory at 8 possible CPUs by the formula, MB",
                Megabytes,
                Near(0.1, "kernel.bpftool", "bpftool's"),
                EXACT,
            ),
            "kernel.bpftool",
            "bpftool",
        ),
        row("kernel.large", "the same at 64, MB", Megabytes, AtMost(16e6), EXACT),
        beside(
            row("scrape.agent", "a scrape of 10,000 series, ms of CPU", Milliseconds, AtMost(10e6), LOOSE),
            "scrape.node_exporter",
            "node_exporter",
        ),
        row("scrape.agent.series", "series of the full map it is measured on", Count, None, LOOSE),
        row("events.json", "events to JSON lines, a second and core", Count, AtLeast(20_000.), LOOSE),
        row("idle.agent", "of a core at rest", Share, AtMost(1e6), FEW),
        row("binary.size", "binary, MB", Megabytes, AtMost(12e6), EXACT),
        row(
            "verifier.drops.tp_btf",
            "instructions the verifier walks, drops by tp_btf",
            Count,
            AtMost(20_000.),
            EXACT,
        ),
        row("verifier.drops.raw_tp", "the same, raw_tp", Count, AtMost(20_000.), EXACT),
        row("verifier.drops.tracepoint", "the same, tracepoint", Count, AtMost(20_000.), EXACT),
        row("verifier.mtu.tp_btf", "the longest of mtu's programs by tp_btf", Count, AtMost(20_000.), EXACT),
        row("verifier.mtu.fentry", "the same, fentry", Count, AtMost(20_000.), EXACT),
        row("verifier.mtu.kprobe", "the same, kprobe", Count, AtMost(20_000.), EXACT),
    ]
};
