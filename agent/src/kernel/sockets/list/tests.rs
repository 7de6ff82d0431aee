//! What is read from lists of sockets as the kernel prints them, and from others.

use super::*;

const LIST: &str = "  sl  local_address rem_address   st tx_queue rx_queue\n\
    \x20  0: 0200010A:1F90 00000000:0000 0A 00000000:00000000\n\
    \x20  1: 0200010A:B876 0A00600A:1538 02 00000000:00000000\n\
    \x20  2: 0200010A:B877 0A00600A:1538 01 00000000:00000000\n";

#[test]
#[cfg(target_endian = "little")]
fn a_socket_that_waits_for_another_is_found() {
    let answer = |text: &str| text.parse().unwrap();
    let expected =
        |local, from| expected(sockets(LIST), local, answer(from), true).map(|peer| peer.to_string());
    assert_eq!(expected(0xb876, "10.1.0.3:5432").as_deref(), Some("10.96.0.10:5432"));
    assert_eq!(expected(0xb876, "10.96.0.10:5432"), None, "that is whom it asked");
    assert_eq!(expected(0xb876, "10.1.0.3:8080").as_deref(), Some("10.96.0.10:5432"), "a service's pod");
    assert_eq!(expected(0xb877, "10.1.0.3:5432").as_deref(), Some("10.96.0.10:5432"));
    assert_eq!(expected(0xb877, "10.1.0.3:8080"), None, "it has its connection: that is an earlier one's");
    assert_eq!(expected(8080, "10.1.0.3:5432"), None, "it listens");
    let list = LIST.replace(" 02 ", " 01 ");
    let of_udp = super::expected(sockets(&list), 0xb876, answer("10.1.0.3:8080"), false);
    assert!(of_udp.is_some(), "a socket of UDP that has a peer waits for it alone");
}

/// A connection that is made and whose segments are sent again, to that peer; not one that is being made, or that waits for nothing.
#[test]
#[cfg(target_endian = "little")]
fn connections_that_are_stuck_are_found() {
    let line = |port: u16, peer: &str, state: &str, retransmits: u32| {
        format!(
            "   0: 0200010A:{port:04X} {peer}:1388 {state} 00030D40:00000000 01:00000A2C {retransmits:08X}     0        0 42 3\n"
        )
    };
    let list = [
        line(1, "0100080A", "01", 3),
        line(2, "0100080A", "04", 12),
        line(3, "0100080A", "01", 0),
        line(4, "0200080A", "01", 3),
        line(5, "0100080A", "02", 3),
        line(6, "0100080A", "03", 3),
    ];
    let found = |text: &str| stuck(sockets(text), "10.8.0.1".parse().unwrap());
    let wanted = [(1, 3), (2, 12)].map(|(port, retransmits)| Stuck { ports: (port, 5000), retransmits });
    assert_eq!(*found(&format!("title\n{}", list.concat())), wanted);
    assert_eq!(*found(LIST), [], "lines that are cut off");
    let many: String = (0..100).map(|port| line(port, "0100080A", "01", 1)).collect();
    assert_eq!(found(&format!("title\n{many}")).len(), MAX_STUCK);
}

#[test]
fn a_line_that_makes_no_sense_is_none() {
    for line in
        ["", "x", "0: a b c", "0: 0200010A:B876 0A00600A 02", "0: :: :: ::", "0: 0200010A:FFFFF é:1 02"]
    {
        assert_eq!(sockets(&format!("title\n{line}\n")).count(), 0, "{line}");
    }
}

/// A list of sockets without peers.
#[cfg(target_endian = "little")]
fn list(bound: &[(&str, u16, &str)]) -> String {
    let hex = |ip: IpAddr| -> String {
        let bytes = match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let words = bytes.chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap()));
        words.map(|word| format!("{word:08X}")).collect::<Vec<_>>().concat()
    };
    let lines = bound.iter().map(|(ip, port, state)| {
        let ip: IpAddr = ip.parse().unwrap();
        let any = if ip.is_ipv4() { "0.0.0.0" } else { "::" }.parse().unwrap();
        format!("0: {}:{port:04X} {}:0000 {state} 0\n", hex(ip), hex(any))
    });
    format!("title\n{}", lines.collect::<String>())
}

/// A program that listens at another address is why a port looks closed, and one that would take it speaks against that.
#[test]
#[cfg(target_endian = "little")]
fn where_a_program_listens_instead_is_found() {
    let listener = |bound: &[(&str, u16, &str)], to: &str| {
        listener(sockets(&list(bound)), to.parse().unwrap(), true).map(|at| at.to_string())
    };
    let to = "10.1.0.2:8080";
    assert_eq!(listener(&[("127.0.0.1", 8080, "0A")], to).as_deref(), Some("127.0.0.1:8080"));
    assert_eq!(listener(&[("127.0.0.1", 8081, "0A")], to), None, "another port");
    assert_eq!(listener(&[("127.0.0.1", 8080, "07")], to), None, "it does not listen");
    let both = [("::1", 8080, "0A"), ("127.0.0.1", 8080, "0A")];
    assert_eq!(listener(&both, to).as_deref(), Some("127.0.0.1:8080"), "of its own family first");
    assert_eq!(listener(&both, "[fd00::2]:8080").as_deref(), Some("[::1]:8080"));
    for takes in ["10.1.0.2", "0.0.0.0"] {
        let all = [("127.0.0.1", 8080, "0A"), (takes, 8080, "0A"), ("::", 8080, "0A")];
        assert_eq!(listener(&all, to), Some(format!("{takes}:8080")), "it would take it");
    }
    assert_eq!(listener(&[("::", 8080, "0A")], to).as_deref(), Some("[::]:8080"));
    let list = list(&[("127.0.0.1", 53, "07")]);
    let of_udp = super::listener(sockets(&list), "10.1.0.2:53".parse().unwrap(), false);
    assert_eq!(of_udp, Some(([127, 0, 0, 1], 53).into()));
    let connected = list.replace(" 00000000:0000 ", " 0A00600A:0035 ");
    assert_ne!(connected, list);
    let of_one = super::listener(sockets(&connected), "10.1.0.2:53".parse().unwrap(), false);
    assert_eq!(of_one, None, "it takes what one peer sends");
}

#[test]
#[cfg(target_endian = "little")]
fn a_few_ports_where_programs_listen_are_told() {
    let told = |bound: &[(&str, u16, &str)], to: &str| {
        ports(sockets(&list(bound)), to.parse().unwrap()).map(|ports| ports.to_vec())
    };
    let bound = [
        ("0.0.0.0", 8080, "0A"),
        ("10.1.0.2", 7000, "0A"),
        ("127.0.0.1", 7001, "0A"),
        ("::", 9090, "0A"),
        ("::", 8080, "0A"),
        ("fd00::2", 7002, "0A"),
        ("0.0.0.0", 7003, "01"),
    ];
    assert_eq!(told(&bound, "10.1.0.2"), Some(vec![7000, 8080, 9090]));
    assert_eq!(told(&bound, "fd00::2"), Some(vec![7002, 8080, 9090]));
    assert_eq!(told(&bound[2..3], "10.1.0.2"), None, "one that takes nothing from outside");
    let many: Vec<_> = (1..=6).map(|port| ("0.0.0.0", port, "0A")).collect();
    assert_eq!(told(&many[..5], "10.1.0.2").map(|ports| ports.len()), Some(5));
    assert_eq!(told(&many, "10.1.0.2"), None, "a host's");
}
