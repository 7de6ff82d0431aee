//! What a TCP socket knows of a segment that it sends again and again, and what that says of the segment's size.
//!
//! A black hole lets small segments pass and swallows full-size ones, without a message. What TCP's own state shows of it
//! at a retransmission on timeout was seen on 5.10, 6.1, 6.12 and 7.2: the first segment that is not acknowledged is a
//! full one, the timeouts go on (`icsk_retransmits`), and of what was sent after it only small ones are reported as
//! received (SACK). Of a lost segment the next copy arrives; a dead peer reports nothing.

use super::Fate;

/// Blocks that `tcp_sock.recv_sack_cache` keeps of the last acknowledgement.
pub const SACK_BLOCKS: usize = 4;

/// What the socket knows when it sends a segment again. Lengths are payload, without headers.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stall {
    /// `tcp_sock.bytes_acked`: bytes of this connection that the peer has acknowledged so far.
    pub acked: u64,
    /// `tcp_sock.bytes_received`: bytes that the peer has sent so far, each counted once.
    pub received: u64,
    /// Microseconds since the last of the segments that are known to have arrived was sent (`tcp_sock.rack.mstamp`). Of all
    /// that a socket knows only this tells that the way there is open: a peer is heard while nothing reaches it, too.
    pub arrived: u64,
    /// The same of the last connection between the same addresses and to the same port that has ended, if the peer acknowledged small
    /// data of it and no full segment ([`Stall::took_small_alone`]); [`NEVER`](Self::NEVER) if there was none lately. Its FIN counts
    /// as a segment: the data may be older.
    pub acknowledged: u64,
    /// `tcp_sock.mss_cache`: payload of a full-size segment, bytes.
    pub mss: u32,
    /// `inet_connection_sock.icsk_pmtu_cookie`: the path MTU that the socket believes in, bytes.
    pub pmtu: u32,
    /// `inet_connection_sock.icsk_retransmits`: timeouts since anything was acknowledged.
    pub retransmits: u32,
    /// `tcp_sock.sacked_out`: segments behind this one that the peer reported as received.
    pub sacked: u32,
    /// The longest run of bytes in the peer's last report, 0 if there was none.
    pub longest_run: u32,
    /// Bytes that wait behind the last one that was acknowledged (`write_seq - snd_una`).
    pub waiting: u32,
    /// `tcp_sock.snd_wnd`: what the peer has room for, bytes.
    pub window: u32,
    /// `inet_connection_sock.icsk_rto`: the timeout that has just passed, jiffies.
    pub timeout: u32,
    /// Jiffies since the peer was last heard (`tcp_sock.rcv_tstamp`).
    pub heard: u32,
    /// [`flags`](Self::PROBING).
    pub flags: u32,
    /// Bytes from the first that is not acknowledged to the first that was reported as received, 0 if none was.
    pub hole: u32,
    /// Segments of any connection of this node that were sent again in the last 8 to 16 seconds, beyond what those that are
    /// stuck have cost: how much is lost by chance.
    pub lost: u32,
}

const _: () = assert!(size_of::<Stall>() == 80);

/// Timeouts after which small segments that arrive may prove something. Where one packet in twenty is lost, each way, a copy
/// fails one time in ten, and there were four: what was sent first, again for SACK, and at each timeout but the
/// last, whose copy is on its way now.
pub const TIMEOUTS: u32 = 3;

/// How often a segment that gets stuck is sent again before its third timeout, at most: for the tail (TLP), for SACK, and at
/// two timeouts.
pub const FIRST_COPIES: u32 = 4;

/// So often a node that loses next to nothing may have sent others again.
const HARDLY_ANY: u32 = 4;

/// A node that has sent more than these again loses so much by chance that some connection or other loses the same segment four
/// times.
const MANY: u32 = 100;

impl Stall {
    /// Bit of [`Stall::flags`]: the kernel looks for a smaller size by itself (`net.ipv4.tcp_mtu_probing`).
    pub const PROBING: u32 = 1;
    /// [`Stall::acknowledged`] of none.
    pub const NEVER: u64 = u64::MAX;

    /// Whether the peer of a connection that ends has acknowledged data of it, and less than a full segment. A client's SYN and each
    /// side's FIN count as a byte.
    #[inline]
    #[must_use]
    pub const fn took_small_alone(acked: u64, mss: u32) -> bool {
        acked > 2 && acked < mss as u64
    }

    /// What it says of a segment of `len` bytes; `None` as long as it is too early to say anything.
    #[inline]
    #[must_use]
    pub const fn fate(&self, len: u32) -> Option<Fate> {
        // A peer without room says so itself, and the SYN has no payload.
        if self.retransmits < TIMEOUTS || self.window == 0 || len == 0 {
            return None;
        }
        if len < self.mss {
            return Some(Fate::Ordinary);
        }
        if self.sacked != 0 {
            return Some(if !self.small_ones_pass() {
                Fate::Ordinary
            } else if self.retransmits < self.timeouts_that_prove() {
                Fate::Suspect
            } else {
                Fate::BlackHole
            });
        }
        let is_open = self.never_passed() || self.is_peer_alive();
        Some(if is_open { Fate::Suspect } else { Fate::Ordinary })
    }

    /// Timeouts after which small segments that arrive are no matter of chance: two more if a single full segment is missing,
    /// and one more if full ones did arrive on this connection. By chance it then happens to less than one connection in a
    /// million of those that lose one packet in twenty, each way; each timeout more makes it ten times as rare, and what is
    /// sent again elsewhere says how many connections there are to whom it can happen.
    #[inline]
    const fn timeouts_that_prove(&self) -> u32 {
        let is_single = self.hole < self.mss.saturating_mul(2);
        let by_chance = (self.lost > HARDLY_ANY) as u32 + (self.lost > MANY) as u32;
        TIMEOUTS + 2 * is_single as u32 + !self.never_passed() as u32 + by_chance
    }

    /// Takes in what the peer reported as received (SACK), in the kernel's order, as ranges of sequence numbers; `unacked` is the
    /// first that it has not acknowledged.
    #[expect(clippy::inline_always, reason = "the kernel side hands its stack to nobody")]
    #[inline(always)]
    pub fn report(&mut self, blocks: [[u32; 2]; SACK_BLOCKS], unacked: u32) {
        for [begin, end] in blocks {
            let run = end.wrapping_sub(begin);
            if run > self.longest_run {
                self.longest_run = run;
            }
            // What was received twice is reported as well, and lies before.
            let hole = begin.wrapping_sub(unacked);
            if run != 0 && hole < 1 << 31 && (self.hole == 0 || hole < self.hole) {
                self.hole = hole;
            }
        }
    }

    /// Whether that is next to no matter of chance before the timeouts that prove it: one more has passed than where it may
    /// begin to be said, and next to nothing is lost on this node. Where one packet in twenty is lost each way, so many copies
    /// come to nothing of one segment in a hundred thousand, and of others many are sent again meanwhile.
    #[inline]
    #[must_use]
    pub const fn is_hardly_chance(&self) -> bool {
        self.sacked != 0 && self.small_ones_pass() && self.retransmits > TIMEOUTS && self.is_alone()
    }

    /// Whether next to nothing else is lost on this node.
    #[inline]
    #[must_use]
    pub const fn is_alone(&self) -> bool {
        self.lost <= HARDLY_ANY
    }

    /// Whether no full-size segment of this connection was ever acknowledged.
    #[inline]
    #[must_use]
    pub const fn never_passed(&self) -> bool {
        self.acked < self.mss as u64
    }

    /// Whether all that the peer reported as received is smaller than a full segment. Only the last few runs are known:
    /// one that is as long as a full segment may be one.
    #[inline]
    const fn small_ones_pass(&self) -> bool {
        self.longest_run != 0 && self.longest_run < self.mss
    }

    /// Whether the peer was heard since the first of the timeouts: before the one that has just passed there was another,
    /// half as long. That alone proves nothing: it may have been away until a moment ago.
    #[inline]
    #[must_use]
    pub const fn is_peer_alive(&self) -> bool {
        self.heard < self.timeout.saturating_add(self.timeout / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A full segment of 1,448 bytes at its third timeout, heard of nobody since before the first.
    const STUCK: Stall = Stall {
        acked: 200,
        received: 0,
        arrived: 3_000_000,
        acknowledged: Stall::NEVER,
        mss: 1448,
        pmtu: 1500,
        retransmits: 3,
        sacked: 0,
        longest_run: 0,
        waiting: 60_000,
        window: 65_000,
        timeout: 200,
        heard: 400,
        flags: 0,
        hole: 0,
        lost: 0,
    };

    #[test]
    fn a_handshake_is_no_data_and_a_full_segment_is_not_small() {
        for (acked, wanted) in [(0, false), (2, false), (3, true), (1447, true), (1448, false), (9000, false)]
        {
            assert_eq!(Stall::took_small_alone(acked, 1448), wanted, "{acked} bytes");
        }
    }

    #[test]
    fn small_ones_that_arrive_behind_a_full_one_are_proof() {
        let tail = Stall { sacked: 1, longest_run: 104, hole: 2 * 1448, ..STUCK };
        assert_eq!(tail.fate(1448), Some(Fate::BlackHole));
        assert_eq!(Stall { retransmits: 2, ..tail }.fate(1448), None, "that happens to lost ones, too");
        assert_eq!(tail.fate(700), Some(Fate::Ordinary), "the small one does not pass either");
        let full = Stall { sacked: 3, longest_run: 2 * 1448, ..STUCK };
        assert_eq!(full.fate(1448), Some(Fate::Ordinary), "full ones do pass");
        assert_eq!(
            Stall { longest_run: 0, ..tail }.fate(1448),
            Some(Fate::Ordinary),
            "nothing is known of them"
        );
    }

    #[test]
    fn the_likelier_it_is_chance_the_more_copies_it_takes() {
        let proven_after = |stall: Stall| {
            (3..9).find(|retransmits| {
                Stall { retransmits: *retransmits, ..stall }.fate(1448) == Some(Fate::BlackHole)
            })
        };
        let two = Stall { sacked: 1, longest_run: 104, hole: 2 * 1448, ..STUCK };
        let one = Stall { hole: 1448, ..two };
        assert_eq!(one.fate(1448), Some(Fate::Suspect));
        assert_eq!([two, one].map(proven_after), [Some(3), Some(5)]);
        let passed = |stall| Stall { acked: 1 << 20, ..stall };
        assert_eq!([two, one].map(passed).map(proven_after), [Some(4), Some(6)]);
        for (lost, more) in [(HARDLY_ANY, 0), (HARDLY_ANY + 1, 1), (MANY, 1), (MANY + 1, 2), (u32::MAX, 2)] {
            let beside = |stall| Stall { lost, ..stall };
            assert_eq!([two, one].map(beside).map(proven_after), [Some(3 + more), Some(5 + more)], "{lost}");
        }
    }

    /// Seen on 6.1, where each way loses one packet in twenty: two full segments and a rest, the first of them sent four times.
    #[test]
    fn four_copies_prove_nothing_where_hundreds_of_others_are_lost() {
        let stall = Stall { acked: 152, waiting: 3008, sacked: 1, longest_run: 112, hole: 2 * 1448, ..STUCK };
        assert_eq!(Stall { lost: 822, ..stall }.fate(1448), Some(Fate::Suspect));
        assert_eq!(stall.fate(1448), Some(Fate::BlackHole));
    }

    #[test]
    fn where_nothing_else_is_lost_it_takes_fewer_copies() {
        let one = Stall { sacked: 1, longest_run: 104, hole: 1448, retransmits: 4, ..STUCK };
        assert_eq!((one.fate(1448), one.is_hardly_chance()), (Some(Fate::Suspect), true));
        let not = [
            Stall { retransmits: 3, ..one },
            Stall { lost: HARDLY_ANY + 1, ..one },
            Stall { lost: u32::MAX, ..one },
            Stall { sacked: 0, ..one },
            Stall { longest_run: 1448, ..one },
            Stall { longest_run: 0, ..one },
        ];
        assert_eq!(not.map(|stall| stall.is_hardly_chance()), [false; 6]);
    }

    /// The nearest hole is what the first segment leaves; the longest run is what has passed. A run that is not there is zeroes.
    #[test]
    fn of_several_runs_the_nearest_hole_and_the_longest_run_count() {
        const NONE: [u32; 2] = [0; 2];
        let near = [10_000 + 1448, 10_000 + 1448 + 100];
        let far = [10_000 + 5 * 1448, 10_000 + 5 * 1448 + 300];
        // Received twice: it lies before what is waited for.
        let twice = [9_000, 9_500];
        for (blocks, hole, longest) in [
            ([near, far, NONE, NONE], 1448, 300),
            ([far, near, NONE, NONE], 1448, 300),
            ([NONE, NONE, far, near], 1448, 300),
            ([far, NONE, NONE, NONE], 5 * 1448, 300),
            ([twice, far, NONE, NONE], 5 * 1448, 500),
            ([twice, NONE, NONE, NONE], 0, 500),
            ([NONE; SACK_BLOCKS], 0, 0),
        ] {
            let mut stall = Stall::default();
            stall.report(blocks, 10_000);
            assert_eq!((stall.hole, stall.longest_run), (hole, longest), "{blocks:?}");
        }
        // Sequence numbers begin again at zero.
        let mut stall = Stall::default();
        stall.report([[400, 500], [u32::MAX - 99, 100], NONE, NONE], u32::MAX - 999);
        assert_eq!((stall.hole, stall.longest_run), (900, 200));
        // Half of all numbers ahead is as far behind.
        for (begin, hole) in [(i32::MAX as u32, i32::MAX as u32), (1 << 31, 0)] {
            let mut stall = Stall::default();
            stall.report([[begin, begin + 1], NONE, NONE, NONE], 0);
            assert_eq!(stall.hole, hole);
        }
    }

    #[test]
    fn it_is_too_early_to_say_anything_before_the_third_timeout() {
        let tail = Stall { sacked: 1, longest_run: 104, hole: 2 * 1448, ..STUCK };
        for stall in [STUCK, tail, Stall { mss: 2000, ..STUCK }] {
            let said = |retransmits| Stall { retransmits, ..stall }.fate(1448).is_some();
            assert_eq!((0..9).find(|timeouts| said(*timeouts)), Some(3), "{stall:?}");
        }
    }

    /// One byte less, one tick more: what each number must reach.
    #[test]
    fn each_number_counts_to_the_last() {
        let tail = Stall { sacked: 1, longest_run: 104, hole: 2 * 1448, ..STUCK };
        assert_eq!(tail.fate(1447), Some(Fate::Ordinary), "less than a full segment");
        assert_eq!(Stall { longest_run: 1447, ..tail }.fate(1448), Some(Fate::BlackHole));
        assert_eq!(
            Stall { longest_run: 1448, ..tail }.fate(1448),
            Some(Fate::Ordinary),
            "it may be a full one"
        );
        assert_eq!(Stall { hole: 2 * 1448 - 1, ..tail }.fate(1448), Some(Fate::Suspect), "a single one");
        assert_eq!(
            (Stall { acked: 1447, ..STUCK }.never_passed(), Stall { acked: 1448, ..STUCK }.never_passed()),
            (true, false)
        );
        let one = Stall { hole: 1448, retransmits: 4, lost: 4, ..tail };
        assert!(one.is_hardly_chance() && !Stall { lost: 5, ..one }.is_hardly_chance());
        assert!(!Stall { longest_run: 1448, ..one }.is_hardly_chance());
    }

    #[test]
    fn a_silent_peer_proves_nothing() {
        assert_eq!(STUCK.fate(1448), Some(Fate::Suspect));
        assert_eq!(Stall { retransmits: 9, ..STUCK }.fate(1448), Some(Fate::Suspect));
        assert_eq!(
            Stall { acked: 1 << 20, ..STUCK }.fate(1448),
            Some(Fate::Ordinary),
            "it was alive, and died"
        );
    }

    #[test]
    fn a_peer_that_talks_while_it_lasts_is_alive() {
        let later = Stall { acked: 1 << 20, heard: 299, ..STUCK };
        assert_eq!(later.fate(1448), Some(Fate::Suspect), "full ones did pass before, and the peer lives");
        assert_eq!(Stall { heard: 300, ..later }.fate(1448), Some(Fate::Ordinary));
    }

    #[test]
    fn a_peer_without_room_and_a_syn_are_not_stalled() {
        assert_eq!(Stall { window: 0, ..STUCK }.fate(1448), None);
        assert_eq!(STUCK.fate(0), None);
    }
}
