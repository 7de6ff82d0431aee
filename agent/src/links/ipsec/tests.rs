//! Which policy decides of a packet, which states are a policy's, and what each algorithm adds.

use super::*;

fn ip(last: u8) -> IpAddr {
    [10, 9, 0, last].into()
}

/// A tunnel for all that goes from 10.1.0.0/16 to 10.2.0.0/16.
fn tunnel() -> Policy {
    Policy {
        wraps: true,
        priority: 100,
        is_partial: false,
        source: "10.1.0.0/16".parse().unwrap(),
        destination: "10.2.0.0/16".parse().unwrap(),
        local: Some(ip(1)),
        peer: Some(ip(2)),
        is_tunnel: true,
        reqid: 5,
        if_id: 0,
        mark: (0, 0),
    }
}

/// One of its states, which adds so much.
fn made_with(before: u32) -> State {
    let esp = Some(Esp { before, proof: 16, block: 4 });
    State { local: Some(ip(1)), peer: ip(2), reqid: 5, if_id: 0, mark: (0, 0), tunnel: true, esp }
}

#[test]
fn a_policys_states_are_those_of_its_tunnel() {
    let belongs = |policy: &Policy, state: &State| {
        Ipsec { states: vec![state.clone()], ..Ipsec::default() }.states_of(policy).next().is_some()
    };
    let (policy, state) = (tunnel(), made_with(36));
    assert!(belongs(&policy, &state));
    for (what, other) in [
        ("transport", State { tunnel: false, ..state.clone() }),
        ("another peer", State { peer: ip(3), ..state.clone() }),
        ("another device", State { if_id: 1, ..state.clone() }),
        ("another mark", State { mark: (7, u32::MAX), ..state.clone() }),
        ("another number", State { reqid: 6, ..state.clone() }),
        ("another end", State { local: Some(ip(3)), ..state.clone() }),
    ] {
        assert!(!belongs(&policy, &other), "{what}");
    }
    let any_number = Policy { reqid: 0, ..policy.clone() };
    assert!(belongs(&any_number, &State { reqid: 6, ..state.clone() }));
    let any_end = Policy { local: None, ..policy };
    assert!(belongs(&any_end, &State { local: Some(ip(3)), ..state }));
}

#[test]
fn the_policy_that_decides_says_what_a_packet_is_wrapped_in() {
    let of = |policies: &[Policy]| {
        let states = vec![made_with(60), made_with(36), State { peer: ip(3), ..made_with(20) }];
        let ipsec = Ipsec { policies: policies.to_vec(), states, cut: false };
        ipsec.wrapping([10, 1, 0, 1].into(), [10, 2, 0, 1].into())
    };
    let is = |policy: &Policy| Some(Wrapping { policy: policy.clone(), adds: Some(36 + 2 + 16) });
    assert_eq!(of(&[tunnel()]), is(&tunnel()), "the state that adds least");
    assert_eq!(of(&[]), None);
    for (what, other) in [
        ("from elsewhere", Policy { source: "10.7.0.0/16".parse().unwrap(), ..tunnel() }),
        ("to elsewhere", Policy { destination: "10.7.0.0/16".parse().unwrap(), ..tunnel() }),
        ("of a device", Policy { if_id: 1, ..tunnel() }),
    ] {
        assert_eq!(of(std::slice::from_ref(&other)), None, "{what}");
        let before = Policy { priority: 1, ..other };
        assert_eq!(of(&[before, tunnel()]), is(&tunnel()), "{what} decides nothing here");
    }
    for (what, other) in [
        ("no tunnel", Policy { is_tunnel: false, ..tunnel() }),
        ("of some packets", Policy { is_partial: true, ..tunnel() }),
        ("of a mark", Policy { mark: (7, 7), ..tunnel() }),
    ] {
        assert_eq!(of(&[Policy { priority: 99, ..other.clone() }, tunnel()]), None, "{what} decides before");
        assert_eq!(of(&[tunnel(), other.clone()]), None, "{what} may decide");
        assert_eq!(of(&[tunnel(), Policy { priority: 101, ..other }]), is(&tunnel()), "{what} comes later");
    }
    let narrow = Policy { destination: "10.2.0.0/24".parse().unwrap(), ..tunnel() };
    assert_eq!(of(&[tunnel(), narrow.clone(), tunnel()]), is(&narrow));
    let unknown = Policy { peer: Some(ip(9)), ..tunnel() };
    assert_eq!(of(std::slice::from_ref(&unknown)), Some(Wrapping { policy: unknown, adds: None }));
    let cut = Ipsec { policies: vec![tunnel()], states: vec![made_with(36)], cut: true };
    assert_eq!(cut.wrapping([10, 1, 0, 1].into(), [10, 2, 0, 1].into()), None, "one was not read");
}

/// As `/proc/net/netlink` lists them: to ask where none is would load the module.
#[test]
fn the_kernels_own_socket_shows_that_it_answers() {
    const TITLE: &str = "sk               Eth Pid        Groups   Rmem Wmem\n";
    for (line, wanted) in [
        ("0000000012345678 6   0          00000000 0        0", true),
        ("0000000012345678 6   1234       00000000 0        0", false),
        ("0000000012345678 0   0          00000000 0        0", false),
        ("", false),
    ] {
        let sockets = format!("{TITLE}0000000000000001 16  0          00000000 0        0\n{line}\n");
        assert_eq!(has_its(&sockets), wanted, "{line}");
    }
}

#[test]
fn no_more_are_kept_than_there_is_room_for() {
    let mut kept = vec![0; 4094];
    assert!(keep(&mut kept, Some(1)) && keep(&mut kept, None));
    assert!(!keep(&mut kept, Some(2)));
    assert_eq!((kept.len(), &kept[4094..]), (4096, &[1, 2][..]));
}

fn put(message: &mut [u8], at: usize, bytes: &[u8]) {
    message[at..at + bytes.len()].copy_from_slice(bytes);
}

/// A policy of packets that leave, without templates.
fn of_policy() -> Vec<u8> {
    let mut message = vec![0; 168];
    put(&mut message, 40, &2_u16.to_ne_bytes());
    put(&mut message, 152, &77_u32.to_ne_bytes());
    message[160] = 1;
    message
}

#[test]
fn a_policy_of_some_packets_only_is_told_by_its_masks() {
    let everywhere = "0.0.0.0/0".parse().unwrap();
    let whole = Policy {
        wraps: false,
        priority: 77,
        is_partial: false,
        source: everywhere,
        destination: everywhere,
        local: None,
        peer: None,
        is_tunnel: false,
        reqid: 0,
        if_id: 0,
        mark: (0, 0),
    };
    assert_eq!(policy(&of_policy()), Some(whole.clone()));
    // Masks of both ports, the protocol, the device: each by one bit, at each of its bytes' ends.
    for (at, is_partial) in [
        (33, false),
        (34, true),
        (35, true),
        (36, false),
        (38, true),
        (39, true),
        (44, true),
        (45, false),
        (48, true),
        (51, true),
        (52, false),
    ] {
        let mut message = of_policy();
        message[at] = 1;
        assert_eq!(policy(&message), Some(Policy { is_partial, ..whole.clone() }), "byte {at}");
    }
}

/// A state of this protocol and mode, in IPv4.
fn of_state(protocol: u8, mode: u8, attributes: &[u8]) -> State {
    let mut message = vec![0; 224];
    put(&mut message, 56, &[10, 9, 0, 2]);
    message[76] = protocol;
    put(&mut message, 80, &[10, 9, 0, 1]);
    put(&mut message, 208, &5_u32.to_ne_bytes());
    put(&mut message, 212, &2_u16.to_ne_bytes());
    message[214] = mode;
    state(&[&message, attributes].concat()).unwrap()
}

#[test]
fn only_esp_in_a_known_mode_adds_what_is_known() {
    let esp = |before| Some(Esp { before, proof: 0, block: 4 });
    let wanted = State { esp: esp(28), ..made_with(0) };
    assert_eq!(of_state(50, 1, &[]), wanted);
    assert_eq!(of_state(50, 0, &[]), State { tunnel: false, esp: esp(8), ..wanted.clone() }, "transport");
    assert_eq!(of_state(50, 4, &[]), State { tunnel: false, esp: None, ..wanted.clone() }, "BEET");
    assert_eq!(of_state(51, 1, &[]), State { esp: None, ..wanted }, "AH");
}

#[test]
fn each_cipher_has_its_vector_and_its_block() {
    for (kind, names, vector, block, proof) in [
        (
            18,
            &["rfc4106(gcm(aes))", "rfc4309(ccm(aes))", "rfc4543(gcm(aes))", "rfc7539esp(chacha20,poly1305)"]
                [..],
            8,
            4,
            16,
        ),
        (2, &["cbc(aes)", "cbc(camellia)", "cbc(serpent)", "cbc(twofish)", "cbc(sm4)"], 16, 16, 0),
        (2, &["cbc(des)", "cbc(des3_ede)", "cbc(blowfish)", "cbc(cast5)"], 8, 8, 0),
        (2, &["rfc3686(ctr(aes))"], 8, 4, 0),
        (2, &["ecb(cipher_null)"], 0, 4, 0),
    ] {
        for name in names {
            let mut value = vec![0; 72];
            put(&mut value, 0, name.as_bytes());
            put(&mut value, 68, &128_u32.to_ne_bytes());
            let attribute = [&76_u16.to_ne_bytes()[..], &u16::to_ne_bytes(kind), &value].concat();
            let wanted = Esp { before: 20 + 8 + vector, proof, block };
            assert_eq!(of_state(50, 1, &attribute).esp, Some(wanted), "{name}");
        }
    }
}
