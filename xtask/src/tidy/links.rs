//! Links between Markdown files lead to files that exist.

use crate::tidy::{File, Finding};

/// Checks every Markdown file; `exists` is asked about paths relative to the top folder.
pub(crate) fn check(files: &[File], exists: impl Fn(&str) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files.iter().filter(|f| f.path.ends_with(".md")) {
        for (line, target) in targets(&file.text) {
            let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
            let Some(path) = resolve(folder, target) else { continue };
            if !exists(&path) {
                let message = format!("links to {target}, which is not there");
                findings.push(Finding::error(format!("{}:{line}", file.path), message));
            }
        }
    }
    findings
}

/// Targets of `[text](target)` and `[name]: target` outside code, with their line numbers.
fn targets(text: &str) -> Vec<(usize, &str)> {
    let mut targets = Vec::new();
    let mut in_code = false;
    for (at, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        // Every other piece lies between backticks.
        for piece in line.split('`').step_by(2) {
            let ends = piece.match_indices("](").filter_map(|(i, _)| {
                let rest = &piece[i + 2..];
                Some(&rest[..rest.find([')', ' '])?])
            });
            targets.extend(ends.map(|target| (at + 1, target)));
        }
        if let Some((name, target)) = line.split_once("]: ")
            && name.starts_with('[')
        {
            targets.push((at + 1, target.trim()));
        }
    }
    targets
}

/// The path that a target means; None for what is not a file of this repository.
fn resolve(folder: &str, target: &str) -> Option<String> {
    let path = target.split('#').next().unwrap_or_default();
    if path.is_empty() || path.contains("://") || path.starts_with("mailto:") {
        return None;
    }
    let full = if let Some(absolute) = path.strip_prefix('/') {
        absolute.to_owned()
    } else {
        format!("{folder}/{path}")
    };
    let mut parts = Vec::new();
    for part in full.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_somewhere() {
        let text = "[a](b.md) `[no](code.md)` [w](https://x/y) [h](#here)\n```\n[no](block.md)\n```\n\
                    [up](../LICENSE#x \"title\") [gone](gone.md)\n[ref]: also-gone.md\n";
        let files = [File { path: "docs/a.md".into(), text: text.into() }];
        let findings = check(&files, |path| ["docs/b.md", "LICENSE"].contains(&path));
        let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "error: docs/a.md:5: links to gone.md, which is not there",
                "error: docs/a.md:6: links to also-gone.md, which is not there"
            ]
        );
    }
}
