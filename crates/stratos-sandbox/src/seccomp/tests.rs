//! Compiled programs against the rule lists they come from.

use super::compile::{AUDIT_ARCH, X32_BIT, compile};
use super::interpreter::{Call, run};
use super::profile::{Action, Condition, Profile};
use super::{SHIPPED, SeccompError, SeccompFilter, shipped};

fn value(action: Action) -> u32 {
    match action {
        Action::Allow => 0x7fff_0000,
        Action::Errno(errno) => 0x0005_0000 | u32::from(errno),
    }
}

/// What the rules say, read one after the other.
fn expected(profile: &Profile, number: u32, args: &[u64; 6]) -> u32 {
    let Some(decision) = profile.decisions.get(&number) else { return value(profile.default) };
    let holds = |c: &Condition| {
        let arg = args[usize::from(c.index)];
        let arg = if c.narrow { u64::from(arg as u32) } else { arg };
        c.values.contains(&(arg & c.mask)) != c.negated
    };
    let branch = decision.branches.iter().find(|(conditions, _)| conditions.iter().all(holds));
    value(branch.map_or(decision.otherwise, |(_, action)| *action))
}

/// Arguments near everything the conditions of call `number` look at, all combinations of those.
fn samples(profile: &Profile, number: u32) -> Vec<[u64; 6]> {
    let mut samples = vec![[0; 6], [u64::MAX; 6]];
    let Some(decision) = profile.decisions.get(&number) else { return samples };
    for condition in decision.branches.iter().flat_map(|(conditions, _)| conditions) {
        let mut interesting = vec![0, u64::MAX, condition.mask, !condition.mask];
        for value in &condition.values {
            interesting.extend([*value, value ^ 1, value | !condition.mask, value | 1 << 32, value << 32]);
            interesting.extend([value.wrapping_add(1), value | 0x8_0000]);
        }
        let old = samples.clone();
        for arg in interesting {
            samples.extend(old.iter().take(2000).map(|args| {
                let mut args = *args;
                args[usize::from(condition.index)] = arg;
                args
            }));
        }
    }
    samples
}

fn check(name: &str, profile: &Profile) -> usize {
    let program = compile(profile);
    for number in 0..600 {
        for args in samples(profile, number) {
            let (verdict, _) = run(&program, &Call { number, arch: AUDIT_ARCH, args });
            let expected = expected(profile, number, &args);
            assert_eq!(verdict, expected, "{name}: call {number} with {args:x?}");
        }
    }
    for number in [X32_BIT, X32_BIT + 1, X32_BIT | 59, u32::MAX] {
        let (verdict, _) = run(&program, &Call { number, arch: AUDIT_ARCH, args: [0; 6] });
        assert_eq!(verdict, value(Action::Errno(libc::ENOSYS as u16)), "{name}: x32 call {number:#x}");
    }
    for arch in [0, 0x4000_0003, AUDIT_ARCH ^ 1] {
        let (verdict, _) = run(&program, &Call { number: 0, arch, args: [0; 6] });
        assert_eq!(verdict, 0x8000_0000, "{name}: architecture {arch:#x}");
    }
    program.len()
}

fn parse(text: &str) -> Result<Profile, SeccompError> {
    Profile::parse(text, |file| shipped(file.strip_suffix(".json")?))
}

#[test]
fn shipped_profiles_mean_what_their_rules_say() {
    for (name, text) in SHIPPED {
        let profile = parse(text).unwrap_or_else(|e| panic!("{name}: {e}"));
        let instructions = check(name, &profile);
        let steps = (0..470)
            .map(|number| {
                let call = Call { number, arch: AUDIT_ARCH, args: [0; 6] };
                run(&compile(&profile), &call).1
            })
            .max();
        println!(
            "{name}: {} calls, {instructions} instructions, at most {steps:?} run",
            profile.decisions.len()
        );
        // About 130 for the tree, the rest looks at arguments.
        assert!(instructions <= 250, "{name}: {instructions} instructions");
    }
}

#[test]
fn every_profile_in_the_folder_is_shipped() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../distro/seccomp");
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter_map(|name| name.strip_suffix(".json").map(str::to_owned))
        .collect();
    names.sort();
    assert_eq!(names, SHIPPED.iter().map(|(name, _)| *name).collect::<Vec<_>>());
}

#[test]
fn random_profiles_mean_what_their_rules_say() {
    // xorshift: the same profiles at each run.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    for round in 0..40 {
        let mut decisions = std::collections::BTreeMap::new();
        for _ in 0..random(400) {
            let action = [Action::Allow, Action::Errno(1), Action::Errno(38)][random(3) as usize];
            let branches = (0..random(8).saturating_sub(5))
                .map(|_| {
                    let mask = [u64::MAX, 0xffff_ffff, 0xf, 0xff00_0000_0000][random(4) as usize];
                    let values = (0..1 + random(3)).map(|_| (random(20) * 0x1_0000_0003) & mask).collect();
                    let narrow = mask == 0xf;
                    let condition =
                        Condition { index: random(6) as u8, narrow, mask, values, negated: random(2) == 0 };
                    (vec![condition], Action::Errno(random(5) as u16))
                })
                .collect();
            let decision = super::profile::Decision { branches, otherwise: action };
            decisions.insert(random(500) as u32, decision);
        }
        check(&format!("round {round}"), &Profile { default: Action::Errno(13), decisions });
    }
}

#[test]
fn three_hundred_allowed_calls_stay_short() {
    let decisions = (0..450)
        .filter(|n| n % 3 != 1)
        .map(|n| (n, super::profile::Decision { branches: Vec::new(), otherwise: Action::Allow }))
        .collect();
    // The worst case: every third call forbidden, so that nothing merges beyond pairs.
    let worst = check("worst", &Profile { default: Action::Errno(38), decisions });
    println!("worst case of 300 allowed calls: {worst} instructions");
    assert!(worst <= 400, "{worst} instructions");
}

/// A profile with `rules`, which are JSON.
fn profile(rules: &str) -> String {
    format!(r#"{{"description": "test", "default": {{"errno": "ENOSYS"}}, "rules": [{rules}]}}"#)
}

#[test]
fn wrong_profiles_say_why() {
    let allow = |calls: &str, rest: &str| {
        profile(&format!(r#"{{"syscalls": [{calls}], "action": "allow", "reason": "r"{rest}}}"#))
    };
    let arg = |arg: &str| allow(r#""read""#, &format!(r#", "args": [{arg}]"#));
    let cases = [
        ("{}".into(), "malformed"),
        (allow(r#""raed""#, ""), "rule 1 (raed) names `raed`, which is no system call"),
        (allow("", ""), "names no system call"),
        (allow(r#""read", "read""#, ""), "rule 1 (read, read) decides `read` again"),
        (allow(r#""read""#, r#", "extra": 1"#), "malformed"),
        (
            profile(r#"{"syscalls": ["read"], "action": "allow", "reason": " "}"#),
            "rule 1 (read) gives no reason",
        ),
        (profile(r#"{"syscalls": ["read"], "action": "kill", "reason": "r"}"#), "malformed"),
        (profile(r#"{"syscalls": ["read"], "action": {"errno": "EWHAT"}, "reason": "r"}"#), "`EWHAT`"),
        (arg(r#"{"index": 6, "width": 32, "op": "eq", "value": 1}"#), "arguments 0 to 5"),
        (arg(r#"{"index": 0, "width": 16, "op": "eq", "value": 1}"#), "width"),
        (arg(r#"{"index": 0, "width": 32, "op": "eq", "value": "0x100000000"}"#), "within"),
        (arg(r#"{"index": 0, "width": 32, "op": "eq", "value": "12"}"#), "decimal"),
        (arg(r#"{"index": 0, "width": 32, "op": "masked_eq", "value": 1}"#), "needs `mask`"),
        (arg(r#"{"index": 0, "width": 32, "op": "masked_eq", "value": 1, "mask": 2}"#), "within"),
        (arg(r#"{"index": 0, "width": 32, "op": "in", "values": []}"#), "`values`"),
        (arg(r#"{"index": 0, "width": 32, "op": "gt", "value": 1}"#), "malformed"),
        (
            profile(
                r#"{"syscalls": ["read"], "action": "allow", "reason": "r"},
                   {"syscalls": ["write", "read"], "action": {"errno": "EPERM"}, "reason": "r"}"#,
            ),
            "rule 2 (write, read) decides `read` again, after rule 1 (read)",
        ),
        (
            profile(
                r#"{"syscalls": ["read"], "action": "allow", "reason": "r"},
                   {"syscalls": ["read"], "action": {"errno": "EPERM"}, "reason": "r",
                    "args": [{"index": 0, "width": 32, "op": "eq", "value": 1}]}"#,
            ),
            "rule 2 (read) can never apply to `read`",
        ),
        (r#"{"description": "d", "rules": []}"#.into(), "default action must stand"),
        (
            r#"{"description": " ", "default": {"errno": "EPERM"}, "rules": []}"#.into(),
            "description gives no",
        ),
        (r#"{"description": "d", "default": "allow", "rules": []}"#.into(), "must be an errno"),
        (
            r#"{"description": "d", "include": "other.json", "rules": []}"#.into(),
            "`other.json`, which does not",
        ),
        (r#"{"description": "d", "include": "native.json", "rules": []}"#.into(), "itself includes"),
        (
            r#"{"description": "d", "include": "base.json", "rules":
                [{"syscalls": ["ptrace"], "action": "allow", "reason": "r"}]}"#
                .into(),
            "decides `ptrace` again, after base.json rule",
        ),
    ];
    for (text, says) in cases {
        let error = SeccompFilter::from_json(&text).expect_err(&text).to_string();
        assert!(error.contains(says), "{text}\n{error}\nlacks: {says}");
    }
}
