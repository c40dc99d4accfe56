//! Every fuzz target over its corpus and 20,000 mutations of it, without libFuzzer. For longer runs see
//! `fuzz/README.md`.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use stratos_fuzz::mutate::Mutator;
use stratos_fuzz::{TARGETS, Target, corpus, folder};

/// Mutations of each target.
const RUNS: u32 = 20_000;
/// What all mutations follow from. `STRATOS_FUZZ_SEED` takes its place.
const SEED: u64 = 0x5354_5241_544f_5331;

fn seed() -> u64 {
    match std::env::var("STRATOS_FUZZ_SEED") {
        Ok(text) => text.parse().expect("STRATOS_FUZZ_SEED is a number"),
        Err(_) => SEED,
    }
}

fn run(name: &str) {
    let target = TARGETS.iter().find(|(known, _)| *known == name).expect("the target is in the table").1;
    let corpus = corpus(name).expect("the target has a corpus");
    assert!(!corpus.is_empty(), "the corpus of {name} is empty");
    let seed = seed();
    println!("{name}: {} seeds, {RUNS} mutations from seed {seed}", corpus.len());
    let started = Instant::now();
    corpus.iter().for_each(|input| try_one(name, target, input));
    let mut mutator = Mutator::new(seed);
    for _ in 0..RUNS {
        try_one(name, target, &mutator.next_input(&corpus));
    }
    println!("{name}: {:.1} s", started.elapsed().as_secs_f64());
}

fn try_one(name: &str, target: Target, input: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| target(input))).is_err() {
        panic!("{name} fails on b\"{}\"; keep that as a file in fuzz/corpus/{name}", input.escape_ascii());
    }
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test] fn $name() { run(stringify!($name)); })*
        const TESTED: &[&str] = &[$(stringify!($name)),*];
    };
}

targets! {
    artifact aws_name boot_config boot_dhcp boot_gpt boot_nocloud boot_smbios boot_sntp boot_verity caller_trace
    checkpoint console dns egress_rule elf endpoint error_report function_spec go_program identifiers infer layers
    machine package_entry prelude requirements seccomp sigv4 telemetry trace_context unpack unpack_entries url_answer
    url_event wire
}

/// A target that is in one place only would not be run in another.
#[test]
fn every_target_has_a_test_a_program_and_a_corpus() {
    let names: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names, TESTED.iter().map(|name| (*name).to_owned()).collect(), "tests");
    let files = |below: &str| -> BTreeSet<String> {
        let entries = std::fs::read_dir(folder().join(below)).expect("the folder is there");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        paths.map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned()).collect()
    };
    assert_eq!(names, files("fuzz_targets"), "programs");
    assert_eq!(names, files("corpus"), "corpora");
    let manifest = std::fs::read_to_string(folder().join("Cargo.toml")).expect("the manifest is there");
    let manifest: toml::Table = manifest.parse().expect("it is TOML");
    let programs = manifest["bin"].as_array().expect("programs").iter();
    let programs = programs.map(|program| program["name"].as_str().expect("a name").to_owned());
    assert_eq!(names, programs.collect(), "entries in the manifest");
}
