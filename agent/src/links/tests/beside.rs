//! Answers of IPsec and `WireGuard`, as the kernel makes them: what is kept of them, and that no key is.

use super::super::beside::snmp;
use super::super::ipsec::{Esp, policy, state};
use super::super::wireguard::endpoints;
use super::{attribute, number};

const KEY: [u8; 20] = [0xa5; 20];

fn put(message: &mut [u8], at: usize, bytes: &[u8]) {
    message[at..at + bytes.len()].copy_from_slice(bytes);
}

/// A policy to 10.2.0.0/24 by these templates of 64 bytes.
fn of_policy(direction: u8, templates: &[u8]) -> Vec<u8> {
    let mut message = vec![0; 168];
    put(&mut message, 0, &[10, 2, 0, 0]);
    put(&mut message, 16, &[10, 1, 0, 0]);
    put(&mut message, 40, &2_u16.to_ne_bytes());
    put(&mut message, 42, &[24, 16]);
    message[160] = direction;
    [message, attribute(5, templates), number(31, 9)].concat()
}

fn template(protocol: u8, mode: u8) -> Vec<u8> {
    let mut template = vec![0; 64];
    put(&mut template, 0, &[10, 9, 0, 2]);
    template[20] = protocol;
    put(&mut template, 24, &2_u16.to_ne_bytes());
    put(&mut template, 28, &[10, 9, 0, 1]);
    put(&mut template, 44, &5_u32.to_ne_bytes());
    template[48] = mode;
    template
}

#[test]
fn a_policy_of_packets_that_leave() {
    let one = policy(&of_policy(1, &template(50, 1))).unwrap();
    assert_eq!(
        (one.source.to_string().as_str(), one.destination.to_string().as_str()),
        ("10.1.0.0/16", "10.2.0.0/24")
    );
    assert_eq!((one.local, one.peer), (Some([10, 9, 0, 1].into()), Some([10, 9, 0, 2].into())));
    assert_eq!((one.is_tunnel, one.reqid, one.if_id, one.mark), (true, 5, 9, (0, 0)));
    assert_eq!(policy(&of_policy(0, &template(50, 1))), None, "of packets that come");
    for other in [template(51, 1), template(50, 0), [template(50, 1), template(51, 1)].concat()] {
        assert!(!policy(&of_policy(1, &other)).unwrap().is_tunnel, "AH, transport, and two at once");
    }
}

/// A state with these algorithms.
fn of_state(family: u16, mode: u8, attributes: &[Vec<u8>]) -> Vec<u8> {
    let mut message = vec![0; 224];
    put(&mut message, 56, &[10, 9, 0, 2]);
    message[76] = 50;
    put(&mut message, 80, &[10, 9, 0, 1]);
    put(&mut message, 212, &family.to_ne_bytes());
    message[214] = mode;
    [message, attributes.concat()].concat()
}

fn algorithm(kind: u16, name: &str, bits: u32) -> Vec<u8> {
    let mut value = vec![0; 64];
    put(&mut value, 0, name.as_bytes());
    attribute(kind, &[&value[..], &160_u32.to_ne_bytes(), &bits.to_ne_bytes(), &KEY].concat())
}

/// Numbers of the kernel's own sum, `__xfrm_state_mtu`.
#[test]
fn what_esp_adds() {
    let esp = |family, mode, attributes: &[Vec<u8>]| state(&of_state(family, mode, attributes)).unwrap().esp;
    let gcm = || algorithm(18, "rfc4106(gcm(aes))", 128);
    let plain = esp(2, 1, &[gcm()]).unwrap();
    assert_eq!(plain, Esp { before: 20 + 8 + 8, proof: 16, block: 4 });
    assert_eq!([plain.fits(1400), plain.fits(1500), plain.fits(0)], [1346, 1446, 0]);
    assert_eq!(esp(10, 1, &[gcm()]).unwrap().fits(1400), 1326, "in IPv6");
    let udp = attribute(4, &[&2_u16.to_ne_bytes()[..], &[0; 22]].concat());
    assert_eq!(esp(2, 1, &[gcm(), udp]).unwrap().fits(1400), 1338, "in UDP");
    let cbc = [algorithm(2, "cbc(aes)", 0), algorithm(20, "hmac(sha256)", 128)];
    assert_eq!(esp(2, 1, &cbc).unwrap().fits(1500), 1438);
    assert_eq!(esp(2, 1, &[algorithm(18, "new(cipher)", 128)]), None, "not known");
    assert_eq!(esp(2, 1, &[gcm(), attribute(4, &7_u16.to_ne_bytes())]), None, "in TCP");
    let kept = format!("{:?}", state(&of_state(2, 1, &[gcm()])));
    assert!(!kept.contains(&KEY[0].to_string()), "{kept}");
    let marked =
        state(&of_state(2, 1, &[attribute(21, &[7_u32.to_ne_bytes(), u32::MAX.to_ne_bytes()].concat())]));
    assert_eq!(marked.unwrap().mark, (7, u32::MAX));
}

#[test]
fn where_peers_are() {
    let key = || attribute(1, &[0xa5; 32]);
    let v4 = attribute(4, &[&2_u16.to_ne_bytes()[..], &[0xca, 0x6c], &[10, 0, 0, 2], &[0; 8]].concat());
    let v6 = attribute(4, &[&10_u16.to_ne_bytes()[..], &[0; 6], &[0xfd; 16], &[0; 4]].concat());
    let peers = |peers: &[Vec<u8>]| {
        let nested: Vec<u8> = peers.iter().flat_map(|peer| attribute(0x8000, peer)).collect();
        [&[0, 1, 0, 0][..], &attribute(3, &[0xa5; 32]), &attribute(0x8008, &nested)].concat()
    };
    let mut all = Vec::new();
    endpoints(&peers(&[[key(), v4].concat(), key()]), &mut all);
    assert_eq!(all, [Some([10, 0, 0, 2].into()), None]);
    // The rest of the last one's networks, and one more.
    endpoints(&peers(&[key(), [key(), v6].concat()]), &mut all);
    assert_eq!((all.len(), all[2].unwrap().is_ipv6()), (3, true));
    endpoints(&[], &mut all);
    endpoints(&[0, 1, 0, 0], &mut all);
    assert_eq!(all.len(), 3);
}

#[test]
fn fragments_that_were_made() {
    let text = "Ip: Forwarding FragOKs FragCreates\nIp: 1 2 5\nIcmp: InMsgs\nIcmp: 9\n";
    assert_eq!(snmp(text), Some(5));
    assert_eq!(snmp("Ip: Forwarding\nIp: 1\n"), None);
    assert_eq!(snmp(""), None);
}
