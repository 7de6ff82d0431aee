//! What a device's packets go through before its routes count: BPF programs (tc, tcx) and other filters of tc.

use std::collections::{BTreeMap, BTreeSet};

use nix::errno::Errno;
use nix::libc;

use super::attributes::{find, signed, text};
use super::socket::{Netlink, SocketError};
use crate::netlink::bucket::{Bucket, bucket};
use crate::netlink::tc::{self, DEVICE, HEADER, RTM_GETQDISC, RTM_GETTFILTER, TCA_KIND};

/// `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)`, the same of egress, and the ingress qdisc itself.
const CLSACT: [u32; 2] = [0xffff_fff2, 0xffff_fff3];
const INGRESS: [u32; 1] = [0xffff_0000];

/// `BPF_PROG_QUERY`, `BPF_TCX_INGRESS` and `BPF_TCX_EGRESS` of include/uapi/linux/bpf.h.
const BPF_PROG_QUERY: libc::c_int = 16;
const TCX: [u32; 2] = [46, 47];

/// What the queueing disciplines of the socket's namespace are to packets, by their device.
#[derive(Default)]
pub(super) struct Queues {
    /// Where filters are asked for.
    hooks: Vec<(u32, &'static [u32])>,
    /// The smallest token bucket.
    pub(super) buckets: BTreeMap<u32, Bucket>,
}

/// Reads them.
pub(super) fn queues(socket: &mut Netlink) -> Result<Queues, SocketError> {
    let (queues, _) =
        socket.dump(RTM_GETQDISC, &tc::question(0, 0), Queues::default, |queues: &mut Queues, payload| {
            queues.hooks.extend(kind(payload).and_then(|(index, kind)| Some((index, parents(kind)?))));
            if let Some((index, found)) = bucket(payload) {
                let least = queues.buckets.entry(index).or_insert(found);
                *least = least.smaller(found);
            }
            true
        })?;
    Ok(queues)
}

/// Devices of the socket's namespace that have filters of clsact or ingress, by what those are.
#[derive(Default)]
pub(super) struct Filtered {
    /// A BPF program is among them.
    pub(super) bpf: BTreeSet<u32>,
    /// One has an action that may drop packets by their size, or send them elsewhere.
    pub(super) acting: BTreeMap<u32, &'static str>,
}

/// Reads which those are.
pub(super) fn filtered(socket: &mut Netlink, queues: &Queues) -> Result<Filtered, SocketError> {
    let mut found = Filtered::default();
    for &(index, parents) in &queues.hooks {
        for parent in parents {
            let ((bpf, acting), _) = socket.dump(
                RTM_GETTFILTER,
                &tc::question(index, *parent),
                || (false, None),
                |(bpf, acting), payload| {
                    *bpf |= kind(payload).is_some_and(|(_, kind)| kind == b"bpf");
                    *acting = acting.or_else(|| acts(payload));
                    !(*bpf && acting.is_some())
                },
            )?;
            found.bpf.extend(bpf.then_some(index));
            found.acting.extend(acting.map(|acts| (index, acts)));
        }
    }
    Ok(found)
}

/// Where a queue of this kind has filters that packets go through.
fn parents(kind: &[u8]) -> Option<&'static [u32]> {
    match kind {
        b"clsact" => Some(&CLSACT),
        b"ingress" => Some(&INGRESS),
        _ => None,
    }
}

/// The device and kind that a message of a queue or a filter is about.
fn kind(payload: &[u8]) -> Option<(u32, &[u8])> {
    let index = u32::try_from(signed(payload.get(DEVICE..)?)?).ok()?;
    Some((index, text(find(payload.get(HEADER..)?, TCA_KIND)?)))
}

/// What a filter does, if it polices or redirects. Where a filter has its actions differs from classifier to classifier: their names
/// alone are looked for, as the attribute `TCA_ACT_KIND` has them, with its NUL.
fn acts(payload: &[u8]) -> Option<&'static str> {
    let names: [(&[u8], _); 2] = [(b"police\0", "polices"), (b"mirred\0", "redirects")];
    let is_there = |name: &[u8]| payload.windows(name.len()).any(|bytes| bytes == name);
    names.iter().find(|(name, _)| is_there(name)).map(|(_, acts)| *acts)
}

/// Whether a device of this thread's namespace has a program of tcx; none has before Linux 6.6.
pub(super) fn has_tcx(index: u32) -> Result<bool, SocketError> {
    for attach in TCX {
        match count(index, attach) {
            Ok(0) => {}
            Ok(_) => return Ok(true),
            // Not known to this kernel, or the device is gone, or it is built without.
            Err(Errno::EINVAL | Errno::ENODEV | Errno::ENOSYS) => return Ok(false),
            Err(errno) => return Err(SocketError::Refused(errno as i32)),
        }
    }
    Ok(false)
}

/// `union bpf_attr`, as far as `BPF_PROG_QUERY` reads and writes it.
#[repr(C)]
#[derive(Default)]
struct Query {
    target: u32,
    attach: u32,
    flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    pad: u32,
    rest: [u64; 4],
}

fn count(index: u32, attach: u32) -> Result<u32, Errno> {
    let mut query = Query { target: index, attach, ..Query::default() };
    // SAFETY: the kernel reads and writes no more than the size it is given, which is the structure's own.
    let done = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut query, size_of::<Query>()) };
    Errno::result(done).map(|_| query.count)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A `struct tcmsg` of device 7 with an attribute, as the kernel lists a queue or a filter.
    fn listed(attribute: u16, name: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + name.len()).unwrap();
        let mut message = [&[0; 4][..], &7_u32.to_ne_bytes(), &[0; 12]].concat();
        message.extend([&length.to_ne_bytes()[..], &attribute.to_ne_bytes(), name].concat());
        message.resize(message.len().next_multiple_of(4), 0);
        message
    }

    #[test]
    fn a_queue_is_told_with_its_device_and_its_hooks() {
        assert_eq!(kind(&listed(1, b"clsact\0")), Some((7, &b"clsact"[..])));
        assert_eq!(kind(&listed(2, b"clsact\0")), None, "no kind");
        assert_eq!(kind(&listed(1, b"clsact\0")[..20]), None);
        assert_eq!(kind(&[0; 6]), None);
        assert_eq!(parents(b"clsact"), Some(&[0xffff_fff2, 0xffff_fff3][..]), "both ways");
        assert_eq!(parents(b"ingress"), Some(&[0xffff_0000][..]));
        assert_eq!(parents(b"fq_codel"), None);
    }

    #[test]
    fn a_filter_that_polices_or_redirects_acts() {
        for (name, wanted) in [
            (&b"police\0"[..], Some("polices")),
            (b"mirred\0", Some("redirects")),
            (b"gact\0", None),
            (b"policed", None),
        ] {
            let nested = [&[12, 0, 1, 0][..], name].concat();
            assert_eq!(acts(&listed(2, &nested)), wanted, "{name:?}");
        }
        assert_eq!(acts(b""), None);
    }

    /// Without the right to ask, the answer is an error: also no program.
    #[test]
    fn a_device_that_is_not_there_has_no_program() {
        assert!(!has_tcx(u32::MAX >> 1).unwrap_or(false));
    }
}
