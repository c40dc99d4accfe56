//! Path patterns of layer descriptions: `*` and `?` stay inside one path segment, `**` spans any number of them.

/// Whether `path` (relative, `/`-separated) matches `pattern`. A pattern that ends in `/**` matches what is under a
/// folder, not the folder itself.
pub fn matches(pattern: &str, path: &str) -> bool {
    let pattern: Vec<&str> = pattern.split('/').collect();
    let path: Vec<&str> = path.split('/').collect();
    segments(&pattern, &path)
}

fn segments(pattern: &[&str], path: &[&str]) -> bool {
    match pattern.split_first() {
        None => path.is_empty(),
        Some((&"**", [])) => !path.is_empty(),
        Some((&"**", rest)) => (0..=path.len()).any(|skip| segments(rest, &path[skip..])),
        Some((first, rest)) => path
            .split_first()
            .is_some_and(|(name, tail)| segment(first.as_bytes(), name.as_bytes()) && segments(rest, tail)),
    }
}

fn segment(pattern: &[u8], name: &[u8]) -> bool {
    match pattern.split_first() {
        None => name.is_empty(),
        Some((b'*', rest)) => (0..=name.len()).any(|skip| segment(rest, &name[skip..])),
        Some((b'?', rest)) => !name.is_empty() && segment(rest, &name[1..]),
        Some((byte, rest)) => name.first() == Some(byte) && segment(rest, &name[1..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_documented() {
        for (pattern, path, expected) in [
            ("usr/bin/node", "usr/bin/node", true),
            ("usr/bin/node", "usr/bin/nodejs", false),
            ("usr/lib/*/libc.so.6", "usr/lib/x86_64-linux-gnu/libc.so.6", true),
            ("usr/lib/*/libc.so.6", "usr/lib/a/b/libc.so.6", false),
            ("usr/lib/*.so*", "usr/lib/liba.so.1", true),
            ("usr/share/doc/**", "usr/share/doc/a/b", true),
            ("usr/share/doc/**", "usr/share/doc", false),
            ("usr/share/doc/**", "usr/share/docs/a", false),
            ("**/test/**", "usr/lib/python3.13/test/a.py", true),
            ("**/test/**", "test/a.py", true),
            ("**/*.md", "a.md", true),
            ("**/*.md", "x/y/a.md", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("**", "a/b", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern} on {path}");
        }
    }
}
