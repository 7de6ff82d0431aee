//! A BTF section made here, for who must find some types at their ids and needs to know no more of them.

use super::section::{HEADER, MAGIC, VERSION, small};
use super::types::{Kind, TYPE_HEADER};

/// A section whose types end with the last of `kept`: those have their kind and name, and nothing else; all others are forward
/// declarations of nothing.
pub(super) fn outline(kept: &[(u32, Kind, &str)]) -> Vec<u8> {
    // Id 0 is void, and not in the section.
    let count = kept.iter().map(|(id, ..)| *id as usize).max().unwrap_or(0);
    let names: usize = kept.iter().map(|(_, _, name)| name.len() + 1).sum();
    let strings = HEADER + count * TYPE_HEADER;
    // In one piece: it has a megabyte and more, and each copy of that is as much memory to get from the kernel and clear.
    let mut bytes = vec![0; strings + 1 + names];
    let (mut at, mut name_at) = (strings + 1, 1);
    let types = bytes.get_mut(HEADER..strings).unwrap_or_default().as_chunks_mut::<TYPE_HEADER>().0;
    types.fill(type_header(0, Kind::Fwd));
    for (id, kind, name) in kept {
        if let Some(ty) = (*id as usize).checked_sub(1).and_then(|index| types.get_mut(index)) {
            *ty = type_header(small(name_at), *kind);
        }
        name_at += name.len() + 1;
    }
    for (_, _, name) in kept {
        if let Some(to) = bytes.get_mut(at..at + name.len()) {
            to.copy_from_slice(name.as_bytes());
        }
        at += name.len() + 1;
    }
    let [first, second] = MAGIC.to_ne_bytes();
    let magic = u32::from_ne_bytes([first, second, VERSION, 0]);
    let types = small(count * TYPE_HEADER);
    let header = [magic, small(HEADER), 0, types, types, small(1 + names)];
    if let Some(to) = bytes.first_chunk_mut::<HEADER>() {
        to.copy_from_slice(header.map(u32::to_ne_bytes).as_flattened());
    }
    bytes
}

/// The header of a type without entries, size or type.
fn type_header(name: u32, kind: Kind) -> [u8; TYPE_HEADER] {
    let mut bytes = [0; TYPE_HEADER];
    bytes.as_chunks_mut().0[..2].copy_from_slice(&[name, (kind as u32 + 1) << 24].map(u32::to_ne_bytes));
    bytes
}
