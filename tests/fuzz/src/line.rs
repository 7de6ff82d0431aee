//! What holds of every line that reaches an operator.

use std::sync::LazyLock;

use agent::sink::escape;
use agent::sink::json::MAX_LINE;
use boon::{Compiler, SchemaIndex, Schemas};
use serde_json::Value;

static SCHEMA: LazyLock<(Schemas, SchemaIndex)> = LazyLock::new(|| {
    let schema = include_str!("../../schema/line.schema.json");
    let schema = serde_json::from_str(schema).expect("the schema is JSON");
    let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
    compiler.add_resource("line.schema.json", schema).expect("the schema has a name");
    let index = compiler.compile("line.schema.json", &mut schemas).expect("the schema is a schema");
    (schemas, index)
});

/// The lines in `written`, each whole, short enough and with nothing in it that a terminal would obey.
#[must_use]
pub fn check(written: &[u8]) -> Vec<&str> {
    let text = str::from_utf8(written).expect("a line is UTF-8");
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    for line in &lines {
        let body = line.strip_suffix('\n').expect("a line ends with a newline");
        assert!(line.len() <= MAX_LINE, "{} bytes in a line", line.len());
        assert!(!body.contains(escape::is_unsafe), "raw unsafe character in {body:?}");
    }
    lines
}

/// The one JSON line in `written`, which keeps the published schema.
#[must_use]
pub fn check_json(written: &[u8]) -> Value {
    let lines = check(written);
    let [line] = lines[..] else { panic!("{} lines where one was written", lines.len()) };
    let value = serde_json::from_str(line).expect("a line is JSON");
    let (schemas, index) = &*SCHEMA;
    if let Err(fault) = schemas.validate(&value, *index) {
        panic!("{fault:#} in {line}");
    }
    value
}
