//! Rules and chains as the kernel lists them, and what is taken from them.

use super::expression::*;
use super::*;

mod asked;

/// Attributes one in the other, the outermost first.
fn nest(kinds: &[u16], value: &[u8]) -> Vec<u8> {
    kinds.iter().rev().fold(value.to_vec(), |inner, kind| attribute(*kind, &inner))
}

fn be(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

/// A register's worth of bytes.
fn value(kind: u16, value: u32) -> Vec<u8> {
    nest(&[kind, NFTA_DATA_VALUE], &value.to_ne_bytes())
}

fn expression(name: &str, content: &[Vec<u8>]) -> Vec<u8> {
    let name = attribute(NFTA_EXPR_NAME, format!("{name}\0").as_bytes());
    attribute(NFTA_LIST_ELEM, &[name, attribute(NFTA_EXPR_DATA, &content.concat())].concat())
}

fn load_state() -> Vec<u8> {
    expression("ct", &[be(2, 0), be(1, 1)])
}

fn mask(mask: u32) -> Vec<u8> {
    expression("bitwise", &[be(1, 1), be(2, 1), be(3, 4), be(6, 0), value(4, mask), value(5, 0)])
}

fn compare(operation: u32, with: u32) -> Vec<u8> {
    expression("cmp", &[be(1, 1), be(2, operation), value(3, with)])
}

fn look_up(set: &str, more: &[Vec<u8>]) -> Vec<u8> {
    expression("lookup", &[&[attribute(1, format!("{set}\0").as_bytes()), be(2, 1)], more].concat())
}

fn verdict(code: u32) -> Vec<u8> {
    expression(
        "immediate",
        &[be(1, 0), nest(&[2, NFTA_DATA_VERDICT, NFTA_VERDICT_CODE], &code.to_be_bytes())],
    )
}

/// `jump` or `goto`.
fn lead_to(code: i32, chain: &str) -> Vec<u8> {
    let verdict = [
        be(NFTA_VERDICT_CODE, code.cast_unsigned()),
        attribute(NFTA_VERDICT_CHAIN, format!("{chain}\0").as_bytes()),
    ];
    expression("immediate", &[be(1, 0), nest(&[2, NFTA_DATA_VERDICT], &verdict.concat())])
}

/// What loads four bytes of the network header.
fn payload(offset: u32) -> Vec<u8> {
    expression("payload", &[be(1, 1), be(2, 1), be(3, offset), be(4, 4)])
}

fn xt_match(name: &str) -> Vec<u8> {
    expression("match", &[attribute(1, format!("{name}\0").as_bytes()), be(2, 0), attribute(3, &[0; 200])])
}

/// `iptables -m state`.
fn of_state(states: u32) -> Vec<u8> {
    expression("match", &[attribute(1, b"state\0"), be(2, 0), attribute(3, &states.to_ne_bytes())])
}

fn counter() -> Vec<u8> {
    expression("counter", &[attribute(1, &[0; 8]), attribute(2, &[0; 8])])
}

/// `iptables -m conntrack`, as `xt_conntrack_mtinfo3` or what came before it.
fn conntrack(revision: u32, flags: u16, inverted: u16, states: &[u8]) -> Vec<u8> {
    let mut content = vec![0; 164];
    content[146..148].copy_from_slice(&flags.to_ne_bytes());
    content[148..150].copy_from_slice(&inverted.to_ne_bytes());
    content[150..150 + states.len()].copy_from_slice(states);
    expression("match", &[attribute(1, b"conntrack\0"), be(2, revision), attribute(3, &content)])
}

const DROP: u32 = 0;
const ACCEPT: u32 = 1;
const EQ: u32 = 0;
const NEQ: u32 = 1;

#[test]
fn a_rule_that_drops_what_is_invalid_is_seen() {
    for (what, expressions) in [
        ("ct state invalid", vec![load_state(), mask(1), compare(NEQ, 0), counter(), verdict(DROP)]),
        ("ct state invalid,untracked", vec![load_state(), mask(0x41), compare(NEQ, 0), verdict(DROP)]),
        ("ct state == invalid", vec![load_state(), compare(EQ, 1), verdict(DROP)]),
        ("ct state & invalid == invalid", vec![load_state(), mask(1), compare(EQ, 1), verdict(DROP)]),
        (
            "ct state xor invalid == 0",
            vec![
                load_state(),
                expression("bitwise", &[be(1, 1), be(2, 1), be(3, 4), be(6, 0), value(4, 1), value(5, 1)]),
                compare(EQ, 0),
                verdict(DROP),
            ],
        ),
        ("ct state != established", vec![load_state(), compare(NEQ, 2), verdict(DROP)]),
        ("--ctstate INVALID", vec![conntrack(3, 1, 0, &1_u16.to_ne_bytes()), counter(), verdict(DROP)]),
        ("--state INVALID, as conntrack", vec![conntrack(3, 0x2001, 0, &1_u16.to_ne_bytes()), verdict(DROP)]),
        (
            "with a comment, and logged",
            vec![
                xt_match("comment"),
                conntrack(3, 1, 0, &1_u16.to_ne_bytes()),
                expression("log", &[attribute(2, b"x\0")]),
                verdict(DROP),
            ],
        ),
        ("--ctstate, older", vec![conntrack(1, 1, 0, &[1]), verdict(DROP)]),
        ("! --ctstate NEW", vec![conntrack(3, 1, 1, &8_u16.to_ne_bytes()), verdict(DROP)]),
        ("--state INVALID", vec![of_state(1), expression("target", &[attribute(1, b"DROP\0"), be(2, 0)])]),
    ] {
        assert_eq!(asks(&expressions.concat()), Some(Asks::Itself), "{what}");
    }
}

#[test]
fn a_rule_that_lets_it_pass_is_none() {
    for (what, expressions) in [
        ("drop", vec![verdict(DROP)]),
        ("ct state invalid accept", vec![load_state(), mask(1), compare(NEQ, 0), verdict(ACCEPT)]),
        ("ct state invalid", vec![load_state(), mask(1), compare(NEQ, 0), counter()]),
        ("ct state new", vec![load_state(), mask(8), compare(NEQ, 0), verdict(DROP)]),
        ("ct state != invalid", vec![load_state(), compare(NEQ, 1), verdict(DROP)]),
        ("ct status", vec![expression("ct", &[be(2, 2), be(1, 1)]), mask(1), compare(NEQ, 0), verdict(DROP)]),
        (
            "of something else",
            vec![load_state(), expression("meta", &[be(1, 1), be(2, 15)]), compare(EQ, 1), verdict(DROP)],
        ),
        ("! --ctstate INVALID", vec![conntrack(3, 1, 1, &1_u16.to_ne_bytes()), verdict(DROP)]),
        ("--state NEW", vec![of_state(8), verdict(DROP)]),
        ("a mask has left nothing of it", vec![load_state(), mask(8), look_up("__set0", &[]), verdict(DROP)]),
        (
            "not into the verdict",
            vec![
                load_state(),
                compare(EQ, 1),
                expression(
                    "immediate",
                    &[be(1, 1), nest(&[2, NFTA_DATA_VERDICT, NFTA_VERDICT_CODE], &DROP.to_be_bytes())],
                ),
            ],
        ),
        ("--ctproto", vec![conntrack(3, 2, 0, &1_u16.to_ne_bytes()), verdict(DROP)]),
    ] {
        assert_eq!(asks(&expressions.concat()), None, "{what}");
    }
}

#[test]
fn a_rule_that_asks_for_more_is_none() {
    let invalid = || [load_state(), mask(1), compare(NEQ, 0)].concat();
    let not_known = || conntrack(3, 1, 1, &0x26_u16.to_ne_bytes());
    assert_eq!(asks(&[not_known(), verdict(DROP)].concat()), Some(Asks::Itself));
    for (what, expressions) in [
        // `iifname X ct state invalid drop`, and the other way round.
        ("before", vec![expression("meta", &[be(1, 1), be(2, 6)]), compare(EQ, 7), invalid(), verdict(DROP)]),
        ("after", vec![invalid(), expression("meta", &[be(1, 1), be(2, 6)]), compare(EQ, 7), verdict(DROP)]),
        // `! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP` (KUBE-FIREWALL)
        (
            "addresses",
            vec![
                payload(12),
                mask(0xff),
                compare(NEQ, 127),
                payload(16),
                mask(0xff),
                compare(EQ, 127),
                not_known(),
                counter(),
                verdict(DROP),
            ],
        ),
        ("limit", vec![invalid(), expression("limit", &[be(4, 0)]), verdict(DROP)]),
        (
            "limit of iptables",
            vec![conntrack(3, 1, 0, &1_u16.to_ne_bytes()), xt_match("limit"), verdict(DROP)],
        ),
        ("conntrack of something else", vec![xt_match("conntrack"), invalid(), verdict(DROP)]),
        ("--ctstate and --ctproto", vec![conntrack(3, 3, 0, &1_u16.to_ne_bytes()), verdict(DROP)]),
        (
            "another register",
            vec![invalid(), expression("cmp", &[be(1, 2), be(2, EQ), value(3, 1)]), verdict(DROP)],
        ),
        ("reject", vec![invalid(), expression("reject", &[be(1, 0)])]),
        ("another expression", vec![invalid(), expression("fib", &[]), verdict(DROP)]),
        ("without a name", vec![invalid(), attribute(NFTA_LIST_ELEM, &[]), verdict(DROP)]),
    ] {
        assert_eq!(asks(&expressions.concat()), None, "{what}");
    }
}

#[test]
fn sets_and_maps_are_looked_into() {
    let name = || b"__set0".to_vec();
    let set = |more: &[Vec<u8>]| asks(&[load_state(), look_up("__set0", more), verdict(DROP)].concat());
    let (within, without) = (set(&[]).unwrap(), set(&[be(5, 1)]).unwrap());
    assert_eq!(within, Asks::Set { name: name(), inverted: false });
    assert_eq!(without, Asks::Set { name: name(), inverted: true });
    assert_eq!(set(&[be(5, 2)]), Some(within.clone()), "another flag");
    let map = asks(&[load_state(), look_up("__set0", &[be(3, 0)])].concat()).unwrap();
    assert_eq!(map, Asks::Map { name: name() });
    let element = |key: u32, does: Option<u32>| {
        let does = does.map(|code| nest(&[2, NFTA_DATA_VERDICT, NFTA_VERDICT_CODE], &code.to_be_bytes()));
        attribute(NFTA_LIST_ELEM, &[value(NFTA_SET_ELEM_KEY, key), does.unwrap_or_default()].concat())
    };
    let both = [element(8, None), element(1, None)].concat();
    assert!(within.is_invalid_among(&both) && !within.is_invalid_among(&element(8, None)));
    assert!(within.drops(true) && !within.drops(false) && without.drops(false) && !without.drops(true));
    assert!(map.is_invalid_among(&[element(2, Some(ACCEPT)), element(1, Some(DROP))].concat()));
    assert!(!map.is_invalid_among(&[element(2, Some(DROP)), element(1, Some(ACCEPT))].concat()));
}

/// What drops and asks for no state drops for something else.
#[test]
fn a_question_for_the_state_is_seen_in_each_form() {
    for (what, expression, wanted) in [
        ("ct state", load_state(), true),
        ("ct status", expression("ct", &[be(2, 2), be(1, 1)]), false),
        ("--state", of_state(8), true),
        ("--ctstate", conntrack(3, 1, 0, &8_u16.to_ne_bytes()), true),
        ("a comment", xt_match("comment"), false),
        ("meta", expression("meta", &[be(1, 1), be(2, 0)]), false),
        ("nothing", Vec::new(), false),
    ] {
        assert_eq!(asks_for_state(&[counter(), expression, verdict(DROP)].concat()), wanted, "{what}");
    }
}

/// A rule of a table `filter`.
fn rule(chain: &str, expressions: &[Vec<u8>]) -> Vec<u8> {
    let names = [(NFTA_RULE_TABLE, &b"filter"[..]), (NFTA_RULE_CHAIN, chain.as_bytes())];
    [question(NFPROTO_IPV4, &names), attribute(NFTA_RULE_EXPRESSIONS, &expressions.concat())].concat()
}

fn invalid_dropped() -> [Vec<u8>; 4] {
    [load_state(), mask(1), compare(NEQ, 0), verdict(DROP)]
}

#[test]
fn rules_are_noted_with_their_chain() {
    let mut ruled = Vec::new();
    for (chain, expressions) in [
        ("FORWARD", &[counter(), lead_to(-3, "KUBE")][..]),
        ("KUBE", &invalid_dropped()),
        ("KUBE", &[counter()]),
        ("X", &[]),
    ] {
        note(&mut ruled, &rule(chain, expressions), b"filter");
    }
    note(&mut ruled, &rule("KUBE", &invalid_dropped()), b"nat");
    let noted = |one: &Ruled| (one.chain.clone(), one.rules, one.asks.len(), one.jumps.len());
    assert_eq!(
        ruled.iter().map(noted).collect::<Vec<_>>(),
        [(b"FORWARD".to_vec(), 1, 0, 1), (b"KUBE".to_vec(), 2, 1, 0), (b"X".to_vec(), 1, 0, 0)]
    );
    assert_eq!(ruled[0].jumps, [b"KUBE"]);
}

/// A chain of a table `filter`; of this type at this hook, if netfilter calls it.
fn chain(name: &str, base: Option<(&str, u32)>, uses: u32) -> Vec<u8> {
    let names = [(NFTA_CHAIN_TABLE, &b"filter"[..]), (NFTA_CHAIN_NAME, name.as_bytes())];
    let hook = base.map(|(kind, hook)| {
        let kind = attribute(NFTA_CHAIN_TYPE, format!("{kind}\0").as_bytes());
        [attribute(NFTA_CHAIN_HOOK, &[be(1, hook), be(2, 0)].concat()), kind].concat()
    });
    [question(NFPROTO_IPV4, &names), hook.unwrap_or_default(), be(NFTA_CHAIN_USE, uses)].concat()
}

fn listed(name: &str, base: Option<(&str, u32)>, uses: u32) -> Listed {
    Listed::read(&chain(name, base, uses)).unwrap().1
}

#[test]
fn a_chain_that_no_packet_comes_to_drops_none() {
    let hooks = |kind, hook| listed("c", Some((kind, hook)), 1).hooks;
    assert_eq!((1..=4).map(|hook| hooks("filter", hook)).fold(0, |all, bit| all | bit), ROUTED);
    assert_eq!(hooks("filter", 2), FORWARD);
    assert_eq!((hooks("filter", 0), hooks("filter", 5), hooks("filter", 77)), (0, 0, 0), "before its route");
    assert_eq!((hooks("route", 3), hooks("nat", 3)), (OUTPUT, 0), "what is INVALID is not shown to NAT");
    assert_eq!(listed("c", None, 1).hooks, 0);
}

#[test]
fn hooks_lead_by_jumps_and_maps() {
    let mut ruled = Vec::new();
    for (of, expressions) in [
        ("in", &[counter(), lead_to(-3, "a")][..]),
        ("fwd", &[lead_to(-4, "b")]),
        ("pre", &[lead_to(-3, "d")]),
        ("a", &[lead_to(-3, "b")]),
        ("b", &[counter()]),
        ("e", &[lead_to(-3, "f")]),
    ] {
        note(&mut ruled, &rule(of, expressions), b"filter");
    }
    let chains = [
        listed("c", None, 0),
        listed("b", None, 3),
        listed("a", None, 2),
        listed("d", None, 1),
        // One reference that is no rule's.
        listed("e", None, 2),
        listed("f", None, 1),
        listed("in", Some(("filter", 1)), 1),
        listed("fwd", Some(("filter", 2)), 1),
        listed("pre", Some(("filter", 0)), 1),
        // Of one hook there may be several.
        listed("in2", Some(("filter", 1)), 0),
    ];
    let hooks = leading(&chains, &ruled);
    for (chain, told) in [
        ("in", INPUT),
        ("a", INPUT),
        ("b", INPUT | FORWARD),
        ("c", 0),
        ("d", 0),
        ("e", INPUT | FORWARD),
        ("f", INPUT | FORWARD),
    ] {
        assert_eq!(hooks[chain.as_bytes()], told, "{chain}");
    }
}

#[test]
fn a_chain_is_named_to_what_came_to_it() {
    let found = [("in", INPUT), ("fwd", FORWARD), ("out", OUTPUT), ("post", POSTROUTING)]
        .map(|(name, hooks)| (Chain { family: "ip", table: "t".to_owned(), name: name.to_owned() }, hooks));
    let named_to = |direction| named(&found, direction).iter().map(|c| c.name.clone()).collect::<Vec<_>>();
    assert_eq!(named_to(Direction::Received), ["in", "fwd"]);
    assert_eq!(named_to(Direction::Forwarded), ["fwd", "post"]);
    assert_eq!(named_to(Direction::Sent), ["out", "post"]);
    assert!(named_to(Direction::Unknown).is_empty(), "more than are named");
}

#[test]
fn a_dormant_table_is_none() {
    let table = |flags: &[u8]| {
        let names = [(NFTA_TABLE_NAME, &b"filter"[..])];
        awake(&[&question(NFPROTO_IPV4, &names)[..], flags].concat()).map(|table| table.name)
    };
    assert_eq!(table(&be(NFTA_TABLE_FLAGS, 0)), Some(b"filter".to_vec()));
    assert_eq!(table(&be(NFTA_TABLE_FLAGS, 2)), Some(b"filter".to_vec()), "a process owns it");
    assert_eq!(table(&be(NFTA_TABLE_FLAGS, 1)), None);
    assert_eq!(table(&[]), None);
}

#[test]
fn what_is_cut_off_is_nothing() {
    let (rule, chain) = (rule("KUBE", &invalid_dropped()), chain("KUBE", Some(("filter", 2)), 2));
    for length in 0..rule.len() {
        let mut ruled = Vec::new();
        note(&mut ruled, &rule[..length], b"filter");
        assert!(ruled.iter().all(|one| one.asks.is_empty()), "{length} bytes");
    }
    for length in 0..chain.len() {
        assert!(Listed::read(&chain[..length]).is_none(), "{length} bytes");
    }
    let xt = [conntrack(3, 1, 0, &1_u16.to_ne_bytes()), verdict(DROP)].concat();
    for length in 0..xt.len() {
        assert_eq!(asks(&xt[..length]), None, "{length} bytes");
    }
}

#[test]
fn a_name_breaks_no_sentence() {
    assert_eq!(shown(b"KUBE-FORWARD"), "KUBE-FORWARD");
    assert_eq!(shown(b"a`b\x1b[2J\n\xff c"), "a\\x60b\\x1b[2J\\n\\xff c");
    assert_eq!(shown(b"it's \"x\\y\""), "it's \"x\\y\"");
    assert_eq!(shown(&[b'x'; 64]).chars().count(), 64, "whole");
    assert_eq!(shown(&[b'x'; 65]).chars().count(), 65);
    assert_eq!(shown(&[b'x'; 100]).chars().count(), 65);
}
