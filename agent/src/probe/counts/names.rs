//! Label sets by small numbers, each with its text as it stands in a series: made once, not at every scrape.

use std::collections::BTreeMap;
use std::fmt::{self, Debug, Write};
use std::hash::{BuildHasherDefault, Hash, Hasher};

use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder, text};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// Numbers for label sets (or for what makes some), in use until they are forgotten.
pub(super) struct Names<L> {
    ids: BTreeMap<L, u32>,
    /// By number. An error is kept until a scrape meets it: that is who can refuse.
    texts: Vec<Result<String, fmt::Error>>,
    /// Numbers of what was forgotten: pods come and go for as long as the node is up.
    free: Vec<u32>,
}

impl<L> Default for Names<L> {
    fn default() -> Self {
        Self { ids: BTreeMap::new(), texts: Vec::new(), free: Vec::new() }
    }
}

impl<L: Ord> Names<L> {
    /// The number of `name`, with `text` as its labels if it is new.
    pub(super) fn id(&mut self, name: L, text: impl FnOnce(&L) -> Result<String, fmt::Error>) -> u32 {
        if let Some(id) = self.ids.get(&name) {
            return *id;
        }
        let text = text(&name);
        let id = self.free.pop().unwrap_or_else(|| {
            self.texts.push(Err(fmt::Error));
            u32::try_from(self.texts.len() - 1).unwrap_or(u32::MAX)
        });
        if let Some(place) = self.texts.get_mut(index(id)) {
            *place = text;
        }
        self.ids.insert(name, id);
        id
    }

    /// The number of `name`, which may be another's from now on.
    pub(super) fn forget(&mut self, name: &L) -> Option<u32> {
        let id = self.ids.remove(name)?;
        self.free.push(id);
        Some(id)
    }

    /// The labels of `id`, escaped, without braces.
    pub(super) fn text(&self, id: u32) -> Result<&str, fmt::Error> {
        self.texts.get(index(id)).map_or(Err(fmt::Error), |text| text.as_deref().map_err(|error| *error))
    }

    /// All numbers, in the order of their names.
    pub(super) fn in_order(&self) -> impl Iterator<Item = u32> {
        self.ids.values().copied()
    }

    /// The place of each number in that order.
    pub(super) fn ranks(&self) -> Vec<u32> {
        let mut ranks = vec![0; self.texts.len()];
        for (rank, id) in (0..).zip(self.in_order()) {
            ranks[index(id)] = rank;
        }
        ranks
    }
}

/// For keys made of the kernel's and our own small numbers. Nobody outside chooses those, so no collision can be
/// forced, and the usual hasher's guard against that would be a fifth of a scrape.
pub(super) type Quick = BuildHasherDefault<Mix>;

/// The hasher of [`Quick`]: each number turns and multiplies what came before.
#[derive(Default)]
pub(super) struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        // The table goes by the uppermost and the lowest bits; a product has the best of it in the upper ones.
        self.0 ^ self.0 >> 32
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u8(&mut self, number: u8) {
        self.write_u64(u64::from(number));
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_isize(&mut self, number: isize) {
        self.write_u64(number.cast_unsigned() as u64);
    }

    fn write_u64(&mut self, number: u64) {
        // An odd number with no pattern: 2^64 by the golden ratio.
        self.0 = (self.0.rotate_left(29) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// A number as an index.
pub(super) const fn index(id: u32) -> usize {
    id as usize
}

/// The text of a label set, as prometheus-client itself writes and escapes it.
pub(super) fn text_of<L>(labels: L) -> Result<String, fmt::Error>
where
    L: EncodeLabelSet + Clone + Eq + Hash + Debug + Send + Sync + 'static,
{
    let mut registry = Registry::default();
    registry.register("x", "x", Info::new(labels));
    let mut sample = String::new();
    text::encode_registry(&mut sample, &registry)?;
    let labels = sample.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}'));
    labels.map(|(labels, _)| labels.to_owned()).ok_or(fmt::Error)
}

/// A label set that is text already.
pub(super) struct Text<'a>(pub(super) &'a str);

impl EncodeLabelSet for Text<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        // A key is written as it is, and without a value nothing follows it: `a="b",c="d"` passes for one.
        encoder.encode_label().encode_label_key()?.write_str(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_what_the_label_sets_would_have_written() {
        let (first, second) = ([("a", "x}\"\\=\n{"), ("b", "")], [("c", "日本=\"")]);
        let mut registry = Registry::default();
        registry.register("x", "x", Info::new((first, second)));
        let mut expected = String::new();
        text::encode_registry(&mut expected, &registry).unwrap();
        let (first, second) = (text_of(first).unwrap(), text_of(second).unwrap());
        assert_eq!(expected, format!("# HELP x x.\n# TYPE x info\nx_info{{{first},{second}}} 1\n"));
    }

    #[test]
    fn a_number_is_given_again_only_after_it_was_forgotten() {
        let text = |name: &&str| Ok((*name).to_uppercase());
        let mut names = Names::default();
        let [b, a] = ["b", "a"].map(|name| names.id(name, text));
        assert_eq!((names.id("b", text), names.text(a)), (b, Ok("A")));
        assert_eq!((names.in_order().collect::<Vec<_>>(), names.ranks()), (vec![a, b], vec![1, 0]));
        assert_eq!((names.forget(&"b"), names.forget(&"b")), (Some(b), None));
        let c = names.id("c", text);
        assert_eq!((c, names.text(c)), (b, Ok("C")));
        assert_eq!(names.ranks(), [1, 0]);
        assert_eq!(names.text(2), Err(fmt::Error));
    }

    /// A table goes by the uppermost and the lowest bits: rows that share them are looked up one by one.
    #[test]
    fn rows_that_differ_little_are_hashed_apart() {
        let hash = |write: &dyn Fn(&mut Mix)| {
            let mut mix = Mix::default();
            write(&mut mix);
            mix.finish()
        };
        let distinct = |hashes: &[u64], part: fn(u64) -> u64| {
            let mut parts: Vec<u64> = hashes.iter().map(|hash| part(*hash)).collect();
            parts.sort_unstable();
            parts.dedup();
            parts.len()
        };
        let mut hashes = Vec::new();
        for pod in 0..64 {
            for labels in 0..32 {
                for end in 0..2 {
                    hashes.push(hash(&|mix| {
                        mix.write_u32(pod);
                        mix.write_isize(end);
                        mix.write_u32(labels);
                    }));
                }
            }
        }
        assert_eq!(distinct(&hashes, |hash| hash), 4096);
        assert_eq!(distinct(&hashes, |hash| hash >> 57), 128);
        // Of numbers by chance 4096 are 2589.
        let lowest = distinct(&hashes, |hash| hash & 0xfff);
        assert!(lowest > 2000, "{lowest}");
        let each = [
            hash(&|mix| mix.write_u8(1)),
            hash(&|mix| mix.write_u8(2)),
            hash(&|mix| mix.write_isize(3)),
            hash(&|mix| mix.write_u32(4)),
            hash(&|mix| mix.write(&[1, 2])),
            hash(&|mix| mix.write(&[2, 1])),
        ];
        assert_eq!(distinct(&each, |hash| hash), 6, "{each:x?}");
    }
}
