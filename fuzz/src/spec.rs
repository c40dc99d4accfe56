//! `stratos.toml`.

use stratos_types::spec::{
    FunctionSpec, Inferred, MAX_CONCURRENCY, MAX_EGRESS_RULES, MAX_ENV_BYTES, MAX_INSTANCES,
};
use stratos_types::{Entry, Runtime};

/// A whole `stratos.toml`, alone and beside what a folder may tell.
pub fn function_spec(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let told = Inferred {
        name: Some("told".into()),
        runtime: Some(Runtime::Node24),
        entry: Some(Entry::Handler("index.handler".into())),
    };
    for inferred in [Inferred::default(), told] {
        match FunctionSpec::parse(text, &inferred) {
            Ok(spec) => check(&spec),
            Err(error) => assert!(!error.message.is_empty() && !error.hint.is_empty(), "{error}"),
        }
    }
}

/// What holds for every specification: limits, and that what the store keeps of it is read as the same.
pub(crate) fn check(spec: &FunctionSpec) {
    assert!(spec.cpu.is_none_or(|cpu| (50..=1_024_000).contains(&cpu.millis())));
    assert!((1..=MAX_CONCURRENCY).contains(&spec.concurrency));
    assert!((1..=MAX_INSTANCES).contains(&spec.max_instances));
    assert!(spec.egress.len() <= MAX_EGRESS_RULES);
    assert!(spec.env.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>() <= MAX_ENV_BYTES);
    let arguments = match &spec.entry {
        Entry::Handler(handler) => {
            assert!(!handler.is_empty() && !handler.starts_with('/'), "{handler:?}");
            assert!(handler.split('/').all(|part| part != ".."), "{handler:?}");
            std::slice::from_ref(handler)
        }
        Entry::Start(argv) | Entry::Client { argv, .. } => {
            assert!(!argv.is_empty());
            argv.as_slice()
        }
    };
    // All of it goes through execve(2), where NUL ends a text.
    let pairs = spec.env.iter().flat_map(|(name, value)| [name, value]);
    assert!(arguments.iter().chain(pairs).all(|text| !text.contains('\0')), "{spec:?}");
    let written = spec.to_toml();
    let again = FunctionSpec::parse(&written, &Inferred::default());
    assert_eq!(again.as_ref(), Ok(spec), "written as\n{written}");
}
