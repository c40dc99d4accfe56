//! Which files stay out of a package: built-in rules, then `.stratosignore`, the last match decides.

use std::path::Path;

/// The file with a folder's own patterns.
pub(crate) const FILE_NAME: &str = ".stratosignore";

/// Folders and files that no function needs at run time. `.stratosignore` may bring them back with `!`.
const BUILT_IN: [&str; 6] = [".git", "__pycache__/", ".venv/", "*.pyc", ".DS_Store", FILE_NAME];

/// Patterns in the manner of `.gitignore`: `*`, `?`, `**`, a leading `/` or one inside anchors to the folder's top,
/// a trailing `/` means folders only, `!` brings back.
#[derive(Debug)]
pub(crate) struct Ignore {
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    /// Path components of the pattern.
    parts: Vec<String>,
    folders_only: bool,
    brings_back: bool,
}

impl Rule {
    fn parse(line: &str) -> Option<Self> {
        let line = line.trim_end();
        if line.is_empty() || line.starts_with('#') {
            return None;
        }
        let (brings_back, pattern) = match line.strip_prefix('!') {
            Some(rest) => (true, rest),
            None => (false, line.strip_prefix('\\').unwrap_or(line)),
        };
        let folders_only = pattern.ends_with('/');
        let pattern = pattern.trim_end_matches('/');
        // Without a slash that anchors it, a pattern fits at any depth.
        let anchored = pattern.contains('/');
        let mut parts: Vec<String> =
            pattern.split('/').filter(|p| !p.is_empty() && *p != ".").map(str::to_owned).collect();
        if !anchored {
            parts.insert(0, "**".into());
        }
        (!pattern.is_empty()).then_some(Self { parts, folders_only, brings_back })
    }

    fn fits(&self, path: &[&str], is_folder: bool) -> bool {
        (is_folder || !self.folders_only) && fits_path(&self.parts, path)
    }
}

fn fits_path(pattern: &[String], path: &[&str]) -> bool {
    match (pattern.split_first(), path.split_first()) {
        (None, None) => true,
        (Some((first, rest)), _) if first == "**" => {
            // At the end `**` means everything below, not the folder itself.
            let least = usize::from(rest.is_empty());
            (least..=path.len()).any(|skip| fits_path(rest, &path[skip..]))
        }
        (Some((first, rest)), Some((name, below))) => {
            let (first, name): (Vec<char>, Vec<char>) = (first.chars().collect(), name.chars().collect());
            fits_name(&first, &name) && fits_path(rest, below)
        }
        _ => false,
    }
}

/// One component against one name. Goes back to the last `*` only, so its time is at most their product.
fn fits_name(pattern: &[char], name: &[char]) -> bool {
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((at, tried)) = star else { return false };
                star = Some((at, tried + 1));
                p = at + 1;
                n = tried + 1;
            }
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

impl Ignore {
    /// The built-in rules and then those of a `.stratosignore`.
    pub(crate) fn new(own: &str) -> Self {
        Self { rules: BUILT_IN.into_iter().chain(own.lines()).filter_map(Rule::parse).collect() }
    }

    /// Whether the entry at `path` (relative to the function's folder) stays out. `folder` is its path on disk when
    /// it is a folder: some are left out only for what lies beside them.
    pub(crate) fn leaves_out(&self, path: &str, folder: Option<&Path>) -> bool {
        let parts: Vec<&str> = path.split('/').collect();
        let rule = self.rules.iter().rev().find(|r| r.fits(&parts, folder.is_some()));
        match rule {
            Some(rule) => !rule.brings_back,
            None => folder.is_some_and(is_made_again),
        }
    }
}

/// A folder that a tool makes again from what lies beside it: `node_modules`, `target` of a Rust package.
fn is_made_again(folder: &Path) -> bool {
    let beside = folder.parent().unwrap_or(folder);
    match folder.file_name().and_then(|n| n.to_str()) {
        Some("node_modules") => {
            let locked =
                ["package-lock.json", "npm-shrinkwrap.json"].iter().any(|f| beside.join(f).is_file());
            locked || has_dependencies(&beside.join("package.json"))
        }
        Some("target") => beside.join("Cargo.toml").is_file(),
        _ => false,
    }
}

fn has_dependencies(package_json: &Path) -> bool {
    // A file that cannot be read or parsed names no dependency; the node reports it when it resolves them.
    let Ok(text) = std::fs::read(package_json) else { return false };
    let Ok(json) = serde_json::from_slice::<serde_json::Value>(&text) else { return false };
    json["dependencies"].as_object().is_some_and(|d| !d.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_as_in_gitignore() {
        let own =
            "# comment\n\n*.log\n/top.txt\ndocs/*.md\nbuild/\na/**/z\ncache/**\n!keep.log\n\\!odd\nf?o\n";
        let ignore = Ignore::new(own);
        let dir = Some(Path::new("/nonexistent/x"));
        for (path, folder, out) in [
            ("x.log", None, true),
            ("deep/er/x.log", None, true),
            ("keep.log", None, false),
            ("top.txt", None, true),
            ("deep/top.txt", None, false),
            ("docs/a.md", None, true),
            ("docs/deep/a.md", None, false),
            ("build", dir, true),
            ("build", None, false),
            ("x/build", dir, true),
            ("a/z", None, true),
            ("a/b/c/z", None, true),
            ("cache", dir, false),
            ("cache/x", None, true),
            ("!odd", None, true),
            ("foo", None, true),
            ("fooo", None, false),
            (".git", dir, true),
            (".git", None, true),
            ("lib/__pycache__", dir, true),
            (".gitignore", None, false),
            ("index.js", None, false),
        ] {
            assert_eq!(ignore.leaves_out(path, folder), out, "{path}");
        }
        assert!(!Ignore::new("!.git").leaves_out(".git", dir));
    }

    #[test]
    fn hostile_patterns_end_soon() {
        let pattern: Vec<char> = "*a".repeat(200).chars().collect();
        let name: Vec<char> = "a".repeat(199).chars().collect();
        assert!(!fits_name(&pattern, &name));
    }

    #[test]
    fn folders_that_are_made_again_stay_out() {
        let dir = tempfile::tempdir().unwrap();
        let modules = dir.path().join("node_modules");
        let target = dir.path().join("target");
        let ignore = Ignore::new("");
        let check =
            |folder: &Path| ignore.leaves_out(folder.file_name().unwrap().to_str().unwrap(), Some(folder));
        assert!(!check(&modules) && !check(&target));
        std::fs::write(dir.path().join("package.json"), r#"{"dependencies":{}}"#).unwrap();
        assert!(!check(&modules));
        std::fs::write(dir.path().join("package.json"), r#"{"dependencies":{"a":"1"}}"#).unwrap();
        assert!(check(&modules));
        assert!(!Ignore::new("!node_modules").leaves_out("node_modules", Some(&modules)));
        std::fs::write(dir.path().join("Cargo.toml"), "").unwrap();
        assert!(check(&target));
    }
}
