//! Numbers that this version has no word for: nothing is said of them that may be false.

use agent_common::mtu::{Fate, Kind, MtuKey, MtuRecord};

use super::{decoder, record};
use crate::probe::counts::Rows as _;
use crate::probe::{DecodeError, Evidence as _, Pods, Value};
use crate::probes::mtu::hooks::has_error;
use crate::probes::mtu::labels::MtuRows;
use crate::probes::mtu::words;

fn decoded(record: &MtuRecord) -> Result<(Kind, Fate), DecodeError> {
    // SAFETY: a record is integers without padding.
    let bytes =
        unsafe { std::slice::from_raw_parts((&raw const *record).cast::<u8>(), size_of::<MtuRecord>()) };
    decoder().decode(bytes).map(|event| (event.kind, event.fate))
}

#[test]
fn a_record_of_an_unknown_kind_or_fate_says_which() {
    let known = record(Kind::Received, 1400);
    assert_eq!(decoded(&known), Ok((Kind::Received, Fate::Unknown)));
    for number in [0, 9, 255] {
        let unknown = DecodeError::Unknown { what: "kind", number };
        assert_eq!(decoded(&MtuRecord { kind: number, ..known }), Err(unknown));
    }
    let error = decoded(&MtuRecord { fate: 15, ..known }).unwrap_err();
    assert_eq!(error.to_string(), "a record whose fate is 15, which this version does not know");
}

/// What is counted under such numbers is counted, and as nothing else.
#[test]
fn a_row_of_an_unknown_kind_or_fate_is_another() {
    let labels = |kind, fate| {
        let key = MtuKey { kind, fate, ip_version: 4, ..MtuKey::default() };
        format!("{:?}", MtuRows.labels(&MtuRows::kind(&key)))
    };
    assert!(labels(Kind::Received as u8, 15).contains("fate: None"), "{}", labels(2, 15));
    assert!(labels(9, 1).contains("kind: None"), "{}", labels(9, 1));
    assert_ne!(labels(2, 15), labels(2, 0));
}

/// What is lost, stalled or incomplete is judged elsewhere: here it would be called a message that was received, or a path that is known.
#[test]
fn what_has_a_judge_of_its_own_has_none_here() {
    for kind in Kind::ALL {
        let judged = words::judge(&super::event(&record(kind, 1400)), &Pods::default(), 0, None);
        assert_eq!(
            judged.is_none(),
            matches!(kind, Kind::Lost | Kind::Stalled | Kind::Incomplete),
            "{kind:?}"
        );
    }
}

/// The kernel makes messages about what it has misread (`ip6ip6_err` of what FOU carries): no device takes too little for that.
#[test]
fn what_is_no_packet_is_no_cause() {
    let garbage = MtuRecord { ip_version: 0, header_len: 0, ..record(Kind::Made, 1360) };
    let (mut findings, pods) = (super::Findings::default(), Pods::default());
    findings.add(&super::event(&garbage), &pods);
    assert!(findings.verdict().is_none());
    findings.add(&super::event(&super::fated(Kind::Received, Fate::Delivered, 1400)), &pods);
    assert_eq!(findings.verdict().unwrap().fields[0].1, Value::Text("small_hop".into()));
}

/// Of a family that is not known no number is absurd: which is the least, nobody knows.
#[test]
fn an_unknown_family_has_no_least_mtu() {
    let small = record(Kind::Received, 60);
    assert!(super::event(&small).absurd().is_some());
    assert!(super::event(&MtuRecord { ip_version: 0, ..small }).absurd().is_none());
}

/// The prototype says whether there is an error to read, not the version.
#[test]
fn an_error_is_read_where_the_tracepoint_has_one() {
    let args = |args: &[&str]| args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>();
    let [socket, packet] = ["const struct sock *", "const struct sk_buff *"];
    assert!(!has_error(&args(&[socket, packet])));
    assert!(has_error(&args(&[socket, packet, "int"])));
    assert!(!has_error(&args(&[socket, packet, "enum skb_drop_reason"])), "another argument is no error");
    assert!(!has_error(&[]));
}
