//! What may be wrong with the size of packets, and how sure that is.

use crate::probe::Confidence;

/// What is wrong, as programs may ask for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// A device frees what is too large for it and tells nobody.
    SilentDrop,
    /// A device of this node takes less than is sent through it.
    SmallDevice,
    /// A tunnel's underlay takes less than the tunnel's device promises.
    SmallUnderlay,
    /// A route has a smaller MTU than its device.
    SmallRoute,
    /// A hop elsewhere takes less than is sent through it.
    SmallHop,
    /// Who sends too much is not told: this node drops the messages, or does not send them.
    MessagesLost,
    /// Full-size segments vanish, and no message says why.
    BlackHole,
    /// Full-size segments are not acknowledged, and nothing says whether smaller ones would be.
    Suspect,
    /// A message about packets that nobody here sent.
    StrayMessage,
    /// A message that quotes a packet as it was after its address was translated, so that no socket knows it.
    UntranslatedQuote,
    /// An MTU that no link may have, or that contradicts what it quotes.
    AbsurdMtu,
    /// One path is said to take now this, now that.
    FlappingMtu,
    /// A program asks for larger datagrams than fit.
    LargeDatagrams,
    /// Some fragments of packets never come.
    FragmentsLost,
    /// A path takes less than its first device, and that is known.
    PathLearned,
}

impl Finding {
    /// As lines spell it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::SilentDrop => "silent_drop",
            Self::SmallDevice => "small_device",
            Self::SmallUnderlay => "small_underlay",
            Self::SmallRoute => "small_route",
            Self::SmallHop => "small_hop",
            Self::MessagesLost => "messages_lost",
            Self::BlackHole => "black_hole",
            Self::Suspect => "suspect",
            Self::StrayMessage => "stray_message",
            Self::UntranslatedQuote => "untranslated_quote",
            Self::AbsurdMtu => "absurd_mtu",
            Self::FlappingMtu => "flapping_mtu",
            Self::LargeDatagrams => "large_datagrams",
            Self::FragmentsLost => "fragments_lost",
            Self::PathLearned => "path_learned",
        }
    }
}

/// What is wrong, in words, and what would mend it.
pub(super) struct Judgement {
    pub(super) finding: Finding,
    pub(super) confidence: Confidence,
    pub(super) what: String,
    pub(super) fix: Option<String>,
}
