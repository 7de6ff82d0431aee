//! Turns `OpenMetrics` text into the classic text format 0.0.4, a piece at a time as it is written.
//!
//! What differs: a counter's family is called `x` there and `x_total` here, an info's `x` and `x_info`; `info` and
//! `stateset` are gauges here, `unknown` is `untyped`; `UNIT`, `EOF` and exemplars do not exist; HELP escapes no quotes.
//! Timestamps of samples, which differ too, prometheus-client does not write.

use std::fmt::{self, Write};

/// Bytes looked at together: many beside a line, so that the pieces a line is written in are each only appended; few
/// beside a scrape, for what follows a comment in its piece is moved.
const PIECE: usize = 8 << 10;

/// Takes `OpenMetrics` text in any pieces and makes classic text of it where it stands, at the end of `out`.
pub(super) struct Lines<'a> {
    out: &'a mut String,
    /// Where that begins which is not converted yet: a line.
    open: usize,
    /// A HELP seen before the TYPE that decides its family's name: (name, text).
    help: Option<(String, String)>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(out: &'a mut String) -> Self {
        let open = out.len();
        Self { out, open, help: None }
    }

    /// Converts what is left; a last line without a newline gets one.
    pub(super) fn finish(mut self) -> fmt::Result {
        if self.out.len() > self.open && !self.out.ends_with('\n') {
            self.out.push('\n');
        }
        self.convert_lines()
    }

    fn convert_lines(&mut self) -> fmt::Result {
        // What has no '#' is the same in both formats, and that is nearly all of a scrape.
        if let Some(at) = hash(&self.out[self.open..]) {
            let open = self.out.split_off(self.open + line_of(&self.out[self.open..], at));
            let mut rest = &open[..];
            while let Some(at) = hash(rest) {
                let (same, line) = rest.split_at(line_of(rest, at));
                let (line, after) = line.split_once('\n').unwrap_or((line, ""));
                self.out.push_str(same);
                self.convert(line)?;
                rest = after;
            }
            self.out.push_str(rest);
        }
        self.open = self.out.len();
        Ok(())
    }

    fn convert(&mut self, line: &str) -> fmt::Result {
        let Some(comment) = line.strip_prefix("# ") else {
            return writeln!(self.out, "{}", without_exemplar(line));
        };
        let mut words = comment.splitn(3, ' ');
        match (words.next(), words.next(), words.next()) {
            (Some("HELP"), Some(name), text) => {
                self.help = Some((name.to_owned(), text.unwrap_or_default().to_owned()));
                Ok(())
            }
            (Some("TYPE"), Some(name), Some(kind)) => self.family(name, kind),
            // UNIT and EOF, which the classic format does not have.
            _ => Ok(()),
        }
    }

    fn family(&mut self, name: &str, kind: &str) -> fmt::Result {
        let (suffix, kind) = match kind {
            "counter" => ("_total", "counter"),
            "info" => ("_info", "gauge"),
            "stateset" => ("", "gauge"),
            "gauge" | "histogram" | "summary" => ("", kind),
            _ => ("", "untyped"),
        };
        if let Some((_, text)) = self.help.take().filter(|(helped, _)| helped == name) {
            writeln!(self.out, "# HELP {name}{suffix} {}", text.replace("\\\"", "\""))?;
        }
        writeln!(self.out, "# TYPE {name}{suffix} {kind}")
    }
}

impl Write for Lines<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.out.push_str(text);
        // Whole lines need not be searched for: a piece ends with nearly each.
        let is_due = self.out.len() - self.open >= PIECE && text.ends_with('\n');
        if is_due { self.convert_lines() } else { Ok(()) }
    }
}

/// Where the first '#' is.
fn hash(text: &str) -> Option<usize> {
    memchr::memchr(b'#', text.as_bytes())
}

/// Where the line begins that `at` is in.
fn line_of(text: &str, at: usize) -> usize {
    text[..at].rfind('\n').map_or(0, |end| end + 1)
}

/// A sample's line up to its exemplar, which begins at the first ` # ` outside of a label's value.
fn without_exemplar(line: &str) -> &str {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in line.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'#' if !quoted => return line[..at].trim_end(),
            _ => {}
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn classic(open: &str) -> String {
        let mut out = String::new();
        let mut lines = Lines::new(&mut out);
        lines.write_str(open).unwrap();
        lines.finish().unwrap();
        out
    }

    #[test]
    fn names_and_types_are_the_classic_ones() {
        let open = "# HELP r2c_drops Drops.\n# TYPE r2c_drops counter\nr2c_drops_total 1\n\
            # HELP r2c_build Build.\n# TYPE r2c_build info\nr2c_build_info{v=\"1\"} 1\n\
            # HELP r2c_x X.\n# TYPE r2c_x unknown\nr2c_x 1\n\
            # TYPE r2c_t_seconds gauge\n# UNIT r2c_t_seconds seconds\nr2c_t_seconds 0.5\n\
            # TYPE r2c_s stateset\nr2c_s{r2c_s=\"up\"} 1\n# EOF\n";
        let expected = "# HELP r2c_drops_total Drops.\n# TYPE r2c_drops_total counter\nr2c_drops_total 1\n\
            # HELP r2c_build_info Build.\n# TYPE r2c_build_info gauge\nr2c_build_info{v=\"1\"} 1\n\
            # HELP r2c_x X.\n# TYPE r2c_x untyped\nr2c_x 1\n\
            # TYPE r2c_t_seconds gauge\nr2c_t_seconds 0.5\n\
            # TYPE r2c_s gauge\nr2c_s{r2c_s=\"up\"} 1\n";
        assert_eq!(classic(open), expected);
    }

    #[test]
    fn an_exemplar_goes_and_a_label_that_looks_like_one_stays() {
        assert_eq!(classic("x_total 3 # {trace_id=\"ab\"} 1 1.5\n"), "x_total 3\n");
        let odd = r#"x_total{a=" # {b=\"c\"} 1",d="\\"} 3"#;
        assert_eq!(classic(&format!("{odd}\n")), format!("{odd}\n"));
        assert_eq!(classic(&format!("{odd} # {{t=\"}} # \"}} 1\n")), format!("{odd}\n"));
    }

    #[test]
    fn the_last_line_ends_as_all_others_do() {
        assert_eq!(classic("x_total 3"), "x_total 3\n");
        assert_eq!(classic("y 1\nx_total 3 # {t=\"ab\"} 1"), "y 1\nx_total 3\n");
        assert_eq!(classic(""), "");
    }

    /// A scrape is converted a part at a time: a line that is not whole yet waits for its end.
    #[test]
    fn a_long_scrape_is_converted_whatever_it_is_cut_into() {
        let many = "x_total 3\n".repeat(PIECE / 8);
        for cut in ["", "x_total 3 ", "x_total 3 # {t=\"a"] {
            let line = "x_total 3 # {t=\"ab\"} 1\n";
            let mut out = String::new();
            let mut lines = Lines::new(&mut out);
            for piece in [&format!("{many}{cut}"), &line[cut.len()..], &many, line] {
                lines.write_str(piece).unwrap();
            }
            lines.finish().unwrap();
            assert_eq!(out, format!("{many}x_total 3\n{many}x_total 3\n"), "{cut:?}");
        }
    }

    #[test]
    fn help_keeps_to_the_classic_escapes() {
        let open = "# HELP x Say \\\"no\\\" to C:\\\\ and \\n.\n# TYPE x gauge\n";
        assert_eq!(classic(open), "# HELP x Say \"no\" to C:\\\\ and \\n.\n# TYPE x gauge\n");
    }

    #[test]
    fn a_help_of_another_family_is_not_borrowed() {
        assert_eq!(classic("# HELP x X.\n# TYPE y gauge\n"), "# TYPE y gauge\n");
    }

    proptest! {
        #[test]
        fn whatever_a_label_holds_the_sample_survives(value: String, cuts in prop::collection::vec(0usize..80, 0..6)) {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let sample = format!("x_total{{a=\"{value}\"}} 3");
            let open = format!("{sample} # {{trace_id=\"ab\"}} 1\n");
            let mut out = String::new();
            let mut lines = Lines::new(&mut out);
            let mut rest = &open[..];
            for cut in cuts {
                let (piece, tail) = rest.split_at(rest.floor_char_boundary(cut));
                lines.write_str(piece).unwrap();
                rest = tail;
            }
            lines.write_str(rest).unwrap();
            lines.finish().unwrap();
            prop_assert_eq!(out, format!("{sample}\n"));
        }
    }
}
