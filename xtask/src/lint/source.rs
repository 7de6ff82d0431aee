//! What the room rules must know of a source file: the paths it names and the modules and types it declares.

/// What one file says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Source {
    /// Every path of two segments or more, in `use` or in code, `self` and `super` resolved to `crate`.
    pub(super) paths: Vec<Named>,
    /// Modules and types declared here.
    pub(super) declared: Vec<Named>,
}

/// A path or a name, and the line it stands in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) line: usize,
    pub(super) segments: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    /// `::`
    Path,
    Other(char),
}

/// Reads a file that is the module `module` of its crate; the crate's root is the empty module.
pub(super) fn read(text: &str, module: &[&str]) -> Source {
    let tokens = tokens(text);
    let mut reader = Reader {
        tokens: &tokens,
        at: 0,
        module: module.iter().map(|name| (*name).to_owned()).collect(),
        inline: Vec::new(),
        depth: 0,
        source: Source::default(),
    };
    reader.read();
    reader.source
}

struct Reader<'a> {
    tokens: &'a [(usize, Token)],
    at: usize,
    module: Vec<String>,
    /// Depth of braces at which each inline module began.
    inline: Vec<usize>,
    depth: usize,
    source: Source,
}

impl Reader<'_> {
    fn read(&mut self) {
        while let Some((line, token)) = self.tokens.get(self.at) {
            match token {
                Token::Word(word) if word == "use" => {
                    self.at += 1;
                    self.tree(&[]);
                }
                Token::Word(word)
                    if ["mod", "struct", "enum", "trait", "type", "union"].contains(&word.as_str()) =>
                {
                    self.declaration(word == "mod");
                }
                Token::Word(_) => self.inline_path(*line),
                Token::Other('{') => {
                    self.depth += 1;
                    self.at += 1;
                }
                Token::Other('}') => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.inline.last() == Some(&self.depth) {
                        self.inline.pop();
                        self.module.pop();
                    }
                    self.at += 1;
                }
                _ => self.at += 1,
            }
        }
    }

    fn declaration(&mut self, is_module: bool) {
        self.at += 1;
        let Some((line, Token::Word(name))) = self.tokens.get(self.at) else { return };
        self.source.declared.push(Named { line: *line, segments: vec![name.clone()] });
        self.at += 1;
        if is_module && self.token(0) == Some(&Token::Other('{')) {
            self.inline.push(self.depth);
            self.module.push(name.clone());
        }
    }

    /// A path in code: `a::b::c`, up to what is not a segment.
    fn inline_path(&mut self, line: usize) {
        let is_field = self.at > 0 && self.tokens[self.at - 1].1 == Token::Other('.');
        let segments = self.segments();
        if segments.len() > 1 && !is_field {
            self.push(line, &segments);
        }
    }

    /// `a::b::c`; stands after it, and after a `::` that follows it.
    fn segments(&mut self) -> Vec<String> {
        let mut segments = Vec::new();
        while let Some(Token::Word(word)) = self.token(0) {
            segments.push(word.clone());
            self.at += 1;
            if self.token(0) != Some(&Token::Path) {
                break;
            }
            self.at += 1;
        }
        segments
    }

    /// One tree of a `use`: a path, then perhaps a group, `*` or `as`.
    fn tree(&mut self, before: &[String]) {
        if self.token(0) == Some(&Token::Path) {
            self.at += 1;
        }
        let line = self.tokens.get(self.at).map_or(0, |(line, _)| *line);
        let mut path = before.to_vec();
        path.extend(self.segments());
        match self.token(0) {
            Some(Token::Other('{')) => {
                self.at += 1;
                while !matches!(self.token(0), None | Some(Token::Other('}'))) {
                    self.tree(&path);
                    if self.token(0) == Some(&Token::Other(',')) {
                        self.at += 1;
                    }
                }
                self.at += 1;
            }
            Some(Token::Other('*')) => {
                self.at += 1;
                path.push("*".to_owned());
                self.push(line, &path);
            }
            Some(Token::Word(_)) => {
                // `as Name`
                self.at += 2;
                self.push(line, &path);
            }
            None => {}
            Some(_) if path.len() == before.len() => self.at += 1,
            Some(_) => self.push(line, &path),
        }
    }

    /// Keeps a path, from the crate's root where it began with `self` or `super`.
    fn push(&mut self, line: usize, path: &[String]) {
        let mut base = self.module.clone();
        let mut rest = path;
        let relative = matches!(path.first().map(String::as_str), Some("self" | "super"));
        while let [first, after @ ..] = rest {
            match first.as_str() {
                "self" => {}
                "super" => drop(base.pop()),
                _ => break,
            }
            rest = after;
        }
        let mut segments = Vec::new();
        if relative {
            segments.push("crate".to_owned());
            segments.extend(base);
        }
        segments.extend(rest.iter().cloned());
        self.source.paths.push(Named { line, segments });
    }

    fn token(&self, ahead: usize) -> Option<&Token> {
        self.tokens.get(self.at + ahead).map(|(_, token)| token)
    }
}

/// The words, `::` and single characters of a text, without comments and literals, each with its line.
fn tokens(text: &str) -> Vec<(usize, Token)> {
    let mut tokens = Vec::new();
    let mut rest = text;
    let mut line = 1;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(length) = literal(rest) {
            length
        } else if first.is_alphanumeric() || first == '_' {
            let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            tokens.push((line, Token::Word(rest[..length].to_owned())));
            length
        } else if rest.starts_with("::") {
            tokens.push((line, Token::Path));
            2
        } else {
            if !first.is_whitespace() {
                tokens.push((line, Token::Other(first)));
            }
            first.len_utf8()
        };
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    tokens
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let step = if rest.starts_with("/*") {
            depth += 1;
            2
        } else if rest.starts_with("*/") {
            depth -= 1;
            2
        } else {
            rest.chars().next().map_or(1, char::len_utf8)
        };
        at += step;
        if depth == 0 {
            break;
        }
    }
    at
}

/// The length of the string or character literal that the text begins with.
fn literal(text: &str) -> Option<usize> {
    let prefix = ["br", "cr", "b", "c", "r"]
        .iter()
        .find(|prefix| text.strip_prefix(**prefix).is_some_and(|rest| rest.starts_with(['"', '#', '\''])));
    let prefix = prefix.copied().unwrap_or_default();
    let body = &text[prefix.len()..];
    if prefix.ends_with('r') {
        let hashes = body.len() - body.trim_start_matches('#').len();
        let inside = body[hashes..].strip_prefix('"')?;
        let end = format!("\"{}", "#".repeat(hashes));
        let length = inside.find(&end).map_or(inside.len(), |at| at + end.len());
        return Some(prefix.len() + hashes + 1 + length);
    }
    let quote = body.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
    if quote == '\'' && !is_character(body) {
        return None;
    }
    let mut escaped = false;
    for (at, c) in body.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return Some(prefix.len() + at + 1),
            _ => {}
        }
    }
    Some(text.len())
}

/// Tells `'a'` from the lifetime `'a`.
fn is_character(text: &str) -> bool {
    let mut inside = text.chars().skip(1);
    inside.next() == Some('\\') || inside.next() == Some('\'')
}

#[cfg(test)]
mod tests {
    use super::read;

    fn paths(text: &str, module: &[&str]) -> Vec<String> {
        read(text, module).paths.iter().map(|path| path.segments.join("::")).collect()
    }

    #[test]
    fn grouped_imports_are_expanded() {
        let text = "pub use crate::{kernel::btf::{self, Btf}, pod::Pod as P, sink::*};\nuse ::aya::maps;";
        let expected = [
            "crate::kernel::btf::self", "crate::kernel::btf::Btf", "crate::pod::Pod", "crate::sink::*",
            "aya::maps",
        ];
        let found = paths(text, &["probe"]);
        for path in expected {
            let path = path.trim_end_matches("::self");
            assert!(
                found.iter().any(|found| found.trim_end_matches("::self") == path),
                "{path} in {found:?}"
            );
        }
        assert_eq!(found.len(), expected.len());
    }

    #[test]
    fn inline_paths_are_seen() {
        let found = paths("fn f(x: &kube::Client) { let y = crate::enrich::pods::of::<u8>(x.kube.y); }", &[]);
        assert_eq!(found, ["kube::Client", "crate::enrich::pods::of"]);
    }

    #[test]
    fn comments_and_literals_are_not_code() {
        let text = r##"
            // kube::A
            /* kube::B /* kube::C */ kube::D */
            const S: &str = "kube::E \" kube::F"; const R: &str = r#"kube::G " kube::H"#;
            const C: char = '"'; fn f<'a>(x: &'a str) -> a::B { b'\'' } const D: char = '\'';
        "##;
        assert_eq!(paths(text, &[]), ["a::B"]);
    }

    #[test]
    fn relative_paths_are_resolved() {
        let text = "use super::attach::Rung; mod tests { use super::*; fn f() { super::super::ring::new() } } use self::a::B;";
        let found = paths(text, &["probe", "pipeline"]);
        assert_eq!(
            found,
            [
                "crate::probe::attach::Rung", "crate::probe::pipeline::*", "crate::probe::ring::new",
                "crate::probe::pipeline::a::B"
            ]
        );
    }

    #[test]
    fn declarations_are_seen() {
        let source = read("pub(crate) mod utils;\nstruct PodManager<T>(T);\nenum Fate { A }", &[]);
        let names: Vec<_> =
            source.declared.iter().map(|name| (name.line, name.segments[0].as_str())).collect();
        assert_eq!(names, [(1, "utils"), (2, "PodManager"), (3, "Fate")]);
    }
}
