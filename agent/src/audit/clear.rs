//! What the audit says where it finds nothing: what it has looked at, and what it has not. Never more than that.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::asked::{PodsAsked, few, full_name};
use crate::digits::counted;
use crate::links::Namespace;
use crate::sink::escape;

use super::overlay::NotJudged;

/// What keeps the audit from saying that all fits.
pub(super) const HIDDEN: &str = "the network namespaces of pods could not be seen";

/// What was to be looked at and is not in the reading.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Unseen {
    /// Pods that live in the host's network: it was read, but none of it is theirs alone.
    pub(super) on_host: Vec<String>,
    /// Pods no process of which was seen, or that share a network namespace.
    pub(super) pods: Vec<String>,
    /// Pods that have no name here.
    pub(super) nameless: usize,
    /// Namespaces of pods are hidden from this process.
    pub(super) hidden: bool,
}

impl Unseen {
    /// What was not read, in words; empty if nothing is missing.
    pub(super) fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        match (self.hidden, self.pods.is_empty()) {
            (true, true) => words.push(HIDDEN.to_owned()),
            (true, false) => words.push(format!("{HIDDEN}: {}", few(&self.pods))),
            (false, true) => {}
            (false, false) => {
                words.push(format!(
                    "not read, since no process of them was seen or they share a network namespace: {}",
                    few(&self.pods)
                ));
            }
        }
        if self.nameless > 0 {
            let pods = counted(u64::try_from(self.nameless).unwrap_or(u64::MAX), "pod");
            words.push(format!("not read, since --pod-logs has no name for them: {pods}"));
        }
        words
    }
}

/// What is not judged, in words: everything that one cause keeps from it together.
pub(super) fn not_judged<'a>(all: impl Iterator<Item = &'a NotJudged>) -> Option<String> {
    let mut causes: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for one in all {
        let of = one.owner.as_deref().map(|pod| format!(" of {}", full_name(pod))).unwrap_or_default();
        causes.entry(&one.why).or_default().push(format!("{}{of}", escape::text(&one.subject)));
    }
    let causes: Vec<String> =
        causes.into_iter().map(|(why, names)| format!("{} ({})", few(&names), escape::text(why))).collect();
    (!causes.is_empty()).then(|| format!("not judged: {}", causes.join(", ")))
}

/// Says that what was judged fits, for the pods `asked` for, and names what was not read and what is `left`; in lines of `width`.
pub(super) fn clear(
    read: &[Namespace],
    asked: &PodsAsked,
    unseen: &Unseen,
    left: Option<&str>,
    width: usize,
) -> String {
    let (mut of_host, mut of_pods) = (0, 0);
    let (mut pods, mut unread, missing) = (Vec::new(), Vec::new(), unseen.words());
    for namespace in read {
        let links = namespace.links.iter().filter(|link| !link.loopback).count();
        let name = match namespace.owner.as_deref() {
            None => {
                of_host += links;
                "the host".to_owned()
            }
            Some(pod) if asked.wants(pod) => {
                of_pods += links;
                pods.push(full_name(pod));
                full_name(pod)
            }
            Some(_) => continue,
        };
        if !namespace.unread.is_empty() {
            unread.push(name);
        }
    }
    let is_read = unread.is_empty() && missing.is_empty();
    let mut text = match (is_read, left) {
        // Only the loopback interface is there: to say that all fits would be true and misleading.
        (true, None) if of_host + of_pods == 0 => "nothing to judge",
        (true, None) => "everything fits",
        (true, Some(_)) => "all that was judged fits",
        (false, _) => "what was read fits",
    }
    .to_owned();
    let links = |count: usize| format!("{count} {}", if count == 1 { "link" } else { "links" });
    // Writing to a String cannot fail.
    let _ = match (asked.is_empty(), pods.len()) {
        (true, 0) if !(missing.is_empty() && unseen.on_host.is_empty()) => {
            write!(text, ": {} of the host", links(of_host))
        }
        (true, 0) => write!(text, ": {} of the host; no pod is known here", links(of_host)),
        (true, 1) => write!(text, ": {} of the host, {} of one pod", links(of_host), links(of_pods)),
        (true, all) => write!(text, ": {} of the host, {} of {all} pods", links(of_host), links(of_pods)),
        (false, 0) => write!(text, ": {} of the host", links(of_host)),
        (false, all) => {
            let own = if all == 1 { "its own" } else { "their own" };
            write!(text, " for {}: {} of {own}, {} of the host", few(&pods), links(of_pods), links(of_host))
        }
    };
    if !unread.is_empty() {
        let _ = write!(text, "; not read in whole: {}", few(&unread));
    }
    if !unseen.on_host.is_empty() && !asked.is_empty() {
        let _ = write!(text, "; on the host's network: {}", few(&unseen.on_host));
    }
    for missing in missing.iter().map(String::as_str).chain(left) {
        let _ = write!(text, "; {missing}");
    }
    wrapped(&text, width)
}

fn wrapped(text: &str, columns: usize) -> String {
    let (mut out, mut column) = (String::new(), 0);
    for word in text.split(' ') {
        let width = word.chars().count();
        if column > 0 && column + 1 + width > columns {
            out.push_str("\n   ");
            column = 3;
        } else if column > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += width;
    }
    out
}

#[cfg(test)]
mod tests {
    /// Columns of a line.
    const WIDTH: usize = 80;

    use std::sync::Arc;

    use super::*;
    use crate::links::{Link, Unread};
    use crate::pod::Pod;

    fn namespace(owner: Option<&str>, links: usize) -> Namespace {
        let owner = owner.map(|name| {
            let (namespace, name) = name.split_once('/').unwrap();
            Arc::new(Pod { namespace: namespace.into(), name: name.into(), uid: "u".into() })
        });
        let mut all = vec![Link { loopback: true, ..Link::default() }];
        all.extend((0..links).map(|_| Link::default()));
        Namespace { owner, links: all, ..Namespace::default() }
    }

    #[test]
    fn what_is_not_judged_is_named_by_its_cause() {
        let one = |subject: &str, owner: Option<&str>, why: &'static str| NotJudged {
            owner: namespace(owner, 0).owner,
            subject: subject.to_owned(),
            kind: "k".to_owned(),
            why: why.into(),
            unread: false,
        };
        let all = [one("br-int", None, "a"), one("tun\x1b0", Some("shop/web"), "b"), one("ovs", None, "a")];
        let said = not_judged(all.iter()).unwrap();
        assert_eq!(said, "not judged: br-int, ovs (a), tun\\x1b0 of shop/web (b)");
        assert_eq!(not_judged(all[..0].iter()), None);
        let read = [namespace(None, 3)];
        let clear = |unseen: &Unseen| {
            clear(&read, &PodsAsked::default(), unseen, Some(&said), WIDTH).replace("\n   ", " ")
        };
        assert_eq!(
            clear(&Unseen::default()),
            format!("all that was judged fits: 3 links of the host; no pod is known here; {said}")
        );
        assert!(clear(&Unseen { nameless: 1, ..Unseen::default() }).starts_with("what was read fits: "));
    }

    #[test]
    fn it_says_what_was_looked_at_and_no_more() {
        let mut read = vec![
            namespace(None, 3),
            namespace(Some("shop/web"), 1),
            namespace(Some("shop/db"), 2),
            namespace(Some("pay/api"), 1),
        ];
        let asked = |namespaces: &[&str]| PodsAsked {
            namespaces: namespaces.iter().map(|name| (*name).to_owned()).collect(),
            pods: Vec::new(),
        };
        let said = |read: &[Namespace], names: &[&str]| {
            clear(read, &asked(names), &Unseen::default(), None, WIDTH).replace("\n   ", " ")
        };
        let but = |names: &[&str], unseen: Unseen| {
            clear(&read[..1], &asked(names), &unseen, None, WIDTH).replace("\n   ", " ")
        };
        let hidden = but(&[], Unseen { hidden: true, ..Unseen::default() });
        assert_eq!(hidden, format!("what was read fits: 3 links of the host; {HIDDEN}"));
        // A pod that has not started, and one that has no name, were not read; one on the host's network was.
        let early = but(&[], Unseen { pods: vec!["shop/late".to_owned()], nameless: 2, ..Unseen::default() });
        assert_eq!(
            early,
            "what was read fits: 3 links of the host; not read, since no process of them was seen or they share a network namespace: shop/late; \
             not read, since --pod-logs has no name for them: 2 pods"
        );
        let on_host = || Unseen { on_host: vec!["kube-system/proxy".to_owned()], ..Unseen::default() };
        assert_eq!(but(&[], on_host()), "everything fits: 3 links of the host");
        assert_eq!(
            but(&["kube-system"], on_host()),
            "everything fits: 3 links of the host; on the host's network: kube-system/proxy"
        );
        assert_eq!(said(&read, &[]), "everything fits: 3 links of the host, 4 links of 3 pods");
        assert_eq!(said(&read[..1], &[]), "everything fits: 3 links of the host; no pod is known here");
        let bare = [namespace(None, 0)];
        assert_eq!(said(&bare, &[]), "nothing to judge: 0 links of the host; no pod is known here");
        assert_eq!(
            said(&read, &["pay"]),
            "everything fits for pay/api: 1 link of its own, 3 links of the host"
        );
        assert_eq!(
            said(&read, &["shop"]),
            "everything fits for shop/web, shop/db: 3 links of their own, 3 links of the host"
        );
        read[1].unread.push(Unread { what: "links", why: "w".to_owned() });
        assert_eq!(
            said(&read, &["shop"]),
            "what was read fits for shop/web, shop/db: 3 links of their own, 3 links of the host; not read in whole: shop/web"
        );
        assert!(said(&read, &[]).starts_with("what was read fits: "));
        assert!(
            said(&read, &["pay"]).starts_with("everything fits for pay/api: "),
            "what is not asked for is no matter"
        );
        let unseen =
            Unseen { pods: vec!["kube-system/a-name-of-some-length".to_owned()], ..Unseen::default() };
        let alone = clear(&read[..1], &asked(&["kube-system"]), &unseen, None, WIDTH);
        assert!(
            alone.lines().count() > 1 && alone.lines().all(|line| line.chars().count() <= WIDTH),
            "{alone}"
        );
    }

    #[test]
    fn a_line_is_as_long_as_it_may_be() {
        let words = |lengths: &[usize]| lengths.iter().map(|length| "x".repeat(*length)).collect::<Vec<_>>();
        let lines = |lengths: &[usize]| {
            wrapped(&words(lengths).join(" "), WIDTH)
                .lines()
                .map(|line| line.chars().count())
                .collect::<Vec<_>>()
        };
        assert_eq!(lines(&[40, 39]), [80]);
        assert_eq!(lines(&[40, 40]), [40, 43]);
        assert_eq!(lines(&[80, 37, 39]), [80, 80], "behind three blanks");
        assert_eq!(lines(&[80, 37, 40]), [80, 40, 43]);
        assert_eq!(lines(&[90, 1]), [90, 4], "a word is not cut");
        assert_eq!(wrapped(&words(&[80, 79]).join(" "), 160).lines().count(), 1, "a wider terminal");
    }
}
