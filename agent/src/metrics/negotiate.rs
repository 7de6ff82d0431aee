//! Chooses the text of a scrape from the request's `Accept` header (RFC 9110, section 12.5.1).

use super::Format;

/// The format `accept` likes best. Where it likes none, or there is none, the classic one: everything reads it.
#[must_use]
pub fn negotiate(accept: Option<&str>) -> Format {
    let accept = accept.unwrap_or_default();
    let open = quality(accept, &OPEN_METRICS);
    let classic = quality(accept, &CLASSIC);
    // Only `*/*` and the like make a tie of two that were not named: then the classic one, as a person with curl
    // expects. A client that names both alike can read exemplars, so it gets them.
    match open.total_cmp(&classic) {
        std::cmp::Ordering::Greater => Format::OpenMetrics,
        std::cmp::Ordering::Equal if open > 0.0 && is_named(accept, &OPEN_METRICS) => Format::OpenMetrics,
        _ => Format::Classic,
    }
}

/// A media type we can write.
struct Offer {
    class: &'static str,
    name: &'static str,
    version: &'static str,
}

const OPEN_METRICS: Offer = Offer { class: "application", name: "openmetrics-text", version: "1.0.0" };
const CLASSIC: Offer = Offer { class: "text", name: "plain", version: "0.0.4" };

/// How well one range of the header fits an offer: the more closely, the more its quality counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    Anything,
    Class,
    Name,
    Version,
}

/// The quality of `offer`: that of the range which fits it most closely; 0 where none fits.
fn quality(accept: &str, offer: &Offer) -> f32 {
    let fits = split(accept, ',').filter_map(|range| fit(range, offer));
    // Of two that fit alike, the better: headers of real clients repeat themselves.
    fits.max_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))).map_or(0.0, |(_, quality)| quality)
}

fn is_named(accept: &str, offer: &Offer) -> bool {
    split(accept, ',').filter_map(|range| fit(range, offer)).any(|(fit, _)| fit >= Fit::Name)
}

fn fit(range: &str, offer: &Offer) -> Option<(Fit, f32)> {
    let mut parts = split(range, ';').map(str::trim);
    let (class, name) = parts.next()?.split_once('/')?;
    let mut fit = match (class.trim(), name.trim()) {
        ("*", "*") => Fit::Anything,
        (class, "*") if class.eq_ignore_ascii_case(offer.class) => Fit::Class,
        (class, name) if class.eq_ignore_ascii_case(offer.class) && name.eq_ignore_ascii_case(offer.name) => {
            Fit::Name
        }
        _ => return None,
    };
    let mut quality = 1.0;
    for (key, value) in parts.filter_map(|part| part.split_once('=')) {
        let value = value.trim().trim_matches('"');
        match key.trim() {
            // A quality that is no number is an error of the client's: it likes what it named.
            key if key.eq_ignore_ascii_case("q") => quality = value.parse::<f32>().unwrap_or(1.0),
            key if key.eq_ignore_ascii_case("version") => {
                if value != offer.version {
                    return None;
                }
                fit = Fit::Version;
            }
            // Charset and escaping scheme: all our text is ASCII names in UTF-8, which satisfies any.
            _ => {}
        }
    }
    Some((fit, if quality.is_nan() { 0.0 } else { quality.clamp(0.0, 1.0) }))
}

/// Splits at `separator`, but not inside of a quoted string.
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |c| {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => return c == separator && !quoted,
        }
        false
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn real_clients_get_what_they_like_best() {
        let open = [
            // Prometheus 2.42 and 3.
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
             text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
             application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
             text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.7,\
             application/openmetrics-text;version=1.0.0;q=0.6,text/plain;q=0.3",
            "application/openmetrics-text",
            "Application/OpenMetrics-Text; Version=\"1.0.0\"; charset=utf-8",
            "text/plain, application/openmetrics-text",
            "text/plain;q=0, application/*",
            "text/*;q=0.5, application/*;q=0.9",
            // A backslash outside of quotes escapes nothing.
            "x\\,application/openmetrics-text",
        ];
        for accept in open {
            assert_eq!(negotiate(Some(accept)), Format::OpenMetrics, "{accept}");
        }
    }

    #[test]
    fn everybody_else_gets_the_classic_text() {
        let classic = [
            "",
            "*/*",
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
            "text/plain",
            "text/plain;version=0.0.4;q=0.9,application/openmetrics-text;q=0.1",
            "application/openmetrics-text;version=0.0.1",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;q=0,*/*",
            "application/json",
            "x=\"a,application/openmetrics-text\"",
            "x=\"a,application/openmetrics-text,\"",
            "x=\"a\\\",application/openmetrics-text,\"",
            "application/openmetrics-text;q=0.1,*/*;q=0.5",
            ";;,,q=/;q==",
            "application/openmetrics-text;q=nan",
        ];
        for accept in classic {
            assert_eq!(negotiate(Some(accept)), Format::Classic, "{accept}");
        }
        assert_eq!(negotiate(None), Format::Classic);
    }

    proptest! {
        #[test]
        fn no_header_can_panic(accept: String) {
            let _ = negotiate(Some(&accept));
        }
    }
}
