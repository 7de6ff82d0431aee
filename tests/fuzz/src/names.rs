//! Kubernetes' rules for names, written down a second time and from its documentation, not from the agent.

/// A pod's uid: a lower-case UUID, or 32 lower-case hex digits for a static pod.
#[must_use]
pub fn is_uid(text: &str) -> bool {
    let is_hex = |text: &str| text.chars().all(|c| "0123456789abcdef".contains(c));
    let groups: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = groups.iter().map(|group| group.len()).collect();
    groups.iter().all(|group| is_hex(group)) && (lengths == [8, 4, 4, 4, 12] || lengths == [32])
}

/// RFC 1123 label: a namespace.
#[must_use]
pub fn is_label(text: &str) -> bool {
    text.len() <= 63 && is_part(text)
}

/// RFC 1123 subdomain: a pod's name.
#[must_use]
pub fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_part)
}

fn is_part(text: &str) -> bool {
    let is_end = |c: Option<char>| c.is_some_and(|c| "abcdefghijklmnopqrstuvwxyz0123456789".contains(c));
    let is_inner = |c: char| c == '-' || is_end(Some(c));
    is_end(text.chars().next()) && is_end(text.chars().last()) && text.chars().all(is_inner)
}
