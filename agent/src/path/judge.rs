//! What a walk adds up to: which hop, what it takes, how sure that is.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::device::Device;
use super::fix::{send_at_most, shown};
use super::walk::least_mtu;
use super::who::Who;
use super::{Halt, Method, Outcome, Told};
use crate::digits::counted;
use crate::sink::Confidence;

/// What is wrong, as programs may ask for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The path takes all that may leave: what the first device takes, or the route lets it send.
    PathClear,
    /// A hop takes less, and says so.
    SmallHop,
    /// Large packets vanish, and nobody says why.
    BlackHole,
    /// A hop claims what cannot be true.
    AbsurdMtu,
    /// The destination answers nothing.
    Unreachable,
    /// The walk ended before it knew.
    Unfinished,
}

impl Finding {
    /// As lines spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PathClear => "path_clear",
            Self::SmallHop => "small_hop",
            Self::BlackHole => "black_hole",
            Self::AbsurdMtu => "absurd_mtu",
            Self::Unreachable => "unreachable",
            Self::Unfinished => "unfinished",
        }
    }
}

/// Whose path it is.
#[derive(Clone, Debug)]
pub struct About {
    /// Who would send.
    pub who: Who,
    /// The destination as the user named it.
    pub to: String,
    /// Its address.
    pub address: IpAddr,
    /// The first device, and the route by it.
    pub device: Device,
    /// What a plain connection to the port showed, if there is a port.
    pub tcp: Option<Tcp>,
}

/// What a TCP connection showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tcp {
    /// It came about.
    Connects {
        /// Payload bytes of a segment as both ends and the kernel agree.
        mss: Option<u32>,
        /// The path MTU that the kernel reckons with for it.
        path_mtu: Option<u32>,
    },
    /// The destination refused it.
    Refuses,
    /// Nothing came back.
    Silent,
}

/// What a walk adds up to.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// What is wrong.
    pub finding: Finding,
    /// How sure that is.
    pub confidence: Confidence,
    /// The hop in question.
    pub hop: Option<u8>,
    /// Its address.
    pub hop_ip: Option<IpAddr>,
    /// The largest packet that arrives, bytes; absent where the destination answers nothing.
    pub fits: Option<u32>,
    /// What the hop says it takes.
    pub says: Option<u32>,
    /// One sentence for a person.
    pub message: String,
    /// What to set.
    pub fix: Option<String>,
    /// The path takes less than its first device and its route promise, as far as it is known.
    pub is_narrow: bool,
    /// It is known what fits. That nobody answers, or that the walk was cut short, does not say.
    pub is_known: bool,
}

/// Judges a walk.
#[must_use]
pub fn judge(out: &Outcome, about: &About) -> Verdict {
    let told = out.told.last().copied();
    let mut verdict = if let Some(dies) = out.dies {
        black_hole(out, about, dies)
    } else if let Some(told) = told {
        small_hop(out, about, told)
    } else if out.reached && out.passes == Some(out.first) {
        clear(out, about)
    } else if out.reached || out.halt.is_some() {
        unfinished(out, about)
    } else {
        unreachable(out, about)
    };
    if let Some(lie) = out.absurd.first().copied() {
        absurd(&mut verdict, lie, about);
    }
    match &out.halt {
        None => {}
        Some(Halt::Asked) => verdict.message.push_str("; it was interrupted"),
        Some(Halt::Time) => verdict.message.push_str("; the time was up (--timeout)"),
        Some(Halt::Packets) => {
            let _ = write!(verdict.message, "; it ended after {}", counted(out.packets.into(), "packet"));
        }
        Some(Halt::Broken(why)) => {
            let _ = write!(verdict.message, "; it ended because of: {why}");
        }
    }
    verdict
}

fn small_hop(out: &Outcome, about: &About, told: Told) -> Verdict {
    let seen = out.reached && out.passes == Some(told.mtu);
    let place = match (told.hop, told.from) {
        (Some(0), _) | (_, None) => "this host itself".to_owned(),
        // Tunnels under a bridge answer in the name of the far end (net/ipv4/ip_tunnel_core.c).
        (hop, Some(from)) if from == about.address => {
            let hop = hop.map_or("a tunnel".to_owned(), |hop| format!("a tunnel at hop {hop}"));
            format!("{hop}, in the name of {from},")
        }
        (Some(hop), Some(from)) => format!("hop {hop}, {from},"),
        (None, Some(from)) => format!("a hop, {from},"),
    };
    let rest = if seen {
        format!("of {}'s {} bytes to {} only {} fit", about.who.name, out.first, about.to, told.mtu)
    } else {
        format!("{} answers nothing, so what is behind that hop is not known", about.to)
    };
    let confidence = match (seen, told.hop) {
        (true, Some(_)) if is_smooth(out) => Confidence::High,
        (true, _) | (false, Some(_)) => Confidence::Medium,
        (false, None) => Confidence::Low,
    };
    Verdict {
        finding: Finding::SmallHop,
        confidence,
        hop: told.hop,
        hop_ip: told.from,
        fits: Some(told.mtu),
        says: Some(told.mtu),
        message: format!("{place} says {}: {rest}", told.mtu),
        fix: Some(send_at_most(told.mtu, about, None)),
        is_narrow: true,
        is_known: true,
    }
}

fn black_hole(out: &Outcome, about: &About, dies: u32) -> Verdict {
    let passes = out.passes.filter(|passes| *passes < dies);
    let exact = passes.is_some_and(|passes| passes + 1 == dies);
    let packets = if out.only_syns { "SYNs with data" } else { "packets" };
    let over = match passes {
        Some(passes) if exact => format!("{packets} over {passes}"),
        Some(passes) => format!("{packets} of {dies} bytes (and some over {passes})"),
        None => format!("{packets} of {dies} bytes"),
    };
    let edge = out.edge.unwrap_or_default();
    let is_seen = edge.after > 0 || edge.before.is_some();
    let last = address(out, edge.after);
    let place = match (edge.after, edge.before) {
        (0, None) => "on the way, and no hop answers that would tell where".to_owned(),
        (0, Some(1)) => "before the first hop".to_owned(),
        (0, Some(before)) => format!("before {}", named(out, before)),
        (after, Some(before)) if before > after + 1 => {
            format!("between {} and {}", named(out, after), named(out, before))
        }
        (after, _) => format!("after {}", named(out, after)),
    };
    let yet = if out.only_syns {
        format!(
            "; yet an ICMP echo of {} bytes arrives: a rule may drop SYNs that carry data, and nothing else",
            out.first
        )
    } else {
        String::new()
    };
    let adjacent = edge.before.is_none_or(|before| before == edge.after + 1);
    let confidence = match (out.reached && !out.only_syns, exact && is_seen) {
        (true, true) if edge.confirmed && adjacent && is_smooth(out) => Confidence::High,
        (true, true) => Confidence::Medium,
        _ => Confidence::Low,
    };
    let back = if out.method == Some(Method::Echo) {
        " (or their answers, which are as long, on the way back)"
    } else {
        ""
    };
    let arrives = match passes.filter(|_| out.reached) {
        Some(passes) => format!("; {passes} bytes to {} arrive", about.to),
        None => format!("; {} itself answers nothing", about.to),
    };
    let message = out.told.last().map_or(String::new(), |told| {
        let who = told.from.map_or("this host".to_owned(), |from| from.to_string());
        format!("; {who} says {}, and even that does not pass", told.mtu)
    });
    let word = if about.address.is_ipv6() {
        "packet-too-big (ICMPv6 type 2)"
    } else {
        "fragmentation-needed (ICMP type 3 code 4)"
    };
    let has_spoken = out.told.iter().any(|told| told.from.is_some() && told.from == last);
    let who = match last {
        // It has said what it takes itself: another is silent.
        Some(_) if has_spoken => format!("from behind hop {}", edge.after),
        Some(_) => format!("of hop {}", edge.after),
        None => "of the hop in question".to_owned(),
    };
    let until = match (edge.after, edge.before) {
        // No router is there that could say anything.
        (0, Some(1)) => format!("the link to hop 1 takes {} bytes", out.first),
        _ => format!("{word} {who} is let through"),
    };
    // Nothing is too large there, as far as it is known: no MTU would be right.
    let fix = if out.only_syns {
        Some("leave the MTUs as they are; a walk without the port goes by other packets than SYNs".to_owned())
    } else {
        passes.map(|passes| send_at_most(passes, about, Some(&until)))
    };
    let fits = if out.only_syns { Some(out.first) } else { passes.filter(|_| out.reached) };
    Verdict {
        finding: Finding::BlackHole,
        confidence,
        hop: is_seen.then_some(edge.after),
        hop_ip: last,
        fits,
        says: None,
        message: format!("{over} vanish {place}, and nobody says why{back}{arrives}{message}{yet}"),
        fix,
        is_narrow: !out.only_syns,
        is_known: true,
    }
}

fn clear(out: &Outcome, about: &About) -> Verdict {
    let what = if out.first < about.device.mtu {
        "its route lets it send".to_owned()
    } else {
        format!("{} takes", shown(&about.device.name).unwrap_or("its first device"))
    };
    // Other answers are short: downloads may stall all the same.
    let (takes, untried) = match out.method {
        Some(Method::Echo) => ("takes, there and back,", ""),
        _ => ("takes", "; the way back was not tried"),
    };
    Verdict {
        finding: Finding::PathClear,
        confidence: if is_smooth(out) { Confidence::High } else { Confidence::Medium },
        hop: None,
        hop_ip: None,
        fits: out.passes,
        says: None,
        message: format!(
            "the path from {} to {} {takes} {} bytes: all that {what}{untried}",
            about.who.name, about.to, out.first
        ),
        fix: None,
        is_narrow: false,
        is_known: true,
    }
}

fn unreachable(out: &Outcome, about: &About) -> Verdict {
    let far = out.farthest;
    let mut message = format!("{} answers nothing", about.to);
    match (out.passes, far) {
        (Some(passes), 1..) => {
            let _ = write!(
                message,
                "; {passes} bytes come as far as {}, and behind it nobody answers",
                named(out, far)
            );
        }
        _ => message.push_str(", nor does any hop on the way"),
    }
    if let Some((from, why)) = out.refused {
        let who = from.map_or("this host".to_owned(), |from| from.to_string());
        let _ = write!(message, "; {who} {}", why.words());
    }
    if matches!(about.tcp, Some(Tcp::Connects { .. })) && out.method != Some(Method::Syn) {
        message.push_str("; a TCP connection comes about, but its sizes can only be tried with CAP_NET_RAW");
    }
    Verdict {
        finding: Finding::Unreachable,
        confidence: Confidence::Low,
        hop: (far > 0).then_some(far),
        hop_ip: address(out, far),
        fits: None,
        says: None,
        message,
        fix: None,
        is_narrow: false,
        is_known: false,
    }
}

fn unfinished(out: &Outcome, about: &About) -> Verdict {
    let passes = out.passes.filter(|_| out.reached);
    let known = passes.map_or("nothing is known yet".to_owned(), |passes| {
        format!("{passes} bytes arrive, and no more is known")
    });
    Verdict {
        finding: Finding::Unfinished,
        confidence: Confidence::Low,
        hop: None,
        hop_ip: None,
        fits: passes,
        says: None,
        message: format!("on the path from {} to {} {known}", about.who.name, about.to),
        fix: None,
        is_narrow: false,
        is_known: false,
    }
}

/// Somebody claimed what cannot be: that leads, and what was found without it follows.
fn absurd(verdict: &mut Verdict, lie: Told, about: &About) {
    let least = least_mtu(about.address.is_ipv6());
    let who = lie.from.map_or("this host".to_owned(), |from| from.to_string());
    let why = if lie.mtu < least {
        format!("no link may take less than {least}")
    } else if lie.mtu >= lie.size {
        format!("that of a packet of {} bytes", lie.size)
    } else {
        "and more than that arrives".to_owned()
    };
    let claim =
        format!("{who} claims to take {} bytes, {why}: a broken router, or a forged message", lie.mtu);
    // What is wrong with the path all the same keeps its name.
    if verdict.finding == Finding::SmallHop {
        let _ = write!(verdict.message, "; {claim}");
        return;
    }
    verdict.finding = Finding::AbsurdMtu;
    verdict.hop_ip = verdict.hop_ip.or(lie.from);
    verdict.says = Some(lie.mtu);
    verdict.message = format!("{claim}; not believed. By trial {}", verdict.message);
}

/// Nothing was lost, and nobody limited answers.
fn is_smooth(out: &Outcome) -> bool {
    out.lost == 0 && out.limited == 0 && out.halt.is_none()
}

fn address(out: &Outcome, hop: u8) -> Option<IpAddr> {
    out.hops.get(usize::from(hop).checked_sub(1)?)?.address
}

/// `hop 2 (10.0.7.1)`.
fn named(out: &Outcome, hop: u8) -> String {
    match (hop, address(out, hop)) {
        (0, _) => "this host".to_owned(),
        (_, Some(address)) => format!("hop {hop} ({address})"),
        (_, None) => format!("hop {hop}"),
    }
}
