//! What a folder's files tell about a function, for what `stratos.toml` leaves out. Pure: it sees names and texts,
//! and reads nothing itself. Where the files allow two answers, it asks rather than guesses.

use std::collections::BTreeMap;

use stratos_types::spec::{FILE_NAME, Inferred, SpecError};
use stratos_types::{Entry, FunctionName, Runtime};

pub use super::folder::TopFile;

/// What inference looks at.
pub struct Seen<'a> {
    /// `stratos.toml`; empty when there is none.
    pub spec: &'a str,
    /// `package.json`, if there.
    pub package_json: Option<&'a str>,
    /// Files at the top of the folder.
    pub files: &'a BTreeMap<String, TopFile>,
    /// The name the client gave.
    pub expected_name: Option<&'a FunctionName>,
    /// Reads a source file.
    pub source: &'a dyn Fn(&str) -> Option<String>,
}

/// Infers name, runtime and entry, each only when `stratos.toml` leaves it out.
///
/// # Errors
/// When the files contradict each other or tell too little, with the key to write.
pub fn infer(seen: &Seen<'_>) -> Result<Inferred, SpecError> {
    // A file that is no TOML is refused with its line by `FunctionSpec::parse`.
    let spec: toml::Table = seen.spec.parse().unwrap_or_default();
    let text = |key: &str| spec.get(key).and_then(|value| value.as_str());
    let package = package_json(seen.package_json)?;
    let mut inferred = Inferred::default();
    if !spec.contains_key("name") {
        inferred.name = name(seen, &package);
    }
    let has_entry = spec.contains_key("handler") || spec.contains_key("start");
    let runtime = match text("runtime") {
        Some(runtime) => runtime.parse().ok(),
        None if spec.contains_key("runtime") => None,
        None => {
            inferred.runtime = match text("start").and_then(runtime_of_command) {
                Some(runtime) => Some(runtime),
                None => runtime_of_files(seen)?,
            };
            inferred.runtime
        }
    };
    if let (Some(runtime), false) = (runtime, has_entry) {
        inferred.entry = match runtime {
            Runtime::Node24 => node_entry(seen, &package)?,
            Runtime::Python313 => python_entry(seen)?,
            Runtime::Native => native_entry(seen)?,
        };
    }
    Ok(inferred)
}

fn ask(file: &str, key: &str, message: impl Into<String>, hint: impl Into<String>) -> SpecError {
    SpecError { file: file.into(), key: Some(key.into()), message: message.into(), hint: hint.into() }
}

fn package_json(text: Option<&str>) -> Result<serde_json::Value, SpecError> {
    let Some(text) = text else { return Ok(serde_json::Value::Null) };
    serde_json::from_str(text).map_err(|e| SpecError {
        file: "package.json".into(),
        key: None,
        message: e.to_string(),
        hint: "the file is JSON; `npm pkg get name` shows whether npm can read it".into(),
    })
}

/// The name the client gave, else that of the npm package, without its scope; `None` when neither is a name.
fn name(seen: &Seen<'_>, package: &serde_json::Value) -> Option<String> {
    let package = package["name"].as_str().map(|name| name.rsplit('/').next().unwrap_or(name));
    let name = seen.expected_name.map(FunctionName::as_str).or(package)?;
    name.parse::<FunctionName>().ok().map(|name| name.to_string())
}

fn runtime_of_command(command: &str) -> Option<Runtime> {
    match command.split_whitespace().next()? {
        "node" => Some(Runtime::Node24),
        "python" | "python3" | "python3.13" => Some(Runtime::Python313),
        _ => None,
    }
}

/// A file that names the runtime's dependencies decides; only without one do sources.
fn runtime_of_files(seen: &Seen<'_>) -> Result<Option<Runtime>, SpecError> {
    let has = |name: &str| seen.files.contains_key(name);
    let find = |suffixes: &[&str]| {
        seen.files.keys().find(|name| suffixes.iter().any(|suffix| name.ends_with(suffix)))
    };
    let strong = [
        (Runtime::Node24, has("package.json").then(|| "package.json".to_owned())),
        (
            Runtime::Python313,
            ["requirements.txt", "pyproject.toml"].into_iter().find(|n| has(n)).map(str::to_owned),
        ),
        (
            Runtime::Native,
            seen.files.get("bootstrap").filter(|f| f.executable && f.elf).map(|_| "bootstrap".to_owned()),
        ),
    ];
    let weak = [
        (Runtime::Node24, find(&[".mjs", ".cjs", ".js"]).cloned()),
        (Runtime::Python313, find(&[".py"]).cloned()),
        (
            Runtime::Native,
            seen.files.iter().find(|(_, f)| f.executable && f.elf).map(|(name, _)| name.clone()),
        ),
    ];
    for evidence in [strong, weak] {
        let found: Vec<_> = evidence.into_iter().filter_map(|(r, file)| file.map(|f| (r, f))).collect();
        match found.as_slice() {
            [] => {}
            [(runtime, _)] => return Ok(Some(*runtime)),
            several => {
                let told: Vec<_> = several.iter().map(|(r, file)| format!("`{file}` tells {r}")).collect();
                let hint = format!("write runtime = \"{}\" if that is it", several[0].0);
                return Err(ask(FILE_NAME, "runtime", format!("missing, and {}", told.join(", ")), hint));
            }
        }
    }
    Ok(None)
}

fn node_entry(seen: &Seen<'_>, package: &serde_json::Value) -> Result<Option<Entry>, SpecError> {
    let start = package["scripts"]["start"].as_str();
    if let Some(command) = start.and_then(plain_node_command) {
        return Ok(Some(Entry::Start(command)));
    }
    let main = package["main"].as_str().map(|main| main.trim_start_matches("./"));
    let candidates = main.into_iter().chain([
        "index.mjs",
        "index.js",
        "index.cjs",
        "server.mjs",
        "server.js",
        "server.cjs",
    ]);
    for file in candidates {
        let Some(source) = (seen.source)(file) else { continue };
        let Some((stem, "mjs" | "js" | "cjs")) = file.rsplit_once('.') else { continue };
        if source.contains("handler") {
            return Ok(Some(Entry::Handler(format!("{stem}.handler"))));
        }
        if source.contains(".listen(") || source.contains("createServer") {
            return Ok(Some(Entry::Start(vec!["node".into(), file.into()])));
        }
        let message = format!("missing, and `{file}` neither exports `handler` nor listens");
        return Err(ask(
            FILE_NAME,
            "handler",
            message,
            format!("write handler = \"{stem}.EXPORT\", or start = \"node {file}\" for a server on $PORT"),
        ));
    }
    match start {
        Some(command) => Err(ask(
            "package.json",
            "scripts.start",
            format!("`{command}` is not a plain `node FILE` command, and no shell runs it"),
            "write start = \"node FILE\" in stratos.toml",
        )),
        None => Ok(None),
    }
}

/// The words of `node FILE ...`; `None` for anything that needs a shell or another program.
fn plain_node_command(command: &str) -> Option<Vec<String>> {
    let shell = command.contains(['"', '\'', '$', '|', '&', ';', '<', '>', '`', '\\', '*', '(', ')']);
    let words: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
    (!shell && words.len() > 1 && words[0] == "node").then_some(words)
}

fn python_entry(seen: &Seen<'_>) -> Result<Option<Entry>, SpecError> {
    const FILES: [(&str, &str); 4] = [
        ("lambda_function", "lambda_handler"),
        ("handler", "handler"),
        ("app", "handler"),
        ("main", "handler"),
    ];
    let mut handlers = Vec::new();
    let mut servers = Vec::new();
    let mut silent = Vec::new();
    for (module, usual) in FILES {
        let file = format!("{module}.py");
        let Some(source) = (seen.source)(&file) else { continue };
        let defined = [usual, "handler", "lambda_handler"].into_iter().find(|name| defines(&source, name));
        match defined {
            Some(function) => handlers.push(format!("{module}.{function}")),
            None if source.contains("__main__") || source.contains(".run(") => servers.push(file),
            None => silent.push(file),
        }
    }
    match (handlers.as_slice(), servers.as_slice(), silent.as_slice()) {
        ([handler], _, _) => Ok(Some(Entry::Handler(handler.clone()))),
        ([], [server], _) => Ok(Some(Entry::Start(vec!["python3".into(), server.clone()]))),
        ([], [], []) => Ok(None),
        ([], [], [file, ..]) => Err(ask(
            FILE_NAME,
            "handler",
            format!("missing, and `{file}` defines no `handler`"),
            format!("write handler = \"{}.FUNCTION\"", file.trim_end_matches(".py")),
        )),
        ([], several, _) => Err(ask(
            FILE_NAME,
            "start",
            format!("missing, and {} could be the server", several.join(" and ")),
            format!("write start = \"python3 {}\" if that is it", several[0]),
        )),
        (several, _, _) => Err(ask(
            FILE_NAME,
            "handler",
            format!("missing, and {} could be it", several.join(" and ")),
            format!("write handler = \"{}\" if that is it", several[0]),
        )),
    }
}

/// True when a Python source defines or assigns a name at its top level.
fn defines(source: &str, name: &str) -> bool {
    source.lines().any(|line| {
        let line = line.strip_prefix("async ").unwrap_or(line);
        let (rest, ends): (_, &[char]) = match line.strip_prefix("def ") {
            Some(rest) => (rest, &['(', ' ']),
            None => (line, &['=', ' ', ':']),
        };
        rest.strip_prefix(name).is_some_and(|after| after.starts_with(ends))
    })
}

fn native_entry(seen: &Seen<'_>) -> Result<Option<Entry>, SpecError> {
    let executables: Vec<_> =
        seen.files.iter().filter(|(_, f)| f.executable && f.elf).map(|(name, _)| name).collect();
    match executables.as_slice() {
        _ if seen.files.get("bootstrap").is_some_and(|f| f.executable && f.elf) => {
            Ok(Some(Entry::Handler("bootstrap".into())))
        }
        [only] => Ok(Some(Entry::Start(vec![format!("./{only}")]))),
        [] => {
            let unmarked = seen.files.iter().find(|(_, f)| f.elf).map(|(name, _)| name);
            match unmarked {
                Some(name) => Err(ask(
                    FILE_NAME,
                    "handler",
                    format!("missing, and `{name}` is not marked executable"),
                    format!("run chmod +x {name}"),
                )),
                None => Ok(None),
            }
        }
        several => {
            let names: Vec<_> = several.iter().map(|n| format!("`{n}`")).collect();
            Err(ask(
                FILE_NAME,
                "start",
                format!("missing, and {} are all executables", names.join(", ")),
                format!(
                    "write start = \"./{0}\" for a server on $PORT, or handler = \"{0}\" for a Runtime API client",
                    several[0]
                ),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files as `name` or `name=content`; `*name` is an executable ELF file, `+name` an ELF file without x bit.
    fn run(spec: &str, files: &[&str]) -> Result<Inferred, SpecError> {
        let mut top = BTreeMap::new();
        let mut contents = BTreeMap::new();
        for file in files {
            let (name, content) = file.split_once('=').unwrap_or((file, ""));
            let elf = name.starts_with(['*', '+']);
            let executable = name.starts_with('*');
            let name = name.trim_start_matches(['*', '+']);
            contents.insert(name.to_owned(), content.to_owned());
            if !name.contains('/') {
                top.insert(name.to_owned(), TopFile { executable, elf });
            }
        }
        infer(&Seen {
            spec,
            package_json: contents.get("package.json").map(String::as_str),
            files: &top,
            expected_name: None,
            source: &|name| contents.get(name).cloned(),
        })
    }

    /// `runtime entry`, where an entry is `handler NAME` or `start WORDS`.
    fn show(inferred: &Inferred) -> String {
        let runtime = inferred.runtime.map_or("-".to_owned(), |r| r.to_string());
        let entry = match &inferred.entry {
            None => "-".to_owned(),
            Some(Entry::Handler(handler)) => format!("handler {handler}"),
            Some(Entry::Start(words)) => format!("start {}", words.join(" ")),
            Some(Entry::Client { .. }) => panic!("files never tell of a client"),
        };
        format!("{runtime} {entry}")
    }

    #[test]
    fn files_tell_runtime_and_entry() {
        const HANDLER: &str = "index.mjs=export const handler = async () => 1";
        const SERVER: &str = "server.js=http.createServer(f).listen(8080)";
        let cases: [(&str, &[&str], &str); 24] = [
            ("", &[], "- -"),
            ("", &["README.md", "data.json"], "- -"),
            ("", &[HANDLER], "node24 handler index.handler"),
            ("", &["index.cjs=exports.handler = f"], "node24 handler index.handler"),
            ("", &[SERVER], "node24 start node server.js"),
            (
                "",
                &["package.json={\"scripts\":{\"start\":\"node server.js\"}}", HANDLER],
                "node24 start node server.js",
            ),
            (
                "",
                &["package.json={\"scripts\":{\"start\":\"node --x a.js b\"}}"],
                "node24 start node --x a.js b",
            ),
            (
                "",
                &["package.json={\"main\":\"./src/app.js\"}", "src/app.js=exports.handler=1"],
                "node24 handler src/app.handler",
            ),
            (
                "",
                &["package.json={\"scripts\":{\"start\":\"A=1 node x\"}}", HANDLER],
                "node24 handler index.handler",
            ),
            (
                "",
                &["package.json={}", "tool.py=def handler(e, c): 1", HANDLER],
                "node24 handler index.handler",
            ),
            ("", &["app.py=def handler(event, context):\n  return 1"], "python3.13 handler app.handler"),
            ("", &["app.py=async def handler(event, context):"], "python3.13 handler app.handler"),
            ("", &["main.py=handler = Mangum(app)"], "python3.13 handler main.handler"),
            (
                "",
                &["lambda_function.py=def lambda_handler(e, c):", "main.py=x = 1"],
                "python3.13 handler lambda_function.lambda_handler",
            ),
            ("", &["app.py=def lambda_handler(e, c):"], "python3.13 handler app.lambda_handler"),
            ("", &["app.py=if __name__ == '__main__':\n  serve()"], "python3.13 start python3 app.py"),
            ("", &["requirements.txt=flask", "app.py=app.run(port=1)"], "python3.13 start python3 app.py"),
            ("", &["*bootstrap", "*helper"], "native handler bootstrap"),
            ("", &["*server", "README.md"], "native start ./server"),
            ("runtime = \"native\"", &["*server", HANDLER], "- start ./server"),
            ("handler = \"x.y\"", &[HANDLER], "node24 -"),
            ("start = \"python3 -m a\"", &[HANDLER], "python3.13 -"),
            ("start = \"./x\"", &["*x"], "native -"),
            ("runtime = \"node18\"", &[HANDLER], "- -"),
        ];
        for (spec, files, expected) in cases {
            let found = run(spec, files).unwrap_or_else(|e| panic!("{spec} {files:?}: {e}"));
            assert_eq!(show(&found), expected, "{spec} {files:?}");
        }
    }

    #[test]
    fn what_is_unclear_is_asked() {
        let cases: [(&[&str], &str, &str); 9] = [
            (&["package.json={", "a"], "package.json: EOF", "JSON"),
            (
                &["package.json={}", "requirements.txt"],
                "stratos.toml: runtime: missing, and `package.json` tells node24, `requirements.txt` tells python3.13",
                "runtime = \"node24\"",
            ),
            (&["index.js", "app.py"], "stratos.toml: runtime: missing, and `index.js`", "runtime ="),
            (&["index.js=1"], "stratos.toml: handler: missing, and `index.js` neither", "index.EXPORT"),
            (
                &["package.json={\"scripts\":{\"start\":\"next start\"}}"],
                "package.json: scripts.start: `next start` is not a plain",
                "start = ",
            ),
            (&["app.py=x = 1"], "stratos.toml: handler: missing, and `app.py` defines no", "app.FUNCTION"),
            (
                &["app.py=def handler(e, c):", "main.py=def handler(e, c):"],
                "stratos.toml: handler: missing, and app.handler and main.handler could be it",
                "app.handler",
            ),
            (&["*a", "*b"], "stratos.toml: start: missing, and `a`, `b` are all executables", "./a"),
            (
                &["app.py=a.run()", "main.py=b.run()"],
                "stratos.toml: start: missing, and app.py and main.py",
                "app.py",
            ),
        ];
        for (files, message, hint) in cases {
            let error = run("", files).unwrap_err();
            assert!(error.to_string().starts_with(message), "{files:?}: {error}");
            assert!(error.hint.contains(hint), "{files:?}: {}", error.hint);
        }
        let unmarked = run("runtime = \"native\"", &["+server"]).unwrap_err();
        assert_eq!(unmarked.hint, "run chmod +x server");
    }

    #[test]
    fn names_come_from_the_client_then_from_npm() {
        let name = |package: &str, expected: Option<&str>| {
            let expected = expected.map(|e| e.parse().unwrap());
            let files = BTreeMap::new();
            let seen = Seen {
                spec: "",
                package_json: Some(package),
                files: &files,
                expected_name: expected.as_ref(),
                source: &|_| None,
            };
            infer(&seen).unwrap().name
        };
        assert_eq!(name("{\"name\":\"@org/hello\"}", None).as_deref(), Some("hello"));
        assert_eq!(name("{\"name\":\"a\"}", Some("b")).as_deref(), Some("b"));
        assert_eq!(name("{\"name\":\"Not_A_Label\"}", None), None);
        assert_eq!(name("{}", None), None);
    }
}
