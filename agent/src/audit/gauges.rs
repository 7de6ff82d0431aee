//! The last reading as metrics: the MTU of each of the node's interfaces, of each pod, and what does not fit.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use super::overlay::{At, Judgement};
use crate::links::Namespace;
use crate::pod::Pod;
use crate::sink::escape;

/// Interfaces that have a series; a node has less than a dozen that are not veths.
const MAX_INTERFACES: usize = 128;

/// The numbers of the last reading; a clone is another handle to the same.
#[derive(Clone, Debug, Default)]
pub struct Gauges(Arc<Mutex<Option<Numbers>>>);

/// What of one reading is kept.
#[derive(Debug)]
struct Numbers {
    interfaces: Vec<Interface>,
    left_out: usize,
    pods: Vec<(Arc<Pod>, u32)>,
    /// Learned path MTUs of IPv4 and IPv6; `None` where they could not be read.
    learned: Option<[usize; 2]>,
    /// What is not judged for good, and what was not read.
    gaps: [usize; 2],
}

#[derive(Debug)]
struct Interface {
    name: String,
    kind: String,
    mtu: u32,
    /// Bytes that it is too large; `None` where nothing carries it, or what does is not known.
    mismatch: Option<u32>,
}

impl Gauges {
    /// Takes the numbers of a reading.
    pub(super) fn take(&self, read: &[Namespace], judgement: &Judgement) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(numbers(read, judgement));
    }
}

fn numbers(read: &[Namespace], judgement: &Judgement) -> Numbers {
    let host = read.first();
    let links = host.into_iter().flat_map(|host| &host.links).filter(|link| link.kind != "veth");
    let mut interfaces: Vec<Interface> = links
        .map(|link| Interface {
            // Of a label nothing but quotes and newlines is escaped by who writes it.
            name: escape::text(&link.name).into_owned(),
            kind: escape::text(&link.kind).into_owned(),
            mtu: link.mtu,
            mismatch: judgement
                .sums
                .get(&At { namespace: 0, index: link.index })
                .map(|sum| if link.up { link.mtu.saturating_sub(sum.fits) } else { 0 }),
        })
        .collect();
    let left_out = interfaces.len().saturating_sub(MAX_INTERFACES);
    interfaces.truncate(MAX_INTERFACES);
    let pods = read.iter().filter_map(|namespace| {
        let carrying = namespace.links.iter().filter(|link| link.up && !link.loopback);
        Some((Arc::clone(namespace.owner.as_ref()?), carrying.map(|link| link.mtu).min()?))
    });
    let mut pods: Vec<_> = pods.collect();
    // A pod that comes back under its name while the first still ends has the same series, which a scrape may hold once.
    pods.sort_by(|(one, mtu), (next, other)| {
        (&one.namespace, &one.name, mtu).cmp(&(&next.namespace, &next.name, other))
    });
    pods.dedup_by(|(next, _), (one, _)| (&next.namespace, &next.name) == (&one.namespace, &one.name));
    let learned = host.and_then(|host| host.exceptions.as_ref()).map(|learned| {
        let v6 = learned.iter().filter(|one| one.destination.is_ipv6()).count();
        [learned.len() - v6, v6]
    });
    let not_read = judgement.not_judged.iter().filter(|one| one.unread).count();
    let unread = read.iter().map(|namespace| namespace.unread.len()).sum::<usize>() + not_read;
    let gaps = [judgement.not_judged.len() - not_read + judgement.more_not_judged, unread];
    Numbers { interfaces, left_out, pods, learned, gaps }
}

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let numbers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(numbers) = numbers.as_ref() else { return Ok(()) };
        let left_out = encoder.encode_descriptor(
            "interfaces_left_out",
            "Interfaces of the host beyond the 128 that have a series",
            None,
            MetricType::Gauge,
        )?;
        ConstGauge::new(u32::try_from(numbers.left_out).unwrap_or(u32::MAX)).encode(left_out)?;
        let mut family = |name: &str, help: &str, unit: Option<Unit>, rows: &[(&[(&str, &str)], usize)]| {
            let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
            for (labels, value) in rows {
                let value = ConstGauge::new(u32::try_from(*value).unwrap_or(u32::MAX));
                value.encode(family.encode_family(labels)?)?;
            }
            Ok::<(), fmt::Error>(())
        };
        let labels: Vec<_> = numbers
            .interfaces
            .iter()
            .map(|one| [("interface", one.name.as_str()), ("kind", one.kind.as_str())])
            .collect();
        let rows = |value: fn(&Interface) -> Option<u32>| {
            let rows = labels.iter().zip(&numbers.interfaces);
            rows.filter_map(|(labels, one)| Some((labels.as_slice(), value(one)? as usize)))
                .collect::<Vec<_>>()
        };
        family(
            "interface_mtu",
            "MTU of each interface of the host that is not a veth",
            Some(Unit::Bytes),
            &rows(|one| Some(one.mtu)),
        )?;
        family(
            "mtu_overlay_mismatch",
            "Bytes by which a tunnel's MTU is larger than what fits through what carries it; 0 where it fits",
            Some(Unit::Bytes),
            &rows(|one| one.mismatch),
        )?;
        let pods: Vec<_> = numbers
            .pods
            .iter()
            .map(|(pod, mtu)| {
                ([("namespace", pod.namespace.as_str()), ("pod", pod.name.as_str())], *mtu as usize)
            })
            .collect();
        let pods: Vec<_> = pods.iter().map(|(labels, mtu)| (labels.as_slice(), *mtu)).collect();
        family(
            "pod_interface_mtu",
            "Smallest MTU of a pod's interfaces that are up",
            Some(Unit::Bytes),
            &pods,
        )?;
        let [design, unread] = numbers.gaps;
        family(
            "mtu_not_judged",
            "Interfaces, IPsec policies and parts of namespaces that the audit of MTUs says nothing of, and why",
            None,
            &[(&[("why", "design")], design), (&[("why", "unread")], unread)],
        )?;
        let Some([v4, v6]) = numbers.learned else { return Ok(()) };
        family(
            "mtu_path_exceptions",
            "Path MTUs that the host's route caches have learned",
            None,
            &[(&[("family", "ipv4")], v4), (&[("family", "ipv6")], v6)],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::overlay::{NotJudged, judge};
    use crate::links::{Encapsulation, Exception, Link, NetnsId, Tunnel};
    use crate::metrics::{Format, Metrics};

    fn reading() -> Vec<Namespace> {
        let tunnel = Tunnel { underlay: Some(1), ..Tunnel::plain(Encapsulation::Vxlan) };
        let learned = Exception { destination: [10, 0, 0, 1].into(), device: 1, mtu: 1400, expires: None };
        let mut links = vec![
            Link::up(1, "eth0", "physical", 1400),
            Link { tunnel: Some(tunnel), ..Link::up(2, "v\x1b\"", "vxlan", 1450) },
            Link::up(3, "cali1", "veth", 1500),
        ];
        links.extend((0..127).map(|index| Link::up(10 + index, &format!("d{index}"), "dummy", 1500)));
        let host = Namespace { links, exceptions: Some(vec![learned]), ..Namespace::default() };
        let owner = Pod { namespace: "shop".to_owned(), name: "web-0".to_owned(), uid: "u".to_owned() };
        let lo = Link { loopback: true, ..Link::up(1, "lo", "loopback", 1000) };
        let pod = Namespace {
            owner: Some(Arc::new(owner)),
            id: Some(NetnsId(1)),
            links: vec![lo, Link::up(2, "eth0", "veth", 1500), Link::up(3, "net1", "macvlan", 1400)],
            ..Namespace::default()
        };
        // The same pod before it was made again, not yet gone.
        let before = Namespace {
            owner: pod.owner.as_ref().map(|owner| Arc::new(Pod { uid: "t".to_owned(), ..Pod::clone(owner) })),
            id: Some(NetnsId(2)),
            links: vec![Link::up(2, "eth0", "veth", 1450)],
            ..Namespace::default()
        };
        vec![host, before, pod]
    }

    #[test]
    fn numbers_are_of_the_last_reading_and_bounded() {
        let gauges = Gauges::default();
        let mut metrics = Metrics::default();
        metrics.registry().register_collector(Box::new(gauges.clone()));
        assert_eq!(metrics.encode(Format::Classic).unwrap(), "", "nothing was read yet");
        let read = reading();
        gauges.take(&read, &judge(&read));
        let text = metrics.encode(Format::Classic).unwrap();
        let series = |name: &str| text.lines().filter(|line| line.starts_with(name)).count();
        assert_eq!(series("r2c_interface_mtu_bytes{"), MAX_INTERFACES, "{text}");
        for line in [
            "# TYPE r2c_interface_mtu_bytes gauge",
            "r2c_interface_mtu_bytes{interface=\"eth0\",kind=\"physical\"} 1400",
            "r2c_interfaces_left_out 1",
            "r2c_mtu_overlay_mismatch_bytes{interface=\"v\\\\x1b\\\"\",kind=\"vxlan\"} 100",
            "r2c_pod_interface_mtu_bytes{namespace=\"shop\",pod=\"web-0\"} 1400",
            "r2c_mtu_not_judged{why=\"design\"} 0",
            "r2c_mtu_not_judged{why=\"unread\"} 0",
            "r2c_mtu_path_exceptions{family=\"ipv4\"} 1",
            "r2c_mtu_path_exceptions{family=\"ipv6\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in {text}");
        }
        assert!(!text.contains("cali1"), "a veth's MTU is its pod's");
        assert_eq!(series("r2c_pod_interface_mtu_bytes{"), 1, "a series stands once in a scrape: {text}");
    }

    #[test]
    fn what_was_learned_and_what_is_missing_is_counted_by_its_kind() {
        let mut read = reading();
        let learned = |text: &str| Exception {
            destination: text.parse().unwrap(),
            device: 1,
            mtu: 1400,
            expires: None,
        };
        read[0].exceptions = Some(["10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1"].map(learned).to_vec());
        let unread = |what| crate::links::Unread { what, why: "w".to_owned() };
        read[0].unread = vec![unread("routes")];
        read[1].unread = vec![unread("routes"), unread("links")];
        let not = |unread| NotJudged {
            owner: None,
            subject: "s".to_owned(),
            kind: "k".to_owned(),
            why: "w".into(),
            unread,
        };
        let judgement = Judgement {
            not_judged: vec![not(false), not(false), not(false), not(false), not(true)],
            more_not_judged: 20,
            ..Judgement::default()
        };
        let numbers = numbers(&read, &judgement);
        assert_eq!(numbers.learned, Some([3, 1]));
        assert_eq!(numbers.gaps, [24, 4]);
    }
}
