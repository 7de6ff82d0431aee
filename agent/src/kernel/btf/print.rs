//! Types as C writes them.

use super::Btf;
use super::types::{Kind, Type};

impl Btf {
    /// A type as C writes it. What cannot be named (cut off, nested without end) is `?`.
    pub(super) fn print(&self, id: u32, depth: u32) -> String {
        if id == 0 {
            return "void".to_owned();
        }
        let (Some(ty), Some(deeper)) = (self.ty(id), depth.checked_sub(1)) else {
            return "?".to_owned();
        };
        let named = |keyword: &str| format!("{keyword}{}", self.text(ty.name).unwrap_or("?"));
        match ty.kind {
            Kind::Struct => named("struct "),
            Kind::Union => named("union "),
            Kind::Fwd => named(if ty.flag { "union " } else { "struct " }),
            Kind::Enum | Kind::Enum64 => named("enum "),
            Kind::Ptr => pointer_to(&self.print(ty.value, deeper)),
            Kind::Array => {
                format!("{}[{}]", self.print_element(ty, deeper), ty.array().map_or(0, |(_, n)| n))
            }
            Kind::Const => qualified("const", &self.print(ty.value, deeper)),
            Kind::Volatile => qualified("volatile", &self.print(ty.value, deeper)),
            Kind::Restrict | Kind::TypeTag => self.print(ty.value, deeper),
            Kind::FuncProto => format!("{} ()", self.print(ty.value, deeper)),
            _ => named(""),
        }
    }

    fn print_element(&self, array: Type<'_>, depth: u32) -> String {
        array.array().map_or_else(|| "?".to_owned(), |(element, _)| self.print(element, depth))
    }
}

fn pointer_to(pointee: &str) -> String {
    match (pointee.strip_suffix(" ()"), pointee.ends_with('*')) {
        (Some(returned), _) => format!("{returned} (*)()"),
        (None, true) => format!("{pointee}*"),
        (None, false) => format!("{pointee} *"),
    }
}

/// A qualifier stands before what it qualifies, but after a pointer.
fn qualified(word: &str, of: &str) -> String {
    if of.ends_with('*') { format!("{of} {word}") } else { format!("{word} {of}") }
}
