//! Checks lines against the published schema, for the tests of everything that writes one.

use std::sync::OnceLock;

use boon::{Compiler, SchemaIndex, Schemas};

fn compiled() -> &'static (Schemas, SchemaIndex) {
    static COMPILED: OnceLock<(Schemas, SchemaIndex)> = OnceLock::new();
    COMPILED.get_or_init(|| {
        let schema = serde_json::from_str(include_str!("../../../tests/schema/line.schema.json")).unwrap();
        let mut schemas = Schemas::new();
        let mut compiler = Compiler::new();
        compiler.add_resource("line.schema.json", schema).unwrap();
        let index = compiler.compile("line.schema.json", &mut schemas).unwrap();
        (schemas, index)
    })
}

/// What is wrong with `line`, if anything.
pub(crate) fn fault(line: &serde_json::Value) -> Option<String> {
    let (schemas, index) = compiled();
    schemas.validate(line, *index).err().map(|fault| format!("{fault:#}"))
}

/// `line`, parsed; fails the test unless it is one valid line.
pub(crate) fn check(line: &str) -> serde_json::Value {
    assert!(!line.contains('\n'), "more than one line: {line}");
    let parsed = serde_json::from_str(line).unwrap_or_else(|fault| panic!("{fault} in {line}"));
    assert_eq!(fault(&parsed), None, "{line}");
    parsed
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn good() -> Value {
        json!({
            "timestamp": "2026-01-02T03:04:05.000000006Z", "level": "INFO", "message": "m",
            "trace_id": "0123456789abcdef0123456789abcdef", "span_id": "0123456789abcdef",
            "pod_name": null, "node_name": "n", "namespace": null, "probe": "drops",
            "ttl": 63, "dst_pod": {"namespace": "a", "pod": "b"}, "truncated": true
        })
    }

    #[test]
    fn a_good_line_passes_and_each_fault_is_found() {
        assert_eq!(fault(&good()), None);
        let wrong = [
            ("timestamp", json!("2026-01-02T03:04:05Z")),
            ("timestamp", json!("2026-13-02T03:04:05.000000006Z")),
            ("level", json!("info")),
            ("message", json!(null)),
            ("trace_id", json!("00000000000000000000000000000000")),
            ("trace_id", json!("0123456789ABCDEF0123456789ABCDEF")),
            ("span_id", json!("0000000000000000")),
            ("span_id", json!("1")),
            ("pod_name", json!("")),
            ("node_name", json!(null)),
            ("namespace", json!(1)),
            ("probe", json!(null)),
            ("truncated", json!(false)),
            ("ttl", json!([1])),
            ("dst_pod", json!({"namespace": "a"})),
            ("dst_pod", json!({"namespace": "a", "pod": "b", "ip": "c"})),
            ("bad name", json!(1)),
        ];
        for (name, value) in wrong {
            let mut line = good();
            line[name] = value.clone();
            assert!(fault(&line).is_some(), "{name}: {value} passed");
        }
    }

    #[test]
    fn each_required_name_is_required() {
        let names =
            ["timestamp", "level", "message", "trace_id", "span_id", "pod_name", "node_name", "namespace"];
        for name in names.into_iter().chain(["probe"]) {
            let mut line = good();
            line.as_object_mut().unwrap().remove(name);
            assert!(fault(&line).is_some(), "a line without {name} passed");
        }
    }
}
