//! What a dropped packet means and what cures it, of all that is known of it.

use std::borrow::Cow;

use agent_common::drops::circumstance;

use super::class::words::{About, Home};
use super::class::{Class, Harm, reason_by_place};
use super::labels::Labels;
use super::summary::{self, Fixes, Said};
use super::{PacketDrop, evidence};

impl PacketDrop {
    /// What it means, as the end of a sentence.
    pub(super) fn means(&self) -> Cow<'static, str> {
        let interface = self.interface();
        let about = self.about_class(interface.as_deref());
        match self.verdict.harm {
            Harm::Benign if self.is(circumstance::PORTLESS) => "the bridge has no ports".into(),
            Harm::Benign if self.is(circumstance::STRANGERS) && self.verdict.class == Class::BridgePort => {
                "the switch behind that port sends what is for another station, or for one here whose own port does not take it".into()
            }
            Harm::Benign if self.is(circumstance::ENDING) && self.verdict.class == Class::NoSocket => {
                "it ends a connection, or has no payload, and that connection is already gone here".into()
            }
            Harm::Benign
                if circumstance::is_redirect(self.record.circumstances)
                    && self.verdict.class == Class::Netfilter =>
            {
                "NAT drops redirects about connections that it translates".into()
            }
            Harm::Benign if self.is(circumstance::GROUP) && self.verdict.class != Class::NoSocket => {
                let means = self.verdict.class.means(&about);
                format!("sent to a group or to all, as devices do when they come up; {means}").into()
            }
            _ => self.verdict.class.means(&about),
        }
    }

    /// What cures it; `None` of what harms nobody.
    pub(super) fn fix(&self) -> Option<Cow<'static, str>> {
        let interface = self.interface();
        self.verdict
            .class
            .fix(&self.about_class(interface.as_deref()))
            .filter(|_| self.verdict.harm == Harm::Harmful)
    }

    /// Tells the summary what cures it.
    pub(super) fn learned_by(&self, fixes: &Fixes, labels: &Labels) {
        if self.verdict.harm != Harm::Harmful {
            return;
        }
        let interface = self.interface();
        let about = self.about_class(interface.as_deref());
        let place = about.home.filter(|home| **home != Home::Host).map(ToString::to_string);
        let home = place.as_ref().map(|_| &summary::PLACE).or(about.home);
        let of = |about: &About<'_>| self.verdict.class.fix(about).map(Cow::into_owned);
        let Some(fix) = of(&About { home, ..about }) else { return };
        // What is said of the kernel's own reason alone says no more.
        let is_plain = || {
            let plain = About {
                reason: self.reason.as_deref().unwrap_or_default(),
                ip_version: about.ip_version,
                home,
                ..About::default()
            };
            of(&plain).is_some_and(|plain| plain == fix)
        };
        let class = self.verdict.class;
        let cause = || self.evidence.as_ref().map(|_| class.means(&about).into_owned());
        fixes.learn(labels, Said { class, fix: &fix, place }, cause, is_plain);
    }

    /// The kernel's reason, or what the place stands for where it gives none.
    fn says_reason(&self) -> &str {
        let function = self.place.as_ref().map_or("", |place| &place.function);
        match self.reason.as_deref() {
            Some("NOT_SPECIFIED") | None => {
                reason_by_place(function).or(self.reason.as_deref()).unwrap_or_default()
            }
            Some(reason) => reason,
        }
    }

    pub(super) fn about_class<'a>(&'a self, device: Option<&'a str>) -> About<'a> {
        About {
            reason: self.says_reason(),
            device,
            mtu: self.record.mtu,
            ip_version: self.record.ip_version,
            frame: evidence::frame(&self.record),
            tunnel: self.inner.zip(self.outer_source()).map(|(inner, from)| (inner.tunnel, from)),
            told: self.is(circumstance::TOLD),
            refused: self.refused(),
            late: self.late(),
            is_portless: self.is(circumstance::PORTLESS),
            home: self.home.as_ref(),
            evidence: self.evidence.as_ref(),
        }
    }
}
