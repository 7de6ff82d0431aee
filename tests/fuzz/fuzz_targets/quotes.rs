//! A packet quoted by anybody, and cut off anywhere, says the same as its whole or less; nothing is guessed.
#![no_main]

use std::net::IpAddr;

use agent_common::quote::{Flow, HEADER, Inner, Quote};
use libfuzzer_sys::fuzz_target;

/// No packet has more of it quoted than a record keeps, and longer ones would only be slower.
const LONGEST: usize = 2 * HEADER;

fuzz_target!(|data: &[u8]| {
    let data = data.get(..LONGEST).unwrap_or(data);
    let whole = Quote::parse(data);
    if let Some(quote) = &whole {
        sound(data, quote);
    }
    for length in 0..data.len() {
        let Some(cut) = Quote::parse(&data[..length]) else { continue };
        let whole = whole.as_ref().expect("more of a packet is a packet too");
        no_more(&cut.flow, &whole.flow);
        if let Some(inner) = &cut.inner {
            let same = whole.inner.as_ref().expect("more of a tunnel's packet is a tunnel's too");
            // Of tunnels in tunnels fewer may be seen.
            assert!(inner.overhead <= same.overhead, "less of it cannot reach deeper");
            if inner.overhead == same.overhead {
                assert_eq!((inner.tunnel, inner.within), (same.tunnel, same.within));
            }
            let there = Quote::parse(&data[usize::from(inner.overhead)..]).expect("it is a packet");
            no_more(&inner.flow, &there.flow);
        }
    }
});

/// What a quote says is in the bytes, where the RFCs have it.
fn sound(data: &[u8], quote: &Quote) {
    sound_flow(data, &quote.flow);
    if let Some(Inner { overhead, flow, .. }) = &quote.inner {
        let inside = data.get(usize::from(*overhead)..).expect("the inner packet is in the outer one");
        assert!(*overhead >= 20, "a tunnel that adds less than its own IP header");
        sound_flow(inside, flow);
        assert_eq!(Quote::parse(inside).map(|inner| inner.flow), Some(*flow), "read alone it is the same");
    }
}

fn sound_flow(data: &[u8], flow: &Flow) {
    let (source, destination) = match data[0] >> 4 {
        4 => (&data[12..16], &data[16..20]),
        _ => (&data[8..24], &data[24..40]),
    };
    assert_eq!(octets(flow.source), source);
    assert_eq!(octets(flow.destination), destination);
    if let Some((from, to)) = flow.ports {
        let ports = [from.to_be_bytes(), to.to_be_bytes()].concat();
        assert!(data[20..].windows(4).any(|window| window == ports), "ports that are nowhere in the packet");
        assert!([6, 17, 33, 132, 136].contains(&flow.protocol), "protocol {} has no ports", flow.protocol);
    }
}

/// A flow read from less says no more, and nothing else. The protocol may be that of a header that was cut off.
fn no_more(less: &Flow, more: &Flow) {
    assert_eq!(
        (less.source, less.destination, less.dont_fragment),
        (more.source, more.destination, more.dont_fragment)
    );
    if less.ports.is_some() {
        assert_eq!((less.ports, less.protocol), (more.ports, more.protocol));
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
