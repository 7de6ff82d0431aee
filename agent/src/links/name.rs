//! Names of devices in commands: who may make a network namespace may call a device `$(reboot)`, and a person pastes what is told.

use std::borrow::Cow;

/// Whether a shell takes it for one word as it is, and a tool for no option.
#[must_use]
pub fn is_plain(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-@+/".contains(c);
    !name.is_empty() && !name.starts_with('-') && name.chars().all(is_plain)
}

/// Text as a shell takes it for one word.
#[must_use]
pub fn shell_word(text: &str) -> Cow<'_, str> {
    if is_plain(text) { text.into() } else { format!("'{}'", text.replace('\'', r"'\''")).into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_obeys_no_name() {
        for name in ["eth0", "cali+1", "eth0.100", "a_b-c@d"] {
            assert_eq!(shell_word(name), name);
        }
        for name in ["$(reboot)", "`x`", "a;b", "a|b", "-x", "", "a b", "é", "a\\b", "~", "a*"] {
            assert_eq!(shell_word(name), format!("'{name}'"));
        }
        assert_eq!(shell_word("a'b"), r"'a'\''b'");
    }
}
