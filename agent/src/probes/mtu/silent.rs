//! Packets that a device frees for their size without a word: which device takes less, and what is to be set.

use super::ends::Ends;
use super::event::{TooBig, kind_of, name};
use super::finding::Finding;
use crate::links::shell_word;

/// What it comes to.
pub(super) fn silent(event: &TooBig, ends: &Ends) -> (Finding, String, Option<String>) {
    let (record, who) = (&event.record, &ends.who);
    let device = name(&record.device).unwrap_or("-".into());
    let (what, fix) = match (name(&record.route), record.mtu) {
        (Some(peer), mtu) => (
            format!(
                "{device} (MTU {}) hands packets to {peer}, which takes {mtu} bytes and frees what is longer without telling anybody: {who} waits in vain",
                record.device.mtu
            ),
            Some(format!(
                "give both ends of the veth one MTU: {mtu}, or {} if all behind it takes that",
                record.device.mtu
            )),
        ),
        (None, 0) => (
            format!(
                "packets are freed on {device} because the device they go to takes less, and nobody is told: {who} waits in vain"
            ),
            Some(format!(
                "give both one MTU: {device} (MTU {}) and the device that it hands packets to, {}",
                record.device.mtu,
                beside(event, &device, ends)
            )),
        ),
        (None, mtu) if event.function.as_deref().is_some_and(|function| !is_of_bridges(function)) => (
            format!(
                "{device} takes {mtu} bytes, gets longer ones to send, and frees them without telling anybody: {who} waits in vain"
            ),
            Some(format!(
                "give what sends by {device} (an ipvlan or another device above it, a bridge, a program that redirects packets to it) an MTU of {mtu}, or raise {device}'s and its other end's: `ip -d link show` in each network namespace tells what is above it, after `@`"
            )),
        ),
        (None, mtu) => (
            format!(
                "bridge port {device} takes {mtu} bytes and frees what is longer without telling anybody: {who} waits in vain"
            ),
            Some(format!(
                "give all ports of the bridge, and what sends through it, one MTU: {mtu}, or raise {device}'s"
            )),
        ),
    };
    (Finding::SilentDrop, what, fix)
}

/// Which device it is that takes less than this one.
fn beside(event: &TooBig, device: &str, ends: &Ends) -> String {
    let there = ends.receiver.as_ref().map_or_else(|| "each network namespace".to_owned(), Clone::clone);
    match kind_of(&event.record.device).as_deref() {
        Some(kind @ ("ipvlan" | "macvlan")) => {
            format!(
                "which is another {kind} of the same parent (`ip -d link show type {kind}` in {there} tells its MTU)"
            )
        }
        _ => format!("which `ip -d link show {}` tells", shell_word(device)),
    }
}

/// Whether a bridge frees there what its port does not take.
fn is_of_bridges(function: &str) -> bool {
    ["br_", "__br_", "nf_br_"].iter().any(|bridges| function.starts_with(bridges))
}
