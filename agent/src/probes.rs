//! Every probe, one line each.

use crate::probe::start::Entry;

pub mod drops;
pub mod mtu;

/// Every probe of the agent. Adding one is one line here.
pub const ALL: &[Entry] = &[Entry::of::<drops::Drops>(), Entry::of::<mtu::Mtu>()];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::path::Path;

    use object::read::elf::ElfFile64;
    use object::{
        Endianness, Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SectionKind,
    };

    use crate::kernel::{Kernel, Roots};
    use crate::probe::Probe;
    use crate::probe::globals::Globals;

    /// What every probe's object is told by whoever loads it (`probe::start::load`).
    const BY_LOADER: [&str; 5] =
        ["READS", "HOST_NETNS", "RECORDS_PER_WINDOW", "WINDOW_SHIFT", "COUNT_PASSED"];

    /// And by the filter, if the probe has one (`probe::filter::PacketFilter::set`).
    const BY_FILTER: [&str; 3] = ["FILTER_NETWORKS", "FILTER_INTERFACES", "FILTER_PORTS"];

    /// The constants of a probe's object that nobody sets when it is loaded alone.
    fn left_out<P: Probe>() -> Vec<String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/kernel");
        let mut globals = Globals::default();
        P::globals(&Kernel::load_from(Roots::under(&root)), &mut globals);
        let set: HashSet<&str> = globals.names().chain(BY_LOADER).chain(BY_FILTER).collect();
        let file = ElfFile64::<Endianness>::parse(P::object()).unwrap();
        let rodata: HashSet<_> = file
            .sections()
            .filter(|section| section.name().is_ok_and(|name| name.starts_with(".rodata")))
            .map(|section| section.index())
            .collect();
        // All constants are in every object; those count that its programs read.
        let mut read = HashSet::new();
        for section in file.sections().filter(|section| section.kind() == SectionKind::Text) {
            let code = section.data().unwrap();
            for (at, relocation) in section.relocations() {
                let RelocationTarget::Symbol(index) = relocation.target() else { continue };
                let symbol = file.symbol_by_index(index).unwrap();
                // Of a section's own symbol, where in it is in the instruction: its `imm`.
                let imm = usize::try_from(at).unwrap() + 4;
                let offset = u32::from_le_bytes(code[imm..imm + 4].try_into().unwrap());
                read.insert((symbol.section_index(), symbol.address() + u64::from(offset)));
            }
        }
        let constants: Vec<&str> = file
            .symbols()
            .filter(|symbol| symbol.is_global() && symbol.size() == 4)
            .filter(|symbol| symbol.section_index().is_some_and(|section| rodata.contains(&section)))
            .filter(|symbol| read.contains(&(symbol.section_index(), symbol.address())))
            .map(|symbol| symbol.name().unwrap())
            .collect();
        assert!(constants.contains(&"SKB_DEV"), "the object's constants are seen: {constants:?}");
        constants.into_iter().filter(|name| !set.contains(name)).map(str::to_owned).collect()
    }

    /// The agent loads its probes one after the other with one loader, which keeps what it is told: a constant that only another probe
    /// sets is right in `run` and unknown in `trace`.
    #[test]
    fn each_probe_sets_every_constant_of_its_object() {
        assert_eq!(left_out::<super::drops::Drops>(), [""; 0]);
        assert_eq!(left_out::<super::mtu::Mtu>(), [""; 0]);
    }
}
