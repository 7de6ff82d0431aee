//! What every event of the probe passes: counted exactly, and described if its row's budget allows.

use agent_common::Count;
use agent_common::mtu::{Kind, MtuKey, MtuRecord, flags};
use agent_ebpf::counts::count;
use agent_ebpf::kernel;
use agent_ebpf::packet::Flow;
use agent_ebpf::slots::{self, Here};
use agent_ebpf::tally::tally;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::ring_buf::RingBufEntry;
use aya_ebpf::maps::{PerCpuHashMap, RingBuf};

/// Rows of exact counts: what happened, and to which two pods. What does not fit is counted in
/// [`agent_common::Tally::uncounted`].
#[map]
static COUNTS: PerCpuHashMap<MtuKey, Count> = PerCpuHashMap::with_max_entries(1024, 0);

/// The only queue of the probe.
#[map]
static RECORDS: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);

/// A record in the ring, to be filled and submitted.
pub(crate) type Entry = (RingBufEntry<MtuRecord>, *mut MtuRecord);

/// What every event is counted by.
pub(crate) struct Seen {
    pub(crate) hook: u32,
    pub(crate) kind: Kind,
    /// An [`agent_common::mtu::Fate`].
    pub(crate) fate: u8,
    pub(crate) netns: u32,
    /// Version and addresses of the packet that is too large, as far as they are known.
    pub(crate) packet: Flow,
    pub(crate) len: u32,
    /// The namespace it happened in is the one whose pod sends too much.
    pub(crate) is_from_here: bool,
}

impl Seen {
    /// Counts the event; a record for it, zeroed but for what is known here, if it may be described.
    #[inline(always)]
    pub(crate) unsafe fn admit(&self) -> Option<Entry> {
        let tally = tally(self.hook)?;
        tally.seen();
        let zero = kernel::zero();
        let here = Here::of(self.netns);
        let (mut source, mut destination) = (u16::from(zero), u16::from(zero));
        if !here.foreign {
            (source, destination) = slots::of_flow(&self.packet, zero);
            if self.is_from_here && here.slot != 0 {
                source = here.slot;
            }
        }
        let key = MtuKey {
            kind: self.kind as u8,
            ip_version: self.packet.version,
            source,
            destination,
            fate: self.fate | zero,
            zero: 0,
        };
        // Conversations in tunnels are looked into by the user side alone, and so are its filters.
        let admitted = count(&COUNTS, tally, &key, self.len, || true)?;
        let Some(mut entry) = RECORDS.reserve::<MtuRecord>(0) else {
            tally.ring_full();
            return None;
        };
        let record = entry.as_mut_ptr();
        // SAFETY: the ring's own memory for one record. Ring memory is not zeroed: what is left in it is a stranger's.
        unsafe {
            kernel::clear(record);
            (*record).ktime_ns = bpf_ktime_get_ns();
            (*record).held = admitted.held.into();
            (*record).len = self.len;
            (*record).netns = self.netns;
            (*record).source = self.packet.source.bytes();
            (*record).destination = self.packet.destination.bytes();
            (*record).source_slot = source;
            (*record).destination_slot = destination;
            (*record).kind = key.kind;
            (*record).fate = key.fate;
            (*record).ip_version = key.ip_version;
            if here.foreign {
                (*record).flags |= flags::FOREIGN;
            }
            if here.slot != 0 {
                (*record).flags |= flags::IN_POD;
            }
            if self.is_from_here {
                (*record).flags |= flags::LOCAL_ORIGIN;
            }
            if admitted.is_last {
                (*record).flags |= flags::LAST_OF_BUDGET;
            }
        }
        Some((entry, record))
    }
}
