//! Filters and policers as the kernel lists them, and which of them every packet comes to.

use super::super::netlink::{Answers, attribute as attr};
use super::*;

/// The protocol of a filter for IPv4.
const IPV4: u16 = 0x0800;
/// IPv6.
const IPV6: u16 = 0x86dd;
const BOTH: Policed = Policed { burst: Some(1400), mtu: Some(1200) };

/// As the kernel answers of `police rate 10mbit burst 1400 mtu 1200`, as an action.
fn police(action: u32, rate: u32, more: &[u8]) -> Vec<u8> {
    let mut police = [0; 56];
    for (at, value) in [(ACTION, action), (BURST, 17_500), (MTU, 1200), (RATE, rate)] {
        police[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    let options = [attr(TCA_POLICE_TBF, &police), more.to_vec()].concat();
    [attr(TCA_ACT_KIND, b"police\0"), attr(TCA_ACT_OPTIONS, &options)].concat()
}

fn drops() -> Vec<u8> {
    police(TC_ACT_SHOT, 1_250_000, &[])
}

/// As it answers of a filter of this kind, protocol and chain with these options.
fn written(kind: &str, protocol: u16, chain: u32, handle: u32, options: &[Vec<u8>]) -> Vec<u8> {
    let mut head = tc::question(7, 0);
    let info = 1 << 16 | u32::from(protocol.to_be());
    head[INFO..INFO + 4].copy_from_slice(&info.to_ne_bytes());
    head[HANDLE..HANDLE + 4].copy_from_slice(&handle.to_ne_bytes());
    let kind = attr(TCA_KIND, format!("{kind}\0").as_bytes());
    let options = attr(TCA_OPTIONS, &options.concat());
    [head, kind, attr(TCA_CHAIN, &chain.to_ne_bytes()), options].concat()
}

fn in_order(actions: &[Vec<u8>]) -> Vec<u8> {
    (1..).zip(actions).flat_map(|(at, action)| attr(at, action)).collect()
}

/// With these actions where `matchall` has them.
fn answer(kind: &str, protocol: u16, chain: u32, actions: &[Vec<u8>]) -> Vec<u8> {
    let options = [attr(3, &[0; 4]), attr(TCA_MATCHALL_ACT, &in_order(actions))];
    written(kind, protocol, chain, 1, &options)
}

/// With one policer where `kind` has its actions.
fn polices(kind: &str, at: u16, handle: u32, looks: &[Vec<u8>]) -> Option<Policed> {
    let options = [looks, &[attr(at, &in_order(&[drops()]))]].concat();
    of(&[written(kind, IPV4, 0, handle, &options)]).of(IPV4)
}

fn of(answers: &[Vec<u8>]) -> Policers {
    let mut firsts = Vec::new();
    for answer in answers {
        note(&mut firsts, answer);
    }
    Policers(firsts.into())
}

#[test]
fn only_what_every_packet_comes_to_counts() {
    let all = |actions: &[Vec<u8>]| answer("matchall", ETH_P_ALL, 0, actions);
    let other = attr(TCA_ACT_KIND, b"csum\0");
    assert_eq!(of(&[all(&[drops(), other.clone()])]).of(IPV4), Some(BOTH));
    assert_eq!(of(&[all(&[other, drops()])]).of(IPV4), None, "another action comes before");
    for kind in ["u32", "flower", "bpf", "basic"] {
        let looks = answer(kind, ETH_P_ALL, 0, &[drops()]);
        assert_eq!(of(&[looks.clone(), all(&[drops()])]).of(IPV4), None, "{kind} may take it");
        assert_eq!(of(&[all(&[drops()]), looks]).of(IPV4), Some(BOTH), "{kind} comes later");
    }
    assert_eq!(of(&[answer("matchall", ETH_P_ALL, 1, &[drops()])]).of(IPV4), None, "a goto leads there");
}

/// The selector of `match u32 0 0`, as many times as there are masks.
fn selector(flags: u8, masks: &[u32]) -> Vec<u8> {
    let mut selector = vec![0; KEYS + KEY * masks.len()];
    selector[FLAGS] = flags;
    selector[NKEYS] = u8::try_from(masks.len()).unwrap();
    for (key, mask) in selector[KEYS..].chunks_exact_mut(KEY).zip(masks) {
        key[..4].copy_from_slice(&mask.to_be_bytes());
    }
    attr(TCA_U32_SEL, &selector)
}

#[test]
fn a_u32_that_looks_at_nothing_takes_every_packet() {
    const OWN: u32 = 0x8000_0800;
    let of_u32 = |handle, looks: &[Vec<u8>]| polices("u32", TCA_U32_ACT, handle, looks);
    let all = selector(TC_U32_TERMINAL, &[0, 0]);
    assert_eq!(of_u32(OWN, std::slice::from_ref(&all)), Some(BOTH));
    assert_eq!(of_u32(OWN, &[selector(TC_U32_TERMINAL, &[])]), Some(BOTH));
    assert_eq!(of_u32(OWN, &[selector(TC_U32_TERMINAL, &[0, 0xffff_ff00])]), None, "at an address");
    assert_eq!(of_u32(OWN, &[selector(0, &[0])]), None, "it does nothing");
    assert_eq!(of_u32(0x7fff_ffff, std::slice::from_ref(&all)), None, "packets are sent to its table");
    for kind in [TCA_U32_LINK, TCA_U32_INDEV, TCA_U32_MARK] {
        assert_eq!(of_u32(OWN, &[all.clone(), attr(kind, &[0; 8])]), None, "{kind}");
    }
    // A key is missing.
    let mut cut = selector(TC_U32_TERMINAL, &[0]);
    cut[4 + NKEYS] = 2;
    assert_eq!(of_u32(OWN, &[cut]), None);
    // Its table is listed before it.
    let table = written("u32", IPV4, 0, 0x800 << 20, &[attr(TCA_U32_DIVISOR, &[1, 0, 0, 0])]);
    let act = attr(TCA_U32_ACT, &in_order(&[drops()]));
    let filter = written("u32", IPV4, 0, OWN, &[all.clone(), act]);
    assert_eq!(of(&[table, filter]).of(IPV4), Some(BOTH));
    // As before there were actions.
    let old = find(&drops(), TCA_ACT_OPTIONS).unwrap().to_vec();
    let filter = written("u32", IPV4, 0, OWN, &[all, attr(TCA_U32_POLICE, &old)]);
    assert_eq!(of(&[filter]).of(IPV4), Some(BOTH));
}

#[test]
fn a_flower_and_a_basic_that_look_at_nothing_take_every_packet() {
    let flower = |looks: &[Vec<u8>]| polices("flower", TCA_FLOWER_ACT, 1, looks);
    let always = [TCA_FLOWER_CLASSID, TCA_FLOWER_KEY_ETH_TYPE, TCA_FLOWER_FLAGS, TCA_FLOWER_IN_HW_COUNT];
    let always = always.map(|kind| attr(kind, &[0; 4]));
    assert_eq!(flower(&always), Some(BOTH));
    // At the destination's address.
    assert_eq!(flower(&[&always[..], &[attr(12, &[0; 4])]].concat()), None);
    let tree = |matches| attr(TCA_BASIC_EMATCHES, &attr(TCA_EMATCH_TREE_HDR, &[matches, 0, 0, 0]));
    let basic = |looks: &[Vec<u8>]| polices("basic", TCA_BASIC_ACT, 1, looks);
    assert_eq!([basic(&[tree(0)]), basic(&[tree(1)]), basic(&[])], [Some(BOTH), None, None]);
    let old = find(&drops(), TCA_ACT_OPTIONS).unwrap().to_vec();
    let filter = written("basic", IPV4, 0, 1, &[tree(0), attr(TCA_BASIC_POLICE, &old)]);
    assert_eq!(of(&[filter]).of(IPV4), Some(BOTH));
}

#[test]
fn each_protocol_has_its_first_filter() {
    let (four, six) = (answer("matchall", IPV4, 0, &[drops()]), answer("matchall", IPV6, 0, &[Vec::new()]));
    let both = of(&[six.clone(), four.clone()]);
    assert_eq!((both.of(IPV4), both.of(IPV6)), (Some(BOTH), None));
    let all = of(&[answer("u32", IPV6, 0, &[]), answer("matchall", ETH_P_ALL, 0, &[drops()]), four]);
    assert_eq!((all.of(IPV4), all.of(IPV6), all.of(0x0806)), (Some(BOTH), None, Some(BOTH)));
    // What is listed of a priority before its filters.
    let title = &six[..six.len() - attr(TCA_OPTIONS, &[0; 20]).len()];
    assert_eq!(of(&[title.to_vec(), six.clone()]).0.len(), 1);
}

#[test]
fn a_policer_that_drops_is_told_from_one_that_does_not() {
    let of = |action, rate, more: &[u8]| policer(&police(action, rate, more));
    let mut without_mtu = police(TC_ACT_SHOT, 1_250_000, &[]);
    // Behind the kind, the titles of the options and of the parameters.
    let at = attr(TCA_ACT_KIND, b"police\0").len() + 4 + 4 + MTU;
    without_mtu[at..at + 4].fill(0);
    assert_eq!(policer(&without_mtu), Some(Policed { mtu: None, ..BOTH }));
    assert_eq!(of(TC_ACT_RECLASSIFY, 1_250_000, &[]), Some(BOTH));
    assert_eq!(of(0, 1_250_000, &[]), None, "`ok`");
    assert_eq!(of(TC_ACT_SHOT, 0, &[]), Some(Policed { burst: None, ..BOTH }), "it counts packets");
    let large = attr(TCA_POLICE_RATE64, &12_500_000_000_u64.to_ne_bytes());
    assert_eq!(of(TC_ACT_SHOT, u32::MAX, &large), Some(Policed { burst: Some(14_000_000), ..BOTH }));
}

#[test]
fn what_is_cut_off_is_nothing() {
    let whole = answer("matchall", IPV4, 0, &[drops()]);
    for length in 0..whole.len() {
        assert_eq!(of(&[whole[..length].to_vec()]).of(IPV4), None, "{length} bytes");
    }
}

#[test]
fn only_clsact_has_filters_of_its_own_on_the_way_out() {
    let qdisc = |kind: &[u8]| [tc::question(7, 0), attr(TCA_KIND, kind)].concat();
    assert_eq!(is_clsact(&qdisc(b"clsact\0"), 7), Some(true));
    assert_eq!(is_clsact(&qdisc(b"clsact\0"), 8), Some(false));
    assert_eq!(is_clsact(&qdisc(b"ingress\0"), 7), Some(false));
}

/// What the kernel is asked for of device 7 below this parent.
fn asked(parent: u32) -> Vec<u8> {
    [&[0; 4][..], &7_u32.to_ne_bytes(), &[0; 4], &parent.to_ne_bytes(), &[0; 4]].concat()
}

#[test]
fn each_side_is_asked_for_its_own_filters() {
    let filters = |parent| (46, asked(parent), vec![answer("matchall", IPV4, 0, &[drops()])]);
    let qdiscs = |kinds: &[&[u8]]| {
        let qdisc = |kind: &&[u8]| [tc::question(7, 0), attr(TCA_KIND, kind)].concat();
        (38, asked(0), kinds.iter().map(qdisc).collect())
    };
    let of = |side, answers: Vec<_>| {
        let policers = listed(&mut Answers(answers), 7, side);
        policers.map(|policers| policers.of(IPV4)).map_err(|error| error.kind())
    };
    assert_eq!(of(Side::Ingress, vec![filters(0xffff_fff2)]), Ok(Some(BOTH)));
    assert_eq!(of(Side::Queue, vec![filters(0)]), Ok(Some(BOTH)));
    let egress = |kinds: &[&[u8]]| of(Side::Egress, vec![qdiscs(kinds), filters(0xffff_fff3)]);
    assert_eq!(egress(&[b"noqueue\0", b"clsact\0", b"fq\0"]), Ok(Some(BOTH)));
    assert_eq!(egress(&[b"ingress\0"]), Ok(None), "the kernel would show what is for the way in");
    assert_eq!(of(Side::Ingress, vec![filters(0)]), Err(io::ErrorKind::NotFound), "of another parent");
}
