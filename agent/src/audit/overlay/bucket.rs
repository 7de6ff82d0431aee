//! Token buckets that never hold a full frame of their device: what they drop depends on its size alone.

use super::finding::{Finding, Name};
use super::ports::placed;
use super::{At, Nets};
use crate::links::{Bucket, Link};
use crate::sink::Confidence;

/// Devices that are up, and whose token bucket is smaller than a frame of their MTU.
pub(super) fn small(nets: &Nets<'_>) -> Vec<Finding> {
    let with = nets.all().filter_map(|(at, link)| Some((at, link, link.bucket.filter(|_| link.up)?)));
    let small = with.filter(|(_, link, bucket)| bucket.holds() < frame(link));
    small.map(|(at, link, bucket)| finding(nets, at, link, bucket)).collect()
}

/// Bytes of the longest frame that a device's queues are given.
fn frame(link: &Link) -> u32 {
    link.mtu.saturating_add(link.header)
}

fn finding(nets: &Nets<'_>, at: At, link: &Link, bucket: Bucket) -> Finding {
    let owner = nets.owner(at);
    let theirs = nets.peer(at, link).and_then(|(peer, _)| nets.owner(peer));
    let (whole, holds) = (frame(link), bucket.holds());
    let fits = holds.saturating_sub(link.header);
    let named = placed(link, owner);
    // Which packets come to it the other queue decides.
    let (which, confidence) = if bucket.is_root {
        ("its token bucket", Confidence::High)
    } else {
        ("a token bucket below another queue", Confidence::Medium)
    };
    Finding {
        name: Name::BurstTooSmall,
        confidence,
        owner: owner.cloned(),
        interface: link.name.clone(),
        kind: link.kind.clone(),
        interface_mtu: link.mtu,
        promises: link.mtu,
        fits,
        what: format!(
            "{named} has MTU {}, frames of {whole} bytes, but {which} holds {holds} at most ({}) and drops what is longer \
             without telling anybody: only {fits} fit",
            link.mtu,
            bucket.lacks(whole)
        ),
        fix: bucket.cure(&named, whole),
        fragments: None,
        pods: owner.or(theirs).cloned().into_iter().collect(),
    }
}
