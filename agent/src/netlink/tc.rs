//! Messages about queueing disciplines and filters: `struct tcmsg` of `linux/rtnetlink.h`, and attributes behind it.

/// Asks for queueing disciplines.
pub const RTM_GETQDISC: u16 = 38;
/// Asks for filters.
pub const RTM_GETTFILTER: u16 = 46;
/// `sizeof(struct tcmsg)`
pub const HEADER: usize = 20;
/// Where it has the device, and what it is below.
pub const DEVICE: usize = 4;
/// See [`DEVICE`].
pub const PARENT: usize = 12;
/// An attribute: the name of the kind.
pub const TCA_KIND: u16 = 1;
/// An attribute: what the kind has to say for itself.
pub const TCA_OPTIONS: u16 = 2;

/// A question about what a device has below this parent. 0 is any, of either: the kernel heeds the device only where it is asked for
/// filters.
#[must_use]
pub fn question(device: u32, parent: u32) -> Vec<u8> {
    let mut body = vec![0; HEADER];
    body[DEVICE..DEVICE + 4].copy_from_slice(&device.to_ne_bytes());
    body[PARENT..PARENT + 4].copy_from_slice(&parent.to_ne_bytes());
    body
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_question_names_the_device_and_the_parent() {
        let wanted = [&[0; 4][..], &7_u32.to_ne_bytes(), &[0; 4], &9_u32.to_ne_bytes(), &[0; 4]].concat();
        assert_eq!(super::question(7, 9), wanted);
    }
}
