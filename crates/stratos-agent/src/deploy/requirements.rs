//! What a requirements file may ask pip for: packages that come as wheels.
//!
//! pip runs the code of a source package to build it, and of a folder to install it; a requirements file can switch that
//! on again line by line. The options that may stand in one are therefore listed here, not those that may not: pip takes
//! every unambiguous beginning of an option for the option.

use stratos_types::spec::SpecError;

/// Options of a line, and whether they name another file of requirements.
const OPTIONS: [(&str, bool); 10] = [
    ("--requirement", true),
    ("--constraint", true),
    ("--index-url", false),
    ("--extra-index-url", false),
    ("--no-index", false),
    ("--find-links", false),
    ("--pre", false),
    ("--prefer-binary", false),
    ("--require-hashes", false),
    ("--trusted-host", false),
];
/// The same in short.
const SHORT: [(&str, bool); 4] = [("-r", true), ("-c", true), ("-i", false), ("-f", false)];
/// Most files that may include each other.
const MAX_FILES: usize = 50;

/// A file that is named somewhere.
pub enum Text {
    /// There is none.
    Missing,
    /// There is one, and it is not UTF-8.
    Unreadable,
    /// Its content.
    Read(String),
}

/// Checks `file` and the files it includes, each given by `read`.
///
/// # Errors
/// The first line that asks for something else than wheels, or cannot be told to.
pub fn check(file: &str, read: &dyn Fn(&str) -> Text) -> Result<(), SpecError> {
    let mut files = vec![file.to_owned()];
    let mut next = 0;
    while let Some(file) = files.get(next).cloned() {
        next += 1;
        let wrong = |key: Option<usize>, (message, hint): (String, &str)| SpecError {
            file: file.clone(),
            key: key.map(|number| format!("line {number}")),
            message,
            hint: hint.to_owned(),
        };
        let text = match read(&file) {
            Text::Missing => {
                let missing = ("is not in the package, though another file includes it".into(), "add it");
                return Err(wrong(None, missing));
            }
            Text::Read(text) if !declares_encoding(&text) => text,
            Text::Read(_) | Text::Unreadable => {
                return Err(wrong(None, ("is not plain UTF-8".into(), "save it as UTF-8")));
            }
        };
        for (number, line) in logical_lines(text.trim_start_matches('\u{feff}')) {
            let Some(included) = check_line(&line).map_err(|e| wrong(Some(number), e))? else { continue };
            if included.starts_with('/') || included.contains(':') {
                let outside = (format!("includes `{included}`"), "include files of the package only");
                return Err(wrong(Some(number), outside));
            }
            let folder = file.rsplit_once('/').map_or("", |(folder, _)| folder);
            let path = if folder.is_empty() { included } else { format!("{folder}/{included}") };
            if !files.contains(&path) && files.len() < MAX_FILES {
                files.push(path);
            } else if !files.contains(&path) {
                let many = (format!("includes more than {MAX_FILES} files"), "put them together");
                return Err(wrong(Some(number), many));
            }
        }
    }
    Ok(())
}

/// True when one of the first two lines says in which encoding pip shall read the file, other than UTF-8.
fn declares_encoding(text: &str) -> bool {
    let declared = |line: &str| {
        let mut names = line.split("coding").skip(1).filter_map(|rest| rest.strip_prefix([':', '=']));
        names.any(|name| !name.trim_start().to_ascii_lowercase().starts_with("utf-8"))
    };
    // Here, other than below, only a line feed ends a line for pip.
    text.split('\n').take(2).any(|line| line.starts_with('#') && declared(line))
}

/// All that ends a line for Python's `str.splitlines`, by which pip splits.
const LINE_ENDS: [char; 10] =
    ['\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}', '\u{2029}'];

/// Lines without comments, those that end with a backslash joined, each with its number: as pip reads them.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let text = text.replace("\r\n", "\n");
    let mut lines = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (number, line) in (1..).zip(text.split(LINE_ENDS)) {
        let (first, mut joined) = open.take().unwrap_or((number, String::new()));
        // A comment ends with its line, whatever stands at the end.
        match line.ends_with('\\') && !line.trim_start().starts_with('#') {
            true => {
                // Not only the last one: pip strips those at the line's start, too.
                joined.push_str(line.trim_matches('\\'));
                open = Some((first, joined));
            }
            false => {
                if line.trim_start().starts_with('#') {
                    joined.push(' ');
                }
                joined.push_str(line);
                lines.push((first, joined));
            }
        }
    }
    lines.extend(open);
    let uncommented = |line: &str| {
        let comment = line
            .char_indices()
            .find(|(at, c)| *c == '#' && (*at == 0 || line[..*at].ends_with(char::is_whitespace)));
        line[..comment.map_or(line.len(), |(at, _)| at)].trim().to_owned()
    };
    lines.into_iter().map(|(n, line)| (n, uncommented(&line))).filter(|(_, line)| !line.is_empty()).collect()
}

/// The file that a line includes, if it does.
fn check_line(line: &str) -> Result<Option<String>, (String, &'static str)> {
    const WHEEL: &str = "name a package of the index, or a wheel (a path or URL that ends with .whl)";
    if line.contains("${") {
        let message = "names a variable of the environment, and a deploy has none of its own";
        return Err((message.into(), "write the value"));
    }
    // Python takes some of them for white space where Rust does not, and the line for another one.
    if line.contains(|c: char| c.is_control() && c != '\t') {
        return Err(("holds a control character".into(), "remove it"));
    }
    // pip splits options as a shell would, so that an option could hide in quotes or behind a backslash.
    let options = line.find('-').filter(|at| *at == 0).or_else(|| line.find(" -")).map(|at| &line[at..]);
    if options.is_some_and(|options| options.contains(['"', '\'', '\\'])) {
        return Err(("holds quotes or a backslash in its options".into(), "write the options without"));
    }
    if let Some(rest) = line.strip_prefix('-') {
        let (option, value) = match rest.strip_prefix('-') {
            Some(_) => line.split_once(['=', ' ', '\t']).unwrap_or((line, "")),
            None => line.split_at(line.char_indices().nth(2).map_or(line.len(), |(at, _)| at)),
        };
        let known = OPTIONS.iter().chain(&SHORT).find(|(name, _)| *name == option);
        let Some((_, includes)) = known else {
            let message = format!("`{option}` is not an option that a deploy takes");
            return Err((message, "dependencies are installed from wheels only; remove the line"));
        };
        let value = value.trim_start_matches(['=', ' ', '\t']);
        if value.split_whitespace().any(|word| word.starts_with('-')) {
            return Err(("holds several options".into(), "write one option a line"));
        }
        return Ok(includes.then(|| value.to_owned()));
    }
    let mut words = line.split_whitespace();
    let options = words.find(|word| word.starts_with('-') && !word.starts_with("--hash"));
    if let Some(option) = options {
        let message = format!("`{option}` is not an option that a deploy takes");
        return Err((message, "only --hash may stand behind a requirement"));
    }
    let requirement = line.split(" --hash").next().unwrap_or(line);
    let requirement = requirement.split(';').next().unwrap_or(requirement).trim();
    let target = requirement.split_once('@').map_or(requirement, |(_, target)| target.trim());
    let path = target.split('#').next().unwrap_or(target);
    let place = target.contains('/') || target.starts_with('.') || target.contains(':');
    if place && (!path.ends_with(".whl") || path.contains("git+")) {
        return Err((format!("`{requirement}` would be built from source"), WHEEL));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_wheels_can_be_asked_for() {
        let good = [
            "flask==3.1.*",
            "Flask[async]>=3,<4 ; python_version > '3.8'  # why",
            "# only a comment -e .",
            "six==1.17.0 --hash=sha256:00 \\\n    --hash=sha256:01",
            "--index-url https://mirror.example/simple",
            "--extra-index-url=https://mirror.example/simple",
            "-i https://mirror.example/simple",
            "--require-hashes\n--pre",
            "-f ./wheels",
            "./wheels/own-1.0-py3-none-any.whl",
            "own @ https://files.example/own-1.0-py3-none-any.whl#sha256=00",
        ];
        for text in good {
            check("r", &|_| Text::Read(text.to_owned())).unwrap_or_else(|e| panic!("{text}: {e}"));
        }
        let bad = [
            ("-e .", 1, "-e"),
            ("a\n--editable=.", 2, "--editable"),
            ("--no-binary :all:", 1, "--no-binary"),
            ("--no-bin=x", 1, "--no-bin"),
            ("--only-binary :none:", 1, "--only-binary"),
            ("--pre --no-binary x", 1, "several options"),
            ("flask --no-binary x", 1, "--no-binary"),
            ("flask --config-settings=x", 1, "--config-settings"),
            (".", 1, "built from source"),
            ("./folder", 1, "built from source"),
            ("folder/sub", 1, "built from source"),
            ("x.tar.gz\n\n/abs/x.tar.gz", 3, "built from source"),
            ("git+https://host.example/x.git", 1, "built from source"),
            ("x @ git+https://host.example/x.whl", 1, "built from source"),
            ("x@https://host.example/x.tar.gz", 1, "built from source"),
            ("file:x", 1, "built from source"),
            ("fl\\\nask \\\n  -e .", 1, "-e"),
            ("# comment \\\n-e .", 2, "-e"),
            ("# comment\r-e .", 2, "-e"),
            ("# comment\u{2028}-e .", 2, "-e"),
            ("a\r\n# b\r\n-e .", 3, "-e"),
            ("-r https://host.example/r.txt", 1, "includes"),
            ("-c/etc/passwd", 1, "includes"),
            ("\\-e .\\\n", 1, "-e"),
            ("--pre \\\\\n--no-binary :all:", 1, "several options"),
            ("--pre '' '--no-binary' :all:", 1, "quotes"),
            ("--pre \\--no-binary :all:", 1, "backslash"),
            ("flask --hash=sha256:00 \"--config-settings=x\"", 1, "quotes"),
            ("\u{1f}-e .", 1, "control character"),
            ("\u{1f}# a \\\n-e .", 1, "control character"),
            ("-i https://host.example/${PIP_INDEX_URL}", 1, "variable"),
        ];
        for (text, line, message) in bad {
            let error = check("r", &|_| Text::Read(text.to_owned()))
                .err()
                .unwrap_or_else(|| panic!("{text}: allowed"));
            assert_eq!(error.key, Some(format!("line {line}")), "{text}");
            assert!(error.message.contains(message), "{text}: {error}");
        }
    }

    #[test]
    fn included_files_count_too() {
        let read = |name: &str| match name {
            "r" => Text::Read("-r sub/a.txt\n-rr".to_owned()),
            "sub/a.txt" => Text::Read("--requirement=b.txt".to_owned()),
            "sub/b.txt" => Text::Read("x\n-e .".to_owned()),
            _ => Text::Missing,
        };
        let error = check("r", &read).unwrap_err();
        assert_eq!((error.file.as_str(), error.key.as_deref()), ("sub/b.txt", Some("line 2")));
    }

    #[test]
    fn other_encodings_are_refused() {
        for (text, allowed) in [
            ("# -*- coding: utf-8 -*-\nflask", true),
            ("\u{feff}flask", true),
            ("# -*- coding: utf-7 -*-\n+AC0-e .", false),
            ("flask\n# vim: fileencoding=utf-16", false),
            ("# coding=utf-7 coding:utf-8", false),
            ("#\rcoding: utf-7", false),
        ] {
            assert_eq!(check("r", &|_| Text::Read(text.to_owned())).is_ok(), allowed, "{text}");
        }
        assert!(check("r", &|_| Text::Unreadable).is_err());
        assert!(check("r", &|_| Text::Missing).is_err());
    }
}
