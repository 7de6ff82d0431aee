//! What somebody says the kernel said of devices and routes is read and judged, in bounded time, and no sum is made up.
#![no_main]

use std::sync::Arc;

use agent::audit::overlay::judge;
use agent::links::{Namespace, NetnsId, device, exception, routes};
use agent::pod::Pod;
use libfuzzer_sys::fuzz_target;

/// The host's and some pods'.
const NAMESPACES: usize = 4;

fuzz_target!(|data: &[u8]| {
    let mut read: Vec<Namespace> = (0..NAMESPACES).map(namespace).collect();
    let mut rest = data;
    // Which namespace and which message, its length, itself.
    while let Some((&[what, high, low], more)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes([high, low]));
        let (payload, after) = more.split_at(length.min(more.len()));
        rest = after;
        let into = &mut read[usize::from(what >> 6)];
        match what % 4 {
            0 | 1 => into.links.extend(device(payload)),
            2 => into.routes.get_or_insert_default().extend(routes(payload)),
            _ => into.exceptions.get_or_insert_default().extend(exception(payload)),
        }
    }
    let judgement = judge(&read);
    for (at, sum) in &judgement.sums {
        let known = |at: &agent::audit::overlay::At| {
            read[at.namespace].links.iter().any(|link| link.index == at.index)
        };
        assert!(known(at) && known(&sum.underlay), "a sum of what was not read: {at:?} {sum:?}");
        assert_eq!(sum.takes.checked_sub(sum.overhead), Some(sum.fits), "{sum:?}");
    }
    for finding in &judgement.findings {
        assert!(finding.fits < finding.promises, "it fits: {finding:?}");
        let text = finding.sentence();
        assert!(text.contains(&finding.fits.to_string()), "{text}");
    }
});

fn namespace(number: usize) -> Namespace {
    let name = format!("pod-{number}");
    let owner = Pod { namespace: "shop".into(), name: name.as_str().into(), uid: name.as_str().into() };
    Namespace {
        owner: (number > 0).then(|| Arc::new(owner)),
        id: i32::try_from(number).ok().map(NetnsId),
        ..Namespace::default()
    }
}
