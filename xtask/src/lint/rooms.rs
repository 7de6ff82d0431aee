//! The design's rooms and doors: which part of the code may name which other.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::source::{self, Named};

/// One row of the design's table: a room of the crate `agent`.
struct Room {
    name: &'static str,
    /// Rooms of this table it may name, besides itself. Modules that are in no row are open to all.
    doors: &'static [&'static str],
    /// Other crates (or parts of them) it must not name.
    never: &'static [&'static str],
}

const ROOMS: [Room; 12] = [
    Room { name: "kernel", doors: &[], never: &["clap", "k8s_openapi", "kube", "prometheus_client"] },
    Room {
        name: "probe",
        doors: &["incident", "kernel", "pod", "rights", "sink"],
        never: &["clap", "k8s_openapi", "kube"],
    },
    Room {
        name: "probes",
        doors: &["kernel", "links", "pod", "probe"],
        never: &["clap", "k8s_openapi", "kube"],
    },
    Room {
        name: "pod",
        doors: &[],
        never: &["agent_common", "aya", "clap", "k8s_openapi", "kube", "nix", "tokio"],
    },
    Room {
        name: "rights",
        doors: &[],
        never: &["agent_common", "aya", "clap", "k8s_openapi", "kube", "prometheus_client", "tokio"],
    },
    Room {
        name: "links",
        doors: &["pod", "rights"],
        never: &["agent_common", "aya", "clap", "k8s_openapi", "kube", "prometheus_client", "tokio"],
    },
    Room { name: "enrich", doors: &["pod", "rights"], never: &["agent_common", "aya", "clap"] },
    Room {
        name: "incident",
        doors: &["pod"],
        never: &["agent_common", "aya", "clap", "k8s_openapi", "kube"],
    },
    Room {
        name: "sink",
        doors: &["incident", "pod"],
        never: &["agent_common", "aya", "clap", "k8s_openapi", "kube"],
    },
    Room {
        name: "path",
        doors: &["links", "pod", "sink"],
        never: &["agent_common", "aya", "clap", "k8s_openapi", "kube", "prometheus_client", "tokio"],
    },
    // The verbs may use everything; see COMMANDS for who may use them.
    Room { name: "main", doors: &["*"], never: &[] },
    Room { name: "cli", doors: &["*"], never: &[] },
];

/// Rooms that are the end of the path: only `main` names them, and there as the library's.
const COMMANDS: [&str; 3] = ["run", "trace", "doctor"];

/// The one file that names programs of aya: all others speak of rungs.
const ATTACH: &str = "agent/src/probe/attach.rs";

/// Words that say nothing of what a module or type is.
const BANNED: [&str; 14] = [
    "manager", "handler", "util", "utils", "helper", "helpers", "service", "engine", "processor", "data",
    "info", "common", "infos", "managers",
];

/// The crates' sources, and what their manifests may depend on where the design limits it.
const CRATES: [(&str, Option<&[&str]>); 6] = [
    ("agent", None),
    ("agent-common", Some(&["aya"])),
    ("agent-ebpf", Some(&["agent-common", "aya-ebpf", "aya-log-ebpf"])),
    ("tests", None),
    ("tests/fuzz", None),
    ("xtask", None),
];

/// Everything in the tree at `root` that breaks a rule, as `file:line: what`.
pub(super) fn check(root: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let probes = stems(&root.join("agent-ebpf/src/bin"))?;
    for (name, dependencies) in CRATES {
        if let Some(allowed) = dependencies {
            let manifest = format!("{name}/Cargo.toml");
            let text = fs::read_to_string(root.join(&manifest)).context(manifest.clone())?;
            found.extend(foreign_dependencies(&text, allowed).map(|what| format!("{manifest}: {what}")));
        }
        let mut paths = sources(&root.join(name).join("src"))?;
        let targets = root.join(name).join("fuzz_targets");
        if targets.is_dir() {
            paths.extend(sources(&targets)?);
        }
        for path in paths {
            let file = path.strip_prefix(root)?.to_string_lossy().into_owned();
            let text = fs::read_to_string(&path).context(file.clone())?;
            found.extend(check_file(&file, &text, &probes));
        }
    }
    found.extend(probes.iter().flat_map(|probe| missing_files(root, probe)));
    Ok(found)
}

/// What of one file breaks a rule. `file` is relative to the root of the tree.
fn check_file(file: &str, text: &str, probes: &[String]) -> Vec<String> {
    let module = module(file);
    let source = source::read(text, &module);
    let mut found = Vec::new();
    if file.ends_with("/mod.rs") {
        found.push(format!("{file}:1: `mod.rs`: name the file after its module"));
    }
    let own = Named { line: 1, segments: module.last().map(|name| (*name).to_owned()).into_iter().collect() };
    for name in source.declared.iter().chain([&own]) {
        if let Some(word) = name.segments.first().and_then(|name| banned_word(name)) {
            found.push(format!(
                "{file}:{}: `{}`: {word:?} says nothing, name what it is",
                name.line, name.segments[0]
            ));
        }
    }
    for path in &source.paths {
        if let Some(why) = closed_door(file, &module, &path.segments, probes) {
            found.push(format!("{file}:{}: `{}`: {why}", path.line, path.segments.join("::")));
        }
    }
    found
}

/// Why this file may not name this path.
fn closed_door(file: &str, module: &[&str], path: &[String], probes: &[String]) -> Option<String> {
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    if file.starts_with("tests/") {
        let sleeps =
            matches!(path[..], [.., "thread" | "time", "sleep"]) && !file.starts_with("tests/src/harness");
        return sleeps.then(|| "tests wait on a condition, they do not sleep".to_owned());
    }
    if !file.starts_with("agent/src/") {
        return None;
    }
    if path.starts_with(&["aya", "programs"]) && file != ATTACH {
        return Some(format!("only {ATTACH} names aya's programs"));
    }
    let room = ROOMS.iter().find(|room| Some(&room.name) == module.first());
    match path[..] {
        ["crate", target, ..] if COMMANDS.contains(&target) && module.first() != Some(&target) => {
            Some(format!("nothing but `main` uses the command `{target}`"))
        }
        ["crate", "probes", other, ..] | ["agent_common", other, ..]
            if module.first() == Some(&"probes") && is_other_probe(module, other, probes) =>
        {
            Some("a probe does not know another probe".to_owned())
        }
        ["crate", target, ..] => {
            let room = room?;
            let tabled = ROOMS.iter().any(|room| room.name == target);
            let open = target == room.name || room.doors.contains(&target) || room.doors.contains(&"*");
            (tabled && !open).then(|| format!("no door from `{}` to `{target}`", room.name))
        }
        [foreign, ..] => {
            let room = room?;
            room.never.contains(&foreign).then(|| format!("`{}` must not know `{foreign}`", room.name))
        }
        [] => None,
    }
}

/// Whether `name` is a probe, and not the one whose module this is; the list of all probes knows each.
fn is_other_probe(module: &[&str], name: &str, probes: &[String]) -> bool {
    module.get(1).is_some_and(|own| *own != name) && probes.iter().any(|probe| probe == name)
}

/// `agent/src/probe/attach.rs` is the module `probe::attach`.
fn module(file: &str) -> Vec<&str> {
    let inside = file.split_once("/src/").map_or(file, |(_, inside)| inside);
    let inside = inside.strip_suffix(".rs").unwrap_or(inside);
    inside.split('/').filter(|name| *name != "lib").collect()
}

/// The first banned word among the words of a name in either style.
fn banned_word(name: &str) -> Option<&'static str> {
    let mut snake = String::new();
    for c in name.chars() {
        if c.is_uppercase() {
            snake.push('_');
        }
        snake.extend(c.to_lowercase());
    }
    let words: Vec<&str> = snake.split('_').collect();
    BANNED.into_iter().find(|banned| words.contains(banned))
}

/// Entries of a manifest's `[dependencies]` that the design does not allow there.
fn foreign_dependencies(manifest: &str, allowed: &[&str]) -> impl Iterator<Item = String> {
    let inside = manifest.lines().skip_while(|line| line.trim() != "[dependencies]").skip(1);
    let names = inside
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split(['=', '.', ' ']).next());
    names
        .filter(|name| !name.is_empty() && !name.starts_with('#') && !allowed.contains(name))
        .map(|name| format!("must not depend on `{name}`"))
}

/// What a probe must have and has not.
fn missing_files(root: &Path, probe: &str) -> Vec<String> {
    let mut missing = Vec::new();
    for place in ["agent-common/src", "agent/src/probes", "tests/src"] {
        if !root.join(place).join(format!("{probe}.rs")).exists() {
            missing.push(format!("{place}/{probe}.rs: missing for the probe `{probe}`"));
        }
    }
    let readme = fs::read_to_string(root.join("README.md")).unwrap_or_default();
    let is_row = |line: &str| {
        let first = line.trim().strip_prefix('|').and_then(|row| row.split('|').next()).unwrap_or_default();
        first.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == probe)
    };
    if !readme.lines().any(is_row) {
        missing.push(format!("README.md: no table row for the probe `{probe}`"));
    }
    missing
}

/// The names of the source files in a directory, without `.rs`.
fn stems(directory: &Path) -> Result<Vec<String>> {
    // What is in a folder beside one belongs to that one.
    let beside = |path: &&PathBuf| path.parent() == Some(directory);
    let mut stems: Vec<String> = sources(directory)?
        .iter()
        .filter(beside)
        .filter_map(|path| path.file_stem().map(|stem| stem.to_string_lossy().into_owned()))
        .collect();
    stems.sort_unstable();
    Ok(stems)
}

/// Every source file under a directory, in order.
fn sources(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(sources(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort_unstable();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::{check_file, foreign_dependencies, missing_files};

    fn findings(file: &str, text: &str) -> usize {
        check_file(file, text, &["drops".to_owned(), "mtu".to_owned()]).len()
    }

    #[test]
    fn open_doors_are_open() {
        assert_eq!(
            findings("agent/src/probe/attach.rs", "use aya::programs::KProbe; use crate::kernel::btf;"),
            0
        );
        assert_eq!(
            findings("agent/src/probes.rs", "use crate::probes::{drops, mtu}; use crate::probe::Probe;"),
            0
        );
        assert_eq!(
            findings("agent/src/probes/mtu.rs", "use agent_common::mtu::Record; use super::mtu::x;"),
            0
        );
        assert_eq!(
            findings("agent/src/enrich/pods.rs", "use kube::Client; use crate::pod::{Pod, FindPod};"),
            0
        );
        assert_eq!(findings("agent/src/run.rs", "use crate::{enrich, probes::ALL, sink::Json, run::x};"), 0);
        assert_eq!(findings("agent/src/main.rs", "use agent::{run, trace};"), 0);
        assert_eq!(findings("agent/src/kernel/btf.rs", "use crate::shutdown::X; // crate::sink::Y"), 0);
    }

    #[test]
    fn closed_doors_are_closed() {
        assert_eq!(findings("agent/src/kernel/btf.rs", "use crate::{enrich::X, sink};"), 2);
        assert_eq!(findings("agent/src/probe/ring.rs", "use crate::probes::drops::Drops;"), 1);
        assert_eq!(findings("agent/src/probe/ring.rs", "fn f() { crate::enrich::find() }"), 1);
        assert_eq!(findings("agent/src/probes/mtu.rs", "use aya::{maps::RingBuf, programs::KProbe};"), 1);
        assert_eq!(findings("agent/src/probes/mtu.rs", "use super::drops::Drops;"), 1);
        assert_eq!(findings("agent/src/probes/mtu/flow.rs", "use agent_common::drops::Key;"), 1);
        assert_eq!(findings("agent/src/pod.rs", "use crate::incident::Trace;"), 1);
        assert_eq!(findings("agent/src/links/read.rs", "use crate::{enrich::PodIndex, probe::X};"), 2);
        assert_eq!(findings("agent/src/enrich.rs", "use aya::maps::HashMap;"), 1);
        assert_eq!(findings("agent/src/incident.rs", "fn f(x: kube::Client) {}"), 1);
        assert_eq!(findings("agent/src/sink/json.rs", "use crate::probes;"), 1);
        assert_eq!(findings("agent/src/trace.rs", "use crate::run::start;"), 1);
        assert_eq!(findings("agent/src/http.rs", "use crate::doctor;"), 1);
    }

    #[test]
    fn tests_do_not_sleep_outside_the_harness() {
        assert_eq!(findings("tests/src/drops.rs", "fn f() { std::thread::sleep(x) }"), 1);
        assert_eq!(findings("tests/src/harness.rs", "fn f() { std::thread::sleep(x) }"), 0);
    }

    #[test]
    fn names_that_say_nothing_are_refused() {
        assert_eq!(findings("agent/src/x.rs", "struct PodManager; mod net_utils; enum BuildInfo {}"), 3);
        assert_eq!(findings("agent/src/helpers.rs", ""), 1);
        assert_eq!(findings("agent/src/probe/mod.rs", ""), 1);
        assert_eq!(findings("agent/src/x.rs", "struct Metadata; enum Fate {} fn data() { info!() }"), 0);
    }

    #[test]
    fn manifests_keep_to_their_crates() {
        let manifest = "[dependencies]\naya = { workspace = true }\nserde.workspace = true\n\n[lints]\nworkspace = true\n";
        assert_eq!(
            foreign_dependencies(manifest, &["aya"]).collect::<Vec<_>>(),
            ["must not depend on `serde`"]
        );
    }

    #[test]
    fn a_probe_has_all_its_files() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(missing_files(root.path(), "mtu").len(), 4);
        for file in ["agent-common/src/mtu.rs", "agent/src/probes/mtu.rs", "tests/src/mtu.rs"] {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        std::fs::write(root.path().join("README.md"), "| probe | asks |\n|---|---|\n| `mtu` | why |\n")
            .unwrap();
        assert!(missing_files(root.path(), "mtu").is_empty());
    }
}
