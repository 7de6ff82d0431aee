//! Takes DWARF out of a BPF object: two thirds of it, which no one reads, and whose 40,000 relocations the loader would look
//! through at each start. BTF, which the kernel reads, stays.

use anyhow::{Context as _, Result, ensure};

/// Where an ELF64 header says what (`Elf64_Ehdr`, elf.h).
const SECTIONS_AT: usize = 0x28;
const SECTIONS: usize = 0x3c;
const NAMES: usize = 0x3e;

/// A section's header (`Elf64_Shdr`), and where it says what.
const HEADER: usize = 64;
const NAME: usize = 0;
const KIND: usize = 4;
const OFFSET: usize = 24;
const SIZE: usize = 32;

/// `SHT_NULL`: no section, at an index that others count on. `SHT_NOBITS`: one without bytes in the file.
const NONE: u32 = 0;
const NO_BYTES: u32 = 8;

/// The object without the bytes of its sections `.debug_*`, and of the relocations of those and of BTF, whose offsets stand in BTF
/// itself. Every other section keeps its index.
pub(crate) fn debug_info(elf: &[u8]) -> Result<Vec<u8>> {
    ensure!(elf.get(..6) == Some(b"\x7fELF\x02\x01"), "not a little-endian ELF64 file");
    let table = usize::try_from(long(elf, SECTIONS_AT)?)?;
    let count = usize::from(half(elf, SECTIONS)?);
    let mut headers = part(elf, table, count * HEADER)?.to_vec();
    let names = bytes(elf, &headers, usize::from(half(elf, NAMES)?))?.to_vec();

    // The file's own header is 64 bytes long as well; an object has no program headers.
    let mut stripped = part(elf, 0, HEADER)?.to_vec();
    for section in 0..count {
        let header = section * HEADER;
        let name =
            names.get(usize::try_from(word(&headers, header + NAME)?)?..).context("a section's name")?;
        if [&b".debug_"[..], b".rel.debug_", b".rel.BTF"].iter().any(|prefix| name.starts_with(prefix)) {
            headers[header + KIND..][..4].copy_from_slice(&NONE.to_le_bytes());
            headers[header + SIZE..][..8].fill(0);
        }
        if [NONE, NO_BYTES].contains(&word(&headers, header + KIND)?) {
            continue;
        }
        let kept = bytes(elf, &headers, section)?;
        stripped.resize(stripped.len().next_multiple_of(16), 0);
        headers[header + OFFSET..][..8].copy_from_slice(&(stripped.len() as u64).to_le_bytes());
        stripped.extend_from_slice(kept);
    }
    stripped.resize(stripped.len().next_multiple_of(16), 0);
    let table = stripped.len() as u64;
    stripped[SECTIONS_AT..][..8].copy_from_slice(&table.to_le_bytes());
    stripped.extend_from_slice(&headers);
    Ok(stripped)
}

/// The sections of programs that call a function of the object's own, as the compiler makes it of a `memset` that nobody wrote.
///
/// Kernels before 6.4 (and stable ones without `bpf: ensure main program has an extable`) then mend no load through a wild
/// pointer, and there are such: the first one is a panic, seen on 5.10.
pub(crate) fn callers(elf: &[u8]) -> Result<Vec<String>> {
    /// `SHT_REL`, whose entries are an offset and what to do there: the lower half of that is the kind.
    const RELOCATIONS: u32 = 9;
    /// `R_BPF_64_32`: a call.
    const CALL: u32 = 10;
    let (table, count) = (usize::try_from(long(elf, SECTIONS_AT)?)?, usize::from(half(elf, SECTIONS)?));
    let headers = part(elf, table, count * HEADER)?;
    let names = bytes(elf, headers, usize::from(half(elf, NAMES)?))?;
    let mut callers = Vec::new();
    for section in 0..count {
        let header = section * HEADER;
        if word(headers, header + KIND)? != RELOCATIONS {
            continue;
        }
        let entries = bytes(elf, headers, section)?;
        let kinds = (0..entries.len() / 16).map(|entry| word(entries, 16 * entry + 8));
        if kinds.collect::<Result<Vec<_>>>()?.contains(&CALL) {
            let name =
                names.get(usize::try_from(word(headers, header + NAME)?)?..).context("a section's name")?;
            let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
            callers.push(String::from_utf8_lossy(name).trim_start_matches(".rel").to_owned());
        }
    }
    Ok(callers)
}

/// A section's bytes, by what the file's own table of headers says.
fn bytes<'a>(elf: &'a [u8], headers: &[u8], section: usize) -> Result<&'a [u8]> {
    let at = |field| usize::try_from(long(headers, section * HEADER + field)?).context("an offset");
    part(elf, at(OFFSET)?, at(SIZE)?)
}

fn part(of: &[u8], at: usize, size: usize) -> Result<&[u8]> {
    of.get(at..).and_then(|rest| rest.get(..size)).context("cut short")
}

fn half(of: &[u8], at: usize) -> Result<u16> {
    Ok(u16::from_le_bytes(part(of, at, 2)?.try_into()?))
}

fn word(of: &[u8], at: usize) -> Result<u32> {
    Ok(u32::from_le_bytes(part(of, at, 4)?.try_into()?))
}

fn long(of: &[u8], at: usize) -> Result<u64> {
    Ok(u64::from_le_bytes(part(of, at, 8)?.try_into()?))
}
