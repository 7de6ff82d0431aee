//! Where the node's files are looked for, and what is told of it.

use super::*;
use crate::cli;
use crate::probe::attach::{Refusal, Why};
use crate::probe::{Hook, Rung};

/// In a container the processes of pods are not below its own `/proc`: a socket that is looked for there is missed, and
/// the cause with it.
#[test]
fn what_is_of_the_host_is_looked_for_where_the_host_is() {
    let host = cli::read(["r2c-agent", "--host-proc", "/host/proc", "--host-sys", "/host/sys", "doctor"])
        .unwrap()
        .host;
    let kernel::Roots { proc, processes, sys } = kernel_roots(&host);
    assert_eq!([processes, sys], [Path::new("/host/proc"), Path::new("/host/sys")]);
    // Kernel symbols and sysctls are the same in any.
    assert_eq!(proc, Path::new("/proc"));
    assert_eq!(pod_roots(&host).proc, Path::new("/host/proc"));
}

#[test]
fn a_namespace_is_known_by_its_inode_and_one_of_its_processes() {
    let proc = tempfile::tempdir().unwrap();
    for (process, netns) in
        [("7", "net:[4026531840]"), ("8", "net:[4026531840]"), ("9", "net:[5]"), ("x", "net:[6]")]
    {
        fs::create_dir_all(proc.path().join(process).join("ns")).unwrap();
        std::os::unix::fs::symlink(netns, proc.path().join(process).join("ns/net")).unwrap();
    }
    let Namespaces { there, hidden } = namespaces(proc.path());
    assert_eq!(there.keys().copied().collect::<Vec<_>>(), [5, 4_026_531_840]);
    assert!(!hidden);
    assert_eq!(namespace(&proc.path().join("9")), Some(5));
    assert_eq!(namespace(&proc.path().join("1")), None);
    assert_eq!(inode(Path::new("uts:[5]")), None);
}

const FENTRY: Rung = Rung { name: "fentry", loses: "", attach: &[] };
const KPROBE: Rung = Rung { name: "kprobe", loses: "", attach: &[] };
const A: Hook = Hook { name: "a", tells: "", module: None, provoked: false, ladder: &[FENTRY, KPROBE] };
const B: Hook = Hook { name: "b", ..A };
const C: Hook = Hook { name: "c", ..A };
const IN_MODULE: Hook = Hook { name: "m", module: Some("nf_conntrack"), ..A };

fn climb(hook: &'static Hook, holds: Option<&'static Rung>, whys: &[(&'static Rung, &str)]) -> Climb {
    let refusal = |(rung, why): &(&'static Rung, &str)| Refusal { rung, why: Why::from(*why) };
    Climb { hook, holds, refused: whys.iter().map(refusal).collect() }
}

#[test]
fn hooks_are_told_with_their_rungs_and_those_refused_alike_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let told = |climbs: &[Climb]| {
        let told = told(&Kernel::load_from(kernel::Roots::under(dir.path())), "drops", climbs);
        (told.held, told.refused)
    };
    let (held, refused) = told(&[
        climb(&A, Some(&FENTRY), &[]),
        climb(&B, Some(&KPROBE), &[(&FENTRY, "no types")]),
        climb(&IN_MODULE, None, &[(&FENTRY, "not there")]),
    ]);
    assert_eq!(
        held,
        [
            "hook a of drops by fentry",
            "hook b of drops by kprobe; refused fentry: no types",
            "hook m of drops is in a module that is not loaded"
        ]
    );
    assert_eq!(refused, [] as [&str; 0]);
    let alike = [&A, &C].map(|hook| climb(hook, None, &[(&FENTRY, "no types"), (&KPROBE, "no rights")]));
    let (_, refused) = told(&[&alike[..], &[climb(&B, None, &[])]].concat());
    assert_eq!(
        refused,
        [
            "probe drops does without hooks a, c: fentry: no types; kprobe: no rights",
            "probe drops does without hook b: no rung of that name"
        ]
    );
    // A hook of a module that is loaded is as good as any.
    fs::create_dir_all(dir.path().join("sys/module/nf_conntrack")).unwrap();
    let (held, refused) = told(&[climb(&IN_MODULE, None, &[(&FENTRY, "no types")])]);
    assert_eq!(held, [] as [&str; 0]);
    assert_eq!(refused, ["probe drops does without hook m: fentry: no types"]);
}

#[test]
fn only_formats_are_needless_and_only_beside_types() {
    assert!(is_needless(Part::Tracefs, true));
    assert!(!is_needless(Part::Tracefs, false) && !is_needless(Part::Symbols, true));
}

#[test]
fn a_ring_is_as_large_as_the_user_says() {
    let cli = cli::read(["r2c-agent", "run", "--ring-kib", "8", "--events-per-second", "3"]).unwrap();
    let settings = settings(cli.command.limits().unwrap());
    assert_eq!((settings.ring_bytes, settings.records_per_second), (8192, 3));
}

#[test]
fn interfaces_are_those_of_every_namespace() {
    const HEADINGS: &str = "Inter-|   Receive\n face |bytes\n";
    let proc = tempfile::tempdir().unwrap();
    let process = |pid: &str, netns: &str, devices: &str| {
        let dir = proc.path().join(pid);
        fs::create_dir_all(dir.join("ns")).unwrap();
        fs::create_dir_all(dir.join("net")).unwrap();
        std::os::unix::fs::symlink(netns, dir.join("ns/net")).unwrap();
        fs::write(dir.join("net/dev"), format!("{HEADINGS}{devices}")).unwrap();
    };
    process("7", "net:[5]", "    lo: 0 0\n  eth0: 1 1\n");
    process("8", "net:[6]", "    lo: 0 0\nveth1:0 0\n no counters\n");
    let names = ["eth0", "lo", "veth1"].map(str::to_owned).into();
    assert_eq!(interfaces(proc.path()), Interfaces { names, hidden: false });
    // One that has ended hides nothing.
    fs::create_dir(proc.path().join("9")).unwrap();
    assert!(!namespaces(proc.path()).hidden);
}

#[tokio::test]
async fn the_pods_that_are_there_and_what_is_left_out_are_counted() {
    let files = enrich::tests::node::Node::new();
    files.pod(1).run(50, 7, &["10.0.0.5"]);
    files.pod(3).run(70, 9, &["10.0.0.7"]);
    let leaves = files.pod(2);
    leaves.run(60, 8, &["10.0.0.6"]);
    let running = files.start().await;
    leaves.remove();
    running.until("one is gone", || running.index.pods().iter().any(|known| known.gone)).await;
    running.index.stats().full.store(3, Relaxed);
    let mut metrics = crate::metrics::Metrics::default();
    metrics.registry().register_collector(Box::new(PodsReport(running.index.clone())));
    let text = metrics.encode(crate::metrics::Format::Classic).unwrap();
    for line in [
        "r2c_pods 2",
        "r2c_pods_left_out_total{why=\"slots_full\"} 3",
        "r2c_pods_left_out_total{why=\"pids_hidden\"} 0",
    ] {
        assert!(text.lines().any(|other| other == line), "{line}: {text}");
    }
    running.end().await;
}

#[test]
fn hidden_symbols_are_shown_by_the_right_the_setting_or_both() {
    let setting = "set kernel.kptr_restrict below 2";
    for restrict in ["0", "1"] {
        assert_eq!(show_symbols(restrict, true), "");
        assert_eq!(show_symbols(restrict, false), cure_of(Right::Syslog));
    }
    assert_eq!(show_symbols("2", true), setting);
    assert_eq!(show_symbols("unknown", false), format!("{}, and {setting}", cure_of(Right::Syslog)));
}
