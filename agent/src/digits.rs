//! Numbers and addresses as text, for lines: a line has dozens, and the standard library's way through a formatter takes
//! ten times as long.

use std::fmt::{self, Display};
use std::net::Ipv4Addr;

/// A short text made on the stack.
#[derive(Clone, Copy, Debug)]
pub struct Digits<const N: usize> {
    text: [u8; N],
    begin: usize,
}

impl<const N: usize> Digits<N> {
    const EMPTY: Self = Self { text: [0; N], begin: N };

    /// Puts a byte before what is there: numbers are made from their end. One that has no room is not put.
    fn put(&mut self, byte: u8) {
        if let Some(before) = self.begin.checked_sub(1) {
            self.text[before] = byte;
            self.begin = before;
        }
    }

    fn put_decimal(&mut self, mut number: u64) {
        loop {
            self.put(b'0' + (number % 10) as u8);
            number /= 10;
            if number == 0 {
                return;
            }
        }
    }

    /// The text.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.text[self.begin..]
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // SAFETY: all that is ever put are digits and points, which are ASCII.
        unsafe { str::from_utf8_unchecked(self.as_bytes()) }
    }
}

/// A number: `65535`.
#[must_use]
pub fn decimal(number: u64) -> Digits<20> {
    let mut digits = Digits::EMPTY;
    digits.put_decimal(number);
    digits
}

/// An address: `10.0.1.2`.
#[must_use]
pub fn ipv4(address: Ipv4Addr) -> Digits<15> {
    let mut digits = Digits::EMPTY;
    let [first, rest @ ..] = address.octets();
    for octet in rest.into_iter().rev() {
        digits.put_decimal(octet.into());
        digits.put(b'.');
    }
    digits.put_decimal(first.into());
    digits
}

/// The lowest `N` hexadecimal digits of a number, lower case, leading zeros included.
#[must_use]
pub fn hex<const N: usize>(number: u128) -> Digits<N> {
    let mut digits = Digits::EMPTY;
    for at in 0..N {
        let digit = (number >> (4 * at)) as usize & 0xf;
        digits.put(b"0123456789abcdef"[digit]);
    }
    digits
}

/// A number of things for a person: `1 event`, `2 events`. For a noun whose plural ends with an `s`.
#[must_use]
pub fn counted(number: u64, noun: &str) -> impl Display {
    fmt::from_fn(move |f| write!(f, "{number} {noun}{}", if number == 1 { "" } else { "s" }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_longest_fit() {
        assert_eq!(decimal(u64::MAX).as_str(), "18446744073709551615");
        assert_eq!(ipv4(Ipv4Addr::BROADCAST).as_str(), "255.255.255.255");
        assert_eq!(hex::<32>(u128::MAX).as_str(), "f".repeat(32));
    }

    #[test]
    fn one_is_not_many() {
        let texts = [0, 1, 2, 21].map(|number| counted(number, "event").to_string());
        assert_eq!(texts, ["0 events", "1 event", "2 events", "21 events"]);
    }

    proptest! {
        #[test]
        fn texts_are_the_standard_librarys(number: u64, octets: [u8; 4], id: u128) {
            let address = Ipv4Addr::from(octets);
            prop_assert_eq!(decimal(number).as_str().to_owned(), number.to_string());
            prop_assert_eq!(decimal(number % 100).as_str().to_owned(), (number % 100).to_string());
            prop_assert_eq!(ipv4(address).as_str().to_owned(), address.to_string());
            prop_assert_eq!(hex::<32>(id).as_str().to_owned(), format!("{id:032x}"));
            prop_assert_eq!(hex::<4>(id).as_str().to_owned(), format!("{:04x}", id & 0xffff));
        }
    }
}
