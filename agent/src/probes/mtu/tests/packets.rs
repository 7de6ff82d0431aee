//! Whose packets a record is about, and what it quotes of them.

use std::sync::Arc;

use super::*;
use crate::pod::Pod;

fn named(name: &str) -> Arc<Pod> {
    Arc::new(Pod { namespace: "shop".into(), name: name.into(), uid: name.into() })
}

pub(super) fn nobody() -> Pods {
    Pods::default()
}

pub(super) fn web() -> Pods {
    Pods { source: Some(named("web")), destination: None }
}

/// The sender is elsewhere.
pub(super) fn db() -> Pods {
    Pods { source: None, destination: Some(named("db")) }
}

/// UDP `fd00::a` port 40000 to `fd00::b` port 443, 1,448 bytes.
pub(super) fn six(record: &MtuRecord) -> MtuRecord {
    let mut record = *record;
    record.header = [0; HEADER];
    record.header[..8].copy_from_slice(&[0x60, 0, 0, 0, 5, 0x80, 17, 64]);
    (record.header[8], record.header[23], record.header[24], record.header[39]) = (0xfd, 0xa, 0xfd, 0xb);
    record.header[40..44].copy_from_slice(&[0x9c, 0x40, 0x01, 0xbb]);
    record.sender = [0xfd, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    MtuRecord { ip_version: 6, header_len: 48, ..record }
}

/// The same by TCP.
pub(super) fn tcp_by_six(record: &MtuRecord) -> MtuRecord {
    let mut record = six(record);
    record.header[6] = 6;
    record
}

/// The packet between nodes 192.0.2.1 and 192.0.2.2, of this protocol, around `inside`.
pub(super) fn outer(record: &MtuRecord, protocol: u8, inside: &[&[u8]]) -> MtuRecord {
    let mut header = vec![0x45, 0, 5, 0xdc, 0, 1, 0x40, 0, 64, protocol, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2];
    header.extend(inside.concat());
    let mut record = MtuRecord { header: [0; HEADER], ..*record };
    record.header[..header.len()].copy_from_slice(&header);
    record.header_len = u8::try_from(header.len()).unwrap();
    record
}

/// The packet in VXLAN between nodes.
pub(super) fn in_vxlan(record: &MtuRecord) -> MtuRecord {
    let udp = [0x80, 0, 0x21, 0x18, 0, 0, 0, 0];
    let frame = [8, 0, 0, 0, 0, 0, 1, 0, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 8, 0];
    outer(record, 17, &[&udp, &frame, &PACKET])
}
