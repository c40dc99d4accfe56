//! Whether what a specification names is there and can run: found out at deploy, not at the first request.

use std::io;

use stratos_types::spec::{FILE_NAME, SpecError};
use stratos_types::{Entry, FunctionSpec, Runtime};

use super::elf::{self, Mismatch};
use super::error::DeployError;
use super::folder::Folder;

/// Where dependencies of Python functions are.
pub(super) const PYTHON_PACKAGES: &str = ".stratos/python";

/// Checks the entry of `spec` against the folder, dependencies included.
pub(super) fn check(spec: &FunctionSpec, folder: &Folder) -> Result<(), DeployError> {
    let wrong = |key: &str, message: String, hint: String| {
        Err(SpecError { file: FILE_NAME.into(), key: Some(key.into()), message, hint }.into())
    };
    let found = match (&spec.entry, spec.runtime) {
        (Entry::Handler(handler), Runtime::Node24) => node_handler(handler, folder),
        (Entry::Handler(handler), Runtime::Python313) => python_handler(handler, folder),
        (Entry::Handler(path), Runtime::Native) => native(path, folder),
        // What a client of its own makes of its handler is not for this check to guess.
        (Entry::Start(argv) | Entry::Client { argv, .. }, runtime) => start(argv, runtime, folder),
    };
    let key = if matches!(spec.entry, Entry::Handler(_)) { "handler" } else { "start" };
    match found.map_err(|source| DeployError::io("read", folder.path(), source))? {
        Ok(()) => Ok(()),
        Err((message, hint)) => wrong(key, message, hint),
    }
}

type Found = io::Result<Result<(), (String, String)>>;

/// As the bootstrap looks for it: the module is what stands before the first dot of the last component.
fn node_handler(handler: &str, folder: &Folder) -> Found {
    let (dir, base) = handler.rsplit_once('/').map_or(("", handler), |(dir, base)| (dir, base));
    let stem = base.split('.').next().unwrap_or_default();
    let module = if dir.is_empty() { stem.to_owned() } else { format!("{dir}/{stem}") };
    for extension in ["js", "mjs", "cjs"] {
        if folder.has_file(&format!("{module}.{extension}"))? {
            return Ok(Ok(()));
        }
    }
    let hint = format!("add {module}.mjs, {module}.js or {module}.cjs, or correct the handler");
    Ok(Err((format!("`{handler}` names the module `{module}`, which is not in the package"), hint)))
}

fn python_handler(handler: &str, folder: &Folder) -> Found {
    let path = handler.replace('/', ".");
    let module = path.rsplit_once('.').map_or("", |(module, _)| module).replace('.', "/");
    for root in ["", PYTHON_PACKAGES] {
        for file in [format!("{module}.py"), format!("{module}/__init__.py")] {
            let file = if root.is_empty() { file } else { format!("{root}/{file}") };
            if folder.has_file(&file)? {
                return Ok(Ok(()));
            }
        }
    }
    let hint = format!("add {module}.py, or correct the handler");
    Ok(Err((format!("`{handler}` names the module `{module}`, which is not in the package"), hint)))
}

fn start(words: &[String], runtime: Runtime, folder: &Folder) -> Found {
    let Some((program, arguments)) = words.split_first() else { return Ok(Ok(())) };
    let interpreter = match runtime {
        Runtime::Node24 => matches!(program.as_str(), "node" | "/usr/bin/node"),
        Runtime::Python313 => {
            matches!(program.as_str(), "python" | "python3" | "python3.13" | "/usr/bin/python3.13")
        }
        Runtime::Native => false,
    };
    if interpreter {
        return script(arguments, runtime, folder);
    }
    if program.starts_with('/') && !program.starts_with("/var/task/") {
        return Ok(Ok(()));
    }
    let path = program.strip_prefix("/var/task/").unwrap_or(program).trim_start_matches("./");
    if program.contains('/') || runtime == Runtime::Native {
        return native(path, folder);
    }
    let (bin, hint) = match runtime {
        Runtime::Node24 => (format!("node_modules/.bin/{path}"), "package.json"),
        _ => (format!("{PYTHON_PACKAGES}/bin/{path}"), "requirements.txt"),
    };
    Ok(match folder.has_file(&bin)? {
        true => Ok(()),
        false => Err((
            format!("`{program}` is no command of the function's dependencies"),
            format!("add the package that brings it to {hint}, or start a file of the package"),
        )),
    })
}

/// The script of an interpreter: its first argument that is no option.
fn script(arguments: &[String], runtime: Runtime, folder: &Folder) -> Found {
    let Some(first) = arguments.first() else {
        return Ok(Err(("starts an interpreter without a file".into(), "name the file to run".into())));
    };
    // Behind an option, what is a file and what is the option's value is the interpreter's to know.
    if first.starts_with('-') {
        return Ok(Ok(()));
    }
    let path = first.strip_prefix("/var/task/").unwrap_or(first).trim_start_matches("./");
    let mut names = vec![path.to_owned()];
    match runtime {
        Runtime::Node24 => names.extend([format!("{path}.js"), format!("{path}/index.js")]),
        _ => names.push(format!("{path}/__main__.py")),
    }
    for name in names {
        if folder.has_file(&name)? {
            return Ok(Ok(()));
        }
    }
    let hint = "add the file, or correct the command".into();
    Ok(Err((format!("`{path}` is not in the package"), hint)))
}

fn native(path: &str, folder: &Folder) -> Found {
    if !folder.has_file(path)? {
        let hint = "add the executable, or correct the path".into();
        return Ok(Err((format!("`{path}` is not in the package"), hint)));
    }
    let arch = std::env::consts::ARCH;
    let (problem, hint) = match elf::check(&folder.head(path, elf::HEAD)?, arch) {
        Ok(()) if folder.is_executable(path)? => return Ok(Ok(())),
        Ok(()) => ("is not marked executable".to_owned(), format!("run chmod +x {path}")),
        Err(Mismatch::NotElf) => (
            "is not a Linux executable".to_owned(),
            "the layer holds no shell and no interpreter: build a binary, or choose another runtime"
                .to_owned(),
        ),
        Err(Mismatch::Machine(machine)) => {
            (format!("is built for {machine}, and this node is {arch}"), format!("build it for {arch} Linux"))
        }
        Err(Mismatch::Interpreter(loader)) => (
            format!("needs the loader {loader}, which the layer does not hold"),
            "link it statically, or with glibc".to_owned(),
        ),
    };
    Ok(Err((format!("`{path}` {problem}"), hint)))
}
