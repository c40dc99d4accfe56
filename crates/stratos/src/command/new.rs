//! `stratos new`: a folder with a function that works.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use stratos_types::Runtime;

use crate::args::NewArgs;
use crate::failure::{Failure, Result};
use crate::output::Output;

/// A file of a template: its path in the function's folder and its text, where `{{name}}` stands for the name.
type File = (&'static str, &'static str);

/// The files of one kind of function. Adding a kind is adding a folder and a line here.
fn template(runtime: Runtime, http: bool) -> &'static [File] {
    macro_rules! files {
        ($kind:literal: $($path:literal),+) => {
            &[$(($path, include_str!(concat!("../../templates/", $kind, "/", $path)))),+]
        };
    }
    match (runtime, http) {
        (Runtime::Node24, false) => files!("node24": "stratos.toml", "index.mjs"),
        (Runtime::Node24, true) => files!("node24-http": "stratos.toml", "server.mjs"),
        (Runtime::Python313, false) => files!("python3.13": "stratos.toml", "app.py"),
        (Runtime::Python313, true) => files!("python3.13-http": "stratos.toml", "server.py"),
        (Runtime::Native, false) => {
            files!("native": "stratos.toml", "bootstrap.rs", "build.sh", ".stratosignore")
        }
        (Runtime::Native, true) => {
            files!("native-http": "stratos.toml", "server.rs", "build.sh", ".stratosignore")
        }
    }
}

/// Runs the command.
pub(crate) fn run(args: &NewArgs, output: Output) -> Result<()> {
    let folder = Path::new(args.name.as_str());
    fs::create_dir(folder).map_err(|e| {
        let failure = Failure::new(format!("cannot make the folder {}", folder.display())).because(&e);
        match e.kind() {
            io::ErrorKind::AlreadyExists => failure.hint("choose another name, or deploy what is there"),
            _ => failure,
        }
    })?;
    let files = template(args.runtime, args.http);
    for (path, text) in files {
        let path = folder.join(path);
        let text = text.replace("{{name}}", args.name.as_str());
        let mode = if text.starts_with("#!") { 0o755 } else { 0o644 };
        fs::write(&path, text)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(mode)))
            .map_err(|e| Failure::new(format!("cannot write {}", path.display())).because(&e))?;
    }
    if output.json {
        let files: Vec<&str> = files.iter().map(|(path, _)| *path).collect();
        return output.document(&serde_json::json!({ "name": args.name.as_str(), "runtime": args.runtime.as_str(), "files": files }));
    }
    output.line(&format!(
        "made {}/ with {}",
        args.name,
        files.iter().map(|(p, _)| *p).collect::<Vec<_>>().join(", ")
    ))?;
    let build = if args.runtime == Runtime::Native {
        format!("sh {}/build.sh && ", args.name)
    } else {
        String::new()
    };
    output.line(&format!("next  {build}stratos deploy {}", args.name))
}

#[cfg(test)]
mod tests {
    use stratos_types::spec::{FunctionSpec, Inferred};

    use super::*;

    /// Every template's `stratos.toml` is complete, and names a file that is made or built.
    #[test]
    fn templates_are_whole() {
        for runtime in Runtime::ALL {
            for http in [false, true] {
                let files = template(runtime, http);
                let (_, toml) = files.iter().find(|(path, _)| *path == "stratos.toml").unwrap();
                let spec = FunctionSpec::parse(&toml.replace("{{name}}", "x"), &Inferred::default()).unwrap();
                assert_eq!((spec.runtime, spec.name.as_str()), (runtime, "x"));
                assert_eq!(matches!(spec.entry, stratos_types::Entry::Start(_)), http);
            }
        }
    }
}
