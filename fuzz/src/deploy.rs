//! What a deploy reads of a package's files.

use std::collections::BTreeMap;

use stratos_agent::deploy::requirements::Text;
use stratos_agent::deploy::{self, Seen, TopFile};
use stratos_types::FunctionName;
use stratos_types::spec::FunctionSpec;

/// Files, each after a line `>>> NAME`: `*NAME` is an executable ELF file, `+NAME` one without its x bit. What stands
/// before the first is the name that the client gave.
fn files(text: &str) -> (Option<&str>, BTreeMap<&str, &str>) {
    let mut parts = text.split(">>> ");
    let name = parts.next().map(str::trim).filter(|name| !name.is_empty());
    (name, parts.map(|part| part.split_once('\n').unwrap_or((part, ""))).collect())
}

/// Inference from a folder's files, and the specification that comes of it.
pub fn infer(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (expected, marked) = files(text);
    let expected = expected.and_then(|name| name.parse::<FunctionName>().ok());
    let mut top = BTreeMap::new();
    let mut contents = BTreeMap::new();
    for (name, content) in marked {
        let (executable, elf) = (name.starts_with('*'), name.starts_with(['*', '+']));
        let name = name.trim_start_matches(['*', '+']);
        if !name.is_empty() && !name.contains('/') {
            top.insert(name.to_owned(), TopFile { executable, elf });
        }
        contents.insert(name, content);
    }
    let spec = contents.get("stratos.toml").copied().unwrap_or_default();
    let inferred = deploy::infer(&Seen {
        spec,
        package_json: contents.get("package.json").copied(),
        files: &top,
        expected_name: expected.as_ref(),
        source: &|name| contents.get(name).map(|text| (*text).to_owned()),
    });
    let inferred = match inferred {
        Ok(inferred) => inferred,
        Err(error) => {
            assert!(!error.message.is_empty() && !error.hint.is_empty(), "{error}");
            return;
        }
    };
    assert!(inferred.name.as_ref().is_none_or(|name| name.parse::<FunctionName>().is_ok()), "{inferred:?}");
    if let Ok(spec) = FunctionSpec::parse(spec, &inferred) {
        crate::spec::check(&spec);
    }
}

/// Requirements files as for [`infer`]; the first is the one that pip is given.
pub fn requirements(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (_, files) = files(text);
    let start = files.keys().next().copied().unwrap_or("requirements.txt");
    let read = |name: &str| match files.get(name) {
        Some(text) => Text::Read((*text).to_owned()),
        None => Text::Missing,
    };
    if deploy::requirements::check(start, &read).is_err() {
        return;
    }
    // What pip would make of an accepted file, read its way: no line asks it to build anything.
    let text = files.get(start).copied().unwrap_or_default();
    for line in pip::lines(text) {
        for word in pip::options(&line) {
            let unwanted = ["-e", "--e", "-C", "--co", "--g", "--no-b", "--only-b", "--use-f"];
            // `--constraint` begins as `--config-settings` does.
            let known = word.starts_with("--cons") || word.starts_with("--no-i");
            assert!(
                known || !unwanted.iter().any(|start| word.starts_with(start)),
                "pip reads `{word}` in {line:?}"
            );
        }
    }
}

/// How pip 25 reads a requirements file (`pip/_internal/req/req_file.py`), as far as options go: not how the agent
/// does, which is what is compared.
mod pip {
    /// All that ends a line for Python's `str.splitlines`.
    const LINE_ENDS: &str = "\n\r\u{b}\u{c}\u{1c}\u{1d}\u{1e}\u{85}\u{2028}\u{2029}";

    fn is_space(c: char) -> bool {
        c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
    }

    /// Lines, joined and without comments.
    pub(super) fn lines(text: &str) -> Vec<String> {
        let text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n");
        let mut joined = Vec::new();
        let mut open: Option<String> = None;
        for line in text.split(|c| LINE_ENDS.contains(c)) {
            let comment = line.trim_start_matches(is_space).starts_with('#');
            if line.ends_with('\\') && !comment {
                open.get_or_insert_default().push_str(line.trim_matches('\\'));
                continue;
            }
            let space = if comment { " " } else { "" };
            joined.push(open.take().unwrap_or_default() + space + line);
        }
        joined.extend(open);
        joined.iter().map(|line| uncommented(line).trim_matches(is_space).to_owned()).collect()
    }

    fn uncommented(line: &str) -> &str {
        let comment = line
            .char_indices()
            .find(|(at, c)| *c == '#' && (*at == 0 || line[..*at].ends_with(is_space)))
            .map_or(line.len(), |(at, _)| at);
        &line[..comment]
    }

    /// The words from the first that begins with a dash, as Python's `shlex.split` takes them.
    pub(super) fn options(line: &str) -> Vec<String> {
        let mut tokens = line.split(' ').skip_while(|token| !token.starts_with('-')).peekable();
        if tokens.peek().is_none() {
            return Vec::new();
        }
        let rest = tokens.collect::<Vec<_>>().join(" ");
        let mut words = Vec::new();
        let mut word: Option<String> = None;
        let mut quote = None;
        let mut chars = rest.chars();
        while let Some(c) = chars.next() {
            match (quote, c) {
                (Some(open), c) if c == open => quote = None,
                (Some('"'), '\\') => {
                    let next = chars.next().unwrap_or('\\');
                    let word = word.get_or_insert_default();
                    if !matches!(next, '"' | '\\') {
                        word.push('\\');
                    }
                    word.push(next);
                }
                (Some(_), c) => word.get_or_insert_default().push(c),
                (None, '"' | '\'') => {
                    quote = Some(c);
                    word.get_or_insert_default();
                }
                (None, '\\') => word.get_or_insert_default().extend(chars.next()),
                (None, ' ' | '\t' | '\r' | '\n') => words.extend(word.take()),
                (None, c) => word.get_or_insert_default().push(c),
            }
        }
        words.extend(word);
        words
    }
}

/// The head of an executable.
pub fn elf(data: &[u8]) {
    for arch in ["x86_64", "aarch64", "riscv64"] {
        if deploy::elf::check(data, arch).is_ok() {
            assert!(data.len() >= 64 && data.starts_with(b"\x7fELF\x02\x01"));
        }
    }
}
