//! Which pods somebody asks for: a name, the start of names, in any namespace or in one.

use std::fmt;
use std::str::FromStr;

use super::Pod;

/// What `--pod` accepts: `NAME`, `PREFIX*`, `NAMESPACE/NAME` or `NAMESPACE/PREFIX*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodPattern {
    /// The one namespace that is meant; `None` for all.
    pub namespace: Option<String>,
    /// The name, or what it begins with.
    pub name: String,
    /// Whether `name` is only the beginning.
    pub begins: bool,
}

impl PodPattern {
    /// Whether `pod` is one of those meant.
    #[must_use]
    pub fn matches(&self, pod: &Pod) -> bool {
        self.namespace.as_ref().is_none_or(|namespace| *namespace == pod.namespace)
            && if self.begins { pod.name.starts_with(&self.name) } else { pod.name == self.name }
    }
}

impl FromStr for PodPattern {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected a pod's name such as cart-0, shop/cart-0, cart-* or shop/cart-*";
        let (namespace, name) = match text.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, text),
        };
        let (name, begins) = name.strip_suffix('*').map_or((name, false), |start| (start, true));
        let is_wrong = |part: &str| {
            part.contains(['/', '*']) || part.chars().any(|c| c.is_whitespace() || c.is_control())
        };
        let is_empty = namespace.is_some_and(str::is_empty) || name.is_empty() && !begins;
        if is_empty || is_wrong(name) || namespace.is_some_and(is_wrong) {
            return Err(EXPECTED);
        }
        Ok(Self { namespace: namespace.map(str::to_owned), name: name.to_owned(), begins })
    }
}

impl fmt::Display for PodPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        write!(f, "{}{}", self.name, if self.begins { "*" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_named_as_people_write_them() {
        let pod = |namespace: &str, name: &str| Pod {
            namespace: namespace.into(),
            name: name.into(),
            uid: "u".into(),
        };
        for (text, yes, no) in [
            ("cart-0", &["shop/cart-0", "pay/cart-0"][..], &["shop/cart-01", "shop/cart", "shop/CART-0"][..]),
            ("shop/cart-0", &["shop/cart-0"], &["pay/cart-0", "shop/cart-1"]),
            ("cart-*", &["shop/cart-0", "pay/cart-"], &["shop/cart", "shop/acart-0"]),
            ("shop/cart-*", &["shop/cart-0"], &["pay/cart-0"]),
            ("shop/*", &["shop/a", "shop/b"], &["pay/a"]),
            ("*", &["shop/a", "pay/b"], &[]),
        ] {
            let pattern: PodPattern = text.parse().unwrap();
            assert_eq!(pattern.to_string(), text);
            let wanted = |name: &&str| {
                let (namespace, name) = name.split_once('/').unwrap();
                pattern.matches(&pod(namespace, name))
            };
            assert!(yes.iter().all(wanted) && !no.iter().any(wanted), "{text}");
        }
        for text in [
            "", "/", "shop/", "/cart", "a/b/c", "*cart", "c*t", "**", "sh*p/cart", "a b", "a\nb",
            "shop/ca\u{7f}",
        ] {
            assert!(text.parse::<PodPattern>().is_err(), "{text}");
        }
    }
}
