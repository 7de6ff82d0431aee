//! The numbers that hops say of one path.

/// What hops said of one path.
#[derive(Default)]
pub(super) struct Told {
    last: u32,
    /// How often it went up after it had gone down.
    rises: u32,
    pub(super) least: u32,
    pub(super) most: u32,
    /// How many lines may still be spent on ever smaller numbers: who sends them may choose them.
    lines: u8,
}

impl Told {
    /// Rises that make a path one that flaps.
    const FLAPS: u32 = 2;
    /// See [`Told::lines`].
    const LINES: u8 = 4;

    /// Whether the number is the smallest so far, and worth a line.
    pub(super) fn add(&mut self, mtu: u32) -> bool {
        let is_first = self.last == 0;
        let is_less = !is_first && mtu < self.least;
        self.rises = self.rises.saturating_add(u32::from(!is_first && mtu > self.last));
        self.last = mtu;
        self.least = if is_first { mtu } else { self.least.min(mtu) };
        self.most = self.most.max(mtu);
        self.lines += u8::from(is_less && self.lines < Self::LINES);
        is_less && self.lines < Self::LINES
    }

    /// Takes in what another incident was told, which turns out to be this one.
    pub(super) fn absorb(&mut self, other: &Self) {
        if other.last == 0 {
            return;
        }
        self.least = if self.last == 0 { other.least } else { self.least.min(other.least) };
        self.last = other.last;
        self.most = self.most.max(other.most);
        self.rises = self.rises.saturating_add(other.rises);
        self.lines = self.lines.max(other.lines);
    }

    /// Whether the path takes now this, now that.
    pub(super) const fn is_flapping(&self) -> bool {
        self.rises >= Self::FLAPS
    }
}
