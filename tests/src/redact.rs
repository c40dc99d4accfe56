//! Replaces what differs from run to run, so that outputs can be compared whole.

use std::path::Path;
use std::sync::OnceLock;

use regex::Regex;

/// What is replaced, in this order.
const VOLATILE: [(&str, &str); 16] = [
    ("sha256:[0-9a-f]{64}", "[digest]"),
    ("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "[id]"),
    ("[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]+)?Z?", "[time]"),
    ("(?-u:\\b)[0-9a-f]{12}(?-u:\\b)", "[instance]"),
    ("(?-u:\\b)[0-9a-f]{32}(?-u:\\b)", "[trace]"),
    // Phases, as `invoke`, the log and `show` tell them. Those that took no time are left out, so they go as a whole.
    ("\\([a-z]+ [0-9]+\\.[0-9](, [a-z]+ [0-9]+\\.[0-9])*\\)", "([phases])"),
    ("total=.*", "[phases]"),
    ("(cold|warm)( +[0-9.]+){6} ", "$1  [phases] "),
    // An instance's age and memory.
    ("(idle|busy|starting)( +[0-9]+ +[0-9]+) +[0-9]+ +([0-9.]+ [KM]iB|-)", "$1$2  [age]  [memory]"),
    ("[0-9]+\\.[0-9]+\\.[0-9]+", "[version]"),
    ("[0-9]+\\.[0-9]+ (ms|s|[KMG]iB)", "[n] $1"),
    ("[0-9]+ (s|[KMG]iB)(?-u:\\b)", "[n] $1"),
    ("[0-9]+ B(?-u:\\b)", "[n] B"),
    ("stratos-dev-[0-9A-Za-z]+", "stratos-dev-[random]"),
    // Columns are as wide as what was replaced.
    ("([^ \n])   +", "$1  "),
    ("([^ \n]) +\n", "$1\n"),
];

/// `text` with each of `paths` replaced by its name in brackets, and ids, times, digests and sizes by what they are.
///
/// # Panics
/// Never: the patterns are constants.
pub fn redact(text: &str, paths: &[(&Path, &str)]) -> String {
    static PATTERNS: OnceLock<Vec<(Regex, &str)>> = OnceLock::new();
    let compile =
        |(pattern, with): (&str, &'static str)| (Regex::new(pattern).expect("a valid pattern"), with);
    let patterns = PATTERNS.get_or_init(|| VOLATILE.into_iter().map(compile).collect());
    let mut text = text.to_owned();
    for (path, name) in paths {
        text = text.replace(&path.display().to_string(), &format!("[{name}]"));
    }
    for (pattern, with) in patterns {
        text = pattern.replace_all(&text, *with).into_owned();
    }
    text
}
