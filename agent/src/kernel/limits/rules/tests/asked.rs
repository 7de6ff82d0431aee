//! Whole rulesets, asked for as of the kernel, and what is found in them.

use super::super::super::netlink::Answers;
use super::*;

/// `NFT_MSG_GETTABLE` and so on, as they stand in a question.
const TABLES: u16 = 0x0a01;
const CHAINS: u16 = 0x0a04;
const RULES: u16 = 0x0a07;
const ELEMENTS: u16 = 0x0a0d;

fn names(names: &[(u16, &str)]) -> Vec<u8> {
    names.iter().flat_map(|(kind, name)| attribute(*kind, format!("{name}\0").as_bytes())).collect()
}

fn table(name: &str, flags: u32) -> Vec<u8> {
    [vec![0; 4], names(&[(NFTA_TABLE_NAME, name)]), be(NFTA_TABLE_FLAGS, flags)].concat()
}

/// A chain of NAT, in a table of that name.
fn chain_of_nat() -> Vec<u8> {
    let hook = attribute(NFTA_CHAIN_HOOK, &[be(1, 4), be(2, 0)].concat());
    let of = names(&[(NFTA_CHAIN_TABLE, "nat"), (NFTA_CHAIN_NAME, "POST"), (NFTA_CHAIN_TYPE, "nat")]);
    [vec![0; 4], of, hook, be(NFTA_CHAIN_USE, 1)].concat()
}

/// The elements of one message.
fn elements(keys: &[u32]) -> Vec<u8> {
    let element = |key: &u32| attribute(NFTA_LIST_ELEM, &value(NFTA_SET_ELEM_KEY, *key));
    let list: Vec<u8> = keys.iter().flat_map(element).collect();
    [vec![0; 4], attribute(NFTA_SET_ELEM_LIST_ELEMENTS, &list)].concat()
}

fn asks_in(set: &str) -> [Vec<u8>; 3] {
    [load_state(), look_up(set, &[]), verdict(DROP)]
}

/// Questions about a family, and what there is besides the tables of it.
fn answers(family: u8, rules: Vec<Vec<u8>>) -> Vec<(u16, Vec<u8>, Vec<Vec<u8>>)> {
    let of = |more: &[(u16, &str)]| [vec![family, 0, 0, 0], names(more)].concat();
    let chains = vec![
        chain("IN", Some(("filter", 1)), 2),
        chain("FORWARD", Some(("filter", 2)), 1),
        chain("KUBE", None, 2),
        chain("OUT", Some(("filter", 3)), 1),
        chain("UNUSED", None, 1),
        chain_of_nat(),
    ];
    vec![
        (TABLES, of(&[]), vec![table("nat", 0), table("asleep", 1), table("filter", 0)]),
        (CHAINS, of(&[]), chains),
        (RULES, of(&[(NFTA_RULE_TABLE, "filter")]), rules),
        // A list may come in several messages.
        (ELEMENTS, of(&[(1, "filter"), (2, "with")]), vec![elements(&[8, 1]), elements(&[2])]),
        (ELEMENTS, of(&[(1, "filter"), (2, "without")]), vec![elements(&[8, 2])]),
    ]
}

fn none(family: u8) -> Vec<(u16, Vec<u8>, Vec<Vec<u8>>)> {
    [TABLES, CHAINS].map(|kind| (kind, vec![family, 0, 0, 0], Vec::new())).to_vec()
}

fn found(rules: &Rules) -> Vec<(&'static str, &str, &str, u8)> {
    let found = rules.found.iter();
    found.map(|(chain, hooks)| (chain.family, &chain.table[..], &chain.name[..], *hooks)).collect()
}

#[test]
fn chains_that_drop_what_is_invalid_are_found_in_all_tables_that_are_awake() {
    let rules = || {
        vec![
            rule("IN", &[counter()]),
            rule("IN", &asks_in("with")),
            rule("FORWARD", &[counter(), lead_to(-3, "KUBE")]),
            rule("KUBE", &asks_in("without")),
            rule("KUBE", &invalid_dropped()),
            rule("OUT", &asks_in("without")),
            rule("UNUSED", &invalid_dropped()),
        ]
    };
    let of_ip = found_in(&mut Answers([answers(2, rules()), none(1)].concat()), 4).unwrap();
    assert_eq!(found(&of_ip), [("ip", "filter", "IN", INPUT), ("ip", "filter", "KUBE", FORWARD)]);
    assert!(!of_ip.is_stateless);
    let of_both = found_in(&mut Answers([none(10), answers(1, rules())].concat()), 6).unwrap();
    assert_eq!(found(&of_both), [("inet", "filter", "IN", INPUT), ("inet", "filter", "KUBE", FORWARD)]);
    let of_ip6 = found_in(&mut Answers([answers(10, rules()), none(1)].concat()), 6).unwrap();
    assert_eq!(found(&of_ip6)[0], ("ip6", "filter", "IN", INPUT));
}

#[test]
fn rules_that_ask_for_no_state_are_told_from_those_that_do() {
    let stateless = |rules| {
        let rules = found_in(&mut Answers([answers(2, rules), none(1)].concat()), 4).unwrap();
        assert_eq!(found(&rules), []);
        rules.is_stateless
    };
    assert!(stateless(vec![rule("IN", &[payload(12), compare(EQ, 7), verdict(DROP)])]));
    assert!(!stateless(vec![rule("IN", &[load_state(), compare(EQ, 2), verdict(ACCEPT)])]));
    assert!(stateless(Vec::new()));
}

#[test]
fn what_the_kernel_does_not_answer_is_an_error() {
    assert_eq!(found_in(&mut Answers(none(1)), 4).unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn as_many_chains_are_named_as_a_sentence_takes() {
    let chain = |name: &str| Chain { family: "ip", table: "t".to_owned(), name: name.to_owned() };
    let chains = |count: usize| ["a", "b", "c", "d"].map(|name| (chain(name), INPUT))[..count].to_vec();
    let named = |count| named(&chains(count), Direction::Received).len();
    assert_eq!([named(0), named(1), named(3), named(4)], [0, 1, 3, 0]);
}
