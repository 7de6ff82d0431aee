//! What somebody may have meant: of the names there are, those most like one that is not among them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Names that a sentence holds. A cluster has hundreds of reasons, interfaces and pods; a line is to be read.
pub const MOST: usize = 10;

/// Characters of a name that are compared: the work is that of their square.
const COMPARED: usize = 64;

/// `did you mean shop?` if something is much like `wanted`, else `there are: pay, web`, nearest first and at most [`MOST`].
#[must_use]
pub fn hint<'a>(wanted: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    hint_by(wanted, known.into_iter().map(|name| (name, name)))
}

/// As [`hint`], where what is shown of each name (`shop/web-0`) is not what is compared (`web-0`).
#[must_use]
pub fn hint_by<K: AsRef<str>, S: Into<String>>(
    wanted: &str,
    known: impl IntoIterator<Item = (K, S)>,
) -> String {
    let mut nearest: BTreeMap<String, Likeness> = BTreeMap::new();
    for (name, shown) in known {
        let likeness = Likeness::of(wanted, name.as_ref());
        let best = nearest.entry(shown.into()).or_insert(likeness);
        *best = likeness.min(*best);
    }
    let mut nearest: Vec<(Likeness, String)> = nearest.into_iter().map(|(name, is)| (is, name)).collect();
    nearest.sort_unstable();
    let meant = nearest.iter().filter(|(likeness, _)| likeness.near).count();
    match (nearest.len(), meant) {
        (0, _) => "there are none".to_owned(),
        (all, 0) => {
            let named: Vec<&str> = nearest.iter().take(MOST).map(|(_, name)| name.as_str()).collect();
            let mut text = format!("there are: {}", named.join(", "));
            if all > MOST {
                // Writing to a String cannot fail.
                let _ = write!(text, " and {} more", all - MOST);
            }
            text
        }
        (_, meant) => {
            let named: Vec<&str> =
                nearest.iter().take(meant.min(MOST)).map(|(_, name)| name.as_str()).collect();
            format!("did you mean {}?", one_of(&named))
        }
    }
}

/// `a, b or c`.
#[must_use]
pub fn one_of(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [most @ .., last] => format!("{} or {last}", most.join(", ")),
    }
}

/// How much a name is like another: what is near comes first, and of that what takes the fewest edits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Likeness {
    near: bool,
    edits: usize,
}

impl Likeness {
    fn of(wanted: &str, name: &str) -> Self {
        let fold =
            |text: &str| -> Vec<char> { text.chars().take(COMPARED).flat_map(char::to_lowercase).collect() };
        let (wanted, name) = (fold(wanted), fold(name));
        let edits = edits(&wanted, &name);
        // Of a long name more may be mistyped; of a pod the end is often left out.
        let begins = wanted.len() >= 2 && name.starts_with(&wanted);
        Self { near: begins || edits <= (wanted.len() / 3).clamp(1, 3) && edits < wanted.len(), edits }
    }
}

impl Ord for Likeness {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (!self.near, self.edits).cmp(&(!other.near, other.edits))
    }
}

impl PartialOrd for Likeness {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// How many letters have to be added, left out, changed, or swapped with the next (optimal string alignment).
fn edits(one: &[char], other: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=other.len()).collect();
    for (row, letter) in one.iter().enumerate() {
        let mut line = vec![row + 1];
        for (column, against) in other.iter().enumerate() {
            let change = above[column] + usize::from(letter != against);
            let mut least = change.min(above[column + 1] + 1).min(line[column] + 1);
            if row > 0 && column > 0 && *letter == other[column - 1] && one[row - 1] == *against {
                least = least.min(before[column - 1] + 1);
            }
            line.push(least);
        }
        before = std::mem::replace(&mut above, line);
    }
    above[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn distance(one: &str, other: &str) -> usize {
        let chars = |text: &str| text.chars().collect::<Vec<_>>();
        edits(&chars(one), &chars(other))
    }

    #[test]
    fn edits_are_counted_as_fingers_make_them() {
        for (one, other, edits) in [
            ("", "", 0),
            ("", "web", 3),
            ("web", "", 3),
            ("shop", "shop", 0),
            ("shpo", "shop", 1),
            ("wbe", "web", 1),
            ("dropz", "drops", 1),
            ("cart", "cart-0", 2),
            ("kitten", "sitting", 3),
            ("äöü", "äöu", 1),
        ] {
            assert_eq!(distance(one, other), edits, "{one} {other}");
            assert_eq!(distance(other, one), edits, "{other} {one}");
        }
    }

    #[test]
    fn what_is_near_is_asked_for_and_else_all_are_named() {
        let known = ["shop", "pay", "kube-system", "shop"];
        for (wanted, text) in [
            ("shpo", "did you mean shop?"),
            ("SHOP", "did you mean shop?"),
            ("sho", "did you mean shop?"),
            ("kube", "did you mean kube-system?"),
            ("kube-sytsem", "did you mean kube-system?"),
            ("web", "there are: pay, shop, kube-system"),
            ("", "there are: pay, shop, kube-system"),
            ("x", "there are: pay, shop, kube-system"),
        ] {
            assert_eq!(hint(wanted, known), text, "{wanted}");
        }
        assert_eq!(hint("shpo", []), "there are none");
        assert_eq!(hint("x", ["y"]), "there are: y", "a letter that was changed for another is none left");
        assert_eq!(hint("web", ["web-1", "web-0"]), "did you mean web-0 or web-1?");
        assert_eq!(hint_by("wbe", [("web", "shop/web"), ("db", "shop/db")]), "did you mean shop/web?");
    }

    #[test]
    fn a_line_names_ten_at_most_however_many_there_are() {
        let many: Vec<String> = (0..120).map(|number| format!("reason-{number:03}")).collect();
        let text = hint("weather", many.iter().map(String::as_str));
        assert_eq!(text.matches("reason-").count(), MOST, "{text}");
        assert!(
            text.starts_with("there are: reason-000, reason-001,") && text.ends_with(" and 110 more"),
            "{text}"
        );
        // Ten are named without a word of more.
        let text = hint("weather", many.iter().take(MOST).map(String::as_str));
        assert!(text.ends_with(", reason-008, reason-009"), "{text}");
        let text = hint("reason-0", many.iter().map(String::as_str));
        assert_eq!(text.matches("reason-").count(), MOST, "{text}");
        // Neither a long argument nor a long name costs more than its start.
        let long = "a".repeat(100_000);
        assert!(hint(&long, [long.as_str()]).starts_with("did you mean a"));
    }
}
