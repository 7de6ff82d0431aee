//! The table kernel x arch x hook -> rung in README: what each kernel lets be attached, and what then fires.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::build::Built;
use crate::kernels;
use crate::tree;
use crate::vm::Guest;

const BEGIN: &str = "<!-- reach: written by `cargo xtask test --all` -->\n";
const END: &str = "<!-- /reach -->\n";

/// Asks every kernel's doctor, and puts its answers into README.
pub(super) fn write(built: &Built) -> Result<()> {
    let mut reports = Vec::new();
    for kernel in &kernels::ALL {
        reports.push(of_guest(kernel.name, built).with_context(|| format!("the doctor on {}", kernel.name))?);
    }
    reports.push(here(built)?);
    let path = tree::root().join("README.md");
    let readme = fs::read_to_string(&path)?;
    Ok(fs::write(path, replaced(&readme, &table(&reports)?)?)?)
}

/// What the doctor says in a guest.
fn of_guest(name: &str, built: &Built) -> Result<Value> {
    let mut guest = Guest::new(name)?;
    let cross = guest.build_if_foreign()?;
    guest.carry(cross.as_ref().unwrap_or(built));
    let mut output = Vec::new();
    // A hook in a module that nobody has loaded is refused by every kernel.
    let command = ["sh", "-c", "modprobe nf_conntrack && exec r2c-agent doctor -o json"].map(str::to_owned);
    let code = guest.run(&command, &mut |line| {
        output.extend_from_slice(line);
        Ok(())
    })?;
    if code != 0 {
        bail!("exit code {code}: {}", String::from_utf8_lossy(&output));
    }
    report(&output)
}

fn here(built: &Built) -> Result<Value> {
    let doctor =
        Command::new(&built.agent).args(["doctor", "-o", "json"]).stderr(Stdio::inherit()).output()?;
    report(&doctor.stdout)
}

/// The report is one line; diagnostics may stand before it.
fn report(output: &[u8]) -> Result<Value> {
    let text = String::from_utf8_lossy(output);
    let line = text.lines().rfind(|line| line.starts_with('{')).context("no report")?;
    Ok(serde_json::from_str(line)?)
}

/// Rows are hooks, columns kernels; a cell lists the rungs from the one that is taken down.
fn table(reports: &[Value]) -> Result<String> {
    let mut text = "| hook |".to_owned();
    for report in reports {
        let (kernel, arch) = (string(&report["kernel"])?, string(&report["arch"])?);
        // Writing to a String cannot fail.
        let _ = write!(text, " {} {arch} |", kernel.split('-').next().unwrap_or(kernel));
    }
    let _ = write!(text, "\n|---|{}\n", "---|".repeat(reports.len()));
    let mut rows: BTreeMap<(usize, &str), Vec<String>> = BTreeMap::new();
    for report in reports {
        for (at, hook) in report["hooks"].as_array().context("no hooks")?.iter().enumerate() {
            let rungs = hook["rungs"].as_array().context("no rungs")?;
            let cells: Vec<String> = rungs.iter().map(rung).collect::<Result<_>>()?;
            rows.entry((at, string(&hook["hook"])?)).or_default().push(cells.join("<br>"));
        }
    }
    for ((_, hook), cells) in rows {
        let _ = writeln!(text, "| `{hook}` | {} |", cells.join(" | "));
    }
    Ok(text)
}

/// `tp_btf` *seen*, attached, or refused.
fn rung(rung: &Value) -> Result<String> {
    let name = string(&rung["name"])?;
    Ok(match (rung["status"] == "holds", &rung["fired"]) {
        (false, _) => format!("~~{name}~~"),
        (true, Value::Bool(true)) => format!("{name}, *seen*"),
        (true, Value::Bool(false)) => format!("{name}, **silent**"),
        (true, _) => name.to_owned(),
    })
}

fn string(value: &Value) -> Result<&str> {
    value.as_str().with_context(|| format!("{value} is not a string"))
}

/// README with `table` between its marks.
fn replaced(readme: &str, table: &str) -> Result<String> {
    let (before, rest) = readme.split_once(BEGIN).context("README has no mark where the table begins")?;
    let (_, after) = rest.split_once(END).context("README has no mark where the table ends")?;
    Ok(format!("{before}{BEGIN}{table}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_cell_tells_attached_from_seen() {
        let rungs = json!([
            {"name": "tp_btf", "status": "refused", "fired": null},
            {"name": "raw_tp", "status": "holds", "fired": true},
            {"name": "tracepoint", "status": "holds", "fired": null},
        ]);
        let report =
            json!({"kernel": "6.12.1-x", "arch": "x86_64", "hooks": [{"hook": "h", "rungs": rungs}]});
        assert_eq!(
            table(&[report]).unwrap(),
            "| hook | 6.12.1 x86_64 |\n|---|---|\n| `h` | ~~tp_btf~~<br>raw_tp, *seen*<br>tracepoint |\n"
        );
    }

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let readme = format!("a\n{BEGIN}old\n{END}b\n");
        assert_eq!(replaced(&readme, "new\n").unwrap(), format!("a\n{BEGIN}new\n{END}b\n"));
        assert!(replaced("nothing", "new").is_err());
    }
}
