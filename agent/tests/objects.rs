//! What the objects' instructions are, where the source does not decide it.
//!
//! That an interrupt loses a count between the load and the store of a plain addition cannot be provoked in a guest: an
//! emulated processor takes interrupts between blocks of instructions, and both are in one. So it is read off the code.

#![expect(clippy::unwrap_used, reason = "a test that cannot read its object has failed")]

use agent::probe::Probe as _;
use agent::probes::{drops, mtu};

/// An instruction, as `struct bpf_insn` has it (`linux/bpf.h`).
#[derive(Clone, Copy)]
struct Instruction {
    code: u8,
    to: u8,
    from: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    fn read(bytes: &[u8]) -> Self {
        Self {
            code: bytes[0],
            to: bytes[1] & 15,
            from: bytes[1] >> 4,
            offset: i16::from_le_bytes(bytes[2..4].try_into().unwrap()),
            immediate: i32::from_le_bytes(bytes[4..8].try_into().unwrap()),
        }
    }
}

/// `BPF_STX | BPF_ATOMIC | BPF_DW`: with `BPF_ADD` (0) alone every kernel has it.
const ATOMIC: u8 = 0xdb;
const LOAD: u8 = 0x79;
const STORE: u8 = 0x7b;
/// `BPF_ALU64 | BPF_ADD`, of a number and of a register.
const ADD: [u8; 2] = [0x07, 0x0f];
/// `BPF_JMP` and `BPF_JMP32`.
const JUMPS: [u8; 2] = [5, 6];
const STACK: u8 = 10;

/// Places where eight bytes that are not on the stack are loaded, added to and stored again.
fn plain_additions(code: &[Instruction]) -> usize {
    let is_plain = |at: usize| {
        let store = code[at];
        if store.code != STORE || store.to == STACK {
            return false;
        }
        let straight = code[..at].iter().rev().take_while(|before| !JUMPS.contains(&(before.code & 7)));
        let mut added = false;
        for before in straight.filter(|before| before.to == store.from).take(4) {
            if ADD.contains(&before.code) {
                added = true;
            } else if before.code == LOAD {
                return added && (before.from, before.offset) == (store.to, store.offset);
            }
        }
        false
    };
    (0..code.len()).filter(|at| is_plain(*at)).count()
}

/// The instructions of each section that has some, of a little-endian ELF64 file.
fn programs(elf: &[u8]) -> Vec<Vec<Instruction>> {
    /// `SHT_PROGBITS`.
    const PROGRAM: u8 = 1;
    /// `SHF_EXECINSTR`.
    const EXECUTABLE: u8 = 4;
    let long = |at: usize| usize::try_from(u64::from_le_bytes(elf[at..at + 8].try_into().unwrap())).unwrap();
    let half = |at: usize| usize::from(u16::from_le_bytes(elf[at..at + 2].try_into().unwrap()));
    let (table, sections) = (long(0x28), half(0x3c));
    let headers = (0..sections).map(|section| table + section * 64);
    let code = headers.filter(|header| elf[header + 4] == PROGRAM && elf[header + 8] & EXECUTABLE != 0);
    code.map(|header| {
        let (at, size) = (long(header + 24), long(header + 32));
        elf[at..at + size].chunks_exact(8).map(Instruction::read).collect()
    })
    .collect()
}

#[test]
fn what_is_counted_is_added_in_one_instruction() {
    for (name, object, least) in [("drops", drops::Drops::object(), 8), ("mtu", mtu::Mtu::object(), 8)] {
        let atomic =
            |code: &[Instruction]| code.iter().filter(|instruction| instruction.code == ATOMIC).count();
        let programs: Vec<_> = programs(object).into_iter().filter(|code| code.len() > 100).collect();
        // The end of a socket is looked at, and not counted.
        let counting = programs.iter().filter(|code| atomic(code) > 0);
        assert!(counting.clone().count() >= 3, "{name} has {} sections with programs", programs.len());
        for code in counting {
            assert!(atomic(code) >= least, "{name}: {} atomic additions", atomic(code));
            assert!(
                code.iter().filter(|add| add.code == ATOMIC).all(|add| add.immediate == 0),
                "{name}: 5.10 has only additions, without a result"
            );
        }
        for code in &programs {
            assert_eq!(plain_additions(code), 0, "{name}: an interrupt would make it lose counts");
        }
    }
}

/// On 5.10 a fault in a program that calls a function can panic the kernel (see `agent-ebpf/build.rs`): a typed load of what
/// is no pointer is such a fault, and `skb->dev` is none where UDP has put its own numbers there.
#[test]
fn no_program_calls_a_function() {
    /// `BPF_JMP | BPF_CALL`, of another function of the object (`BPF_PSEUDO_CALL`).
    const CALL: (u8, u8) = (0x85, 1);
    for (name, object) in [("drops", drops::Drops::object()), ("mtu", mtu::Mtu::object())] {
        let calls =
            programs(object).concat().into_iter().filter(|call| (call.code, call.from) == CALL).count();
        assert_eq!(calls, 0, "{name}");
    }
}

/// Nor can it be provoked that an interrupt makes a row and counts in it while the program makes the same one.
#[test]
fn a_row_is_made_only_where_there_is_none() {
    /// `BPF_JMP | BPF_CALL`, of the helper `bpf_map_update_elem`.
    const UPDATE: (u8, u8, i32) = (0x85, 0, 2);
    /// `BPF_ALU64 | BPF_MOV`, of a number; to the register of the flags.
    const FLAGS: (u8, u8) = (0xb7, 4);
    const BPF_NOEXIST: i32 = 1;
    for code in programs(drops::Drops::object()).into_iter().filter(|code| code.len() > 100) {
        let calls = |at: &usize| (code[*at].code, code[*at].from, code[*at].immediate) == UPDATE;
        let updates: Vec<_> = (0..code.len()).filter(calls).collect();
        assert!(!updates.is_empty(), "no row is made");
        for at in updates {
            let flags = code[..at].iter().rev().find(|before| before.to == FLAGS.1);
            let flags = flags.filter(|flags| flags.code == FLAGS.0).map(|flags| flags.immediate);
            assert_eq!(flags, Some(BPF_NOEXIST), "a row that is there would be overwritten");
        }
    }
}

/// And what it looks for is what a plain addition is.
#[test]
fn a_plain_addition_is_found() {
    let of = |code, to, from, offset| Instruction { code, to, from, offset, immediate: 1 };
    let plain = [of(LOAD, 1, 6, 8), of(ADD[0], 1, 0, 0), of(STORE, 6, 1, 8)];
    assert_eq!(plain_additions(&plain), 1);
    assert_eq!(plain_additions(&[plain[0], of(LOAD, 2, 6, 16), plain[1], plain[2]]), 1, "others between");
    assert_eq!(plain_additions(&[plain[0], plain[2]]), 0, "nothing is added");
    assert_eq!(plain_additions(&[plain[0], plain[1], of(STORE, 7, 1, 8)]), 0, "another place");
    assert_eq!(plain_additions(&[of(ATOMIC, 6, 1, 8)]), 0);
}
