//! SPDX licence expressions (SPDX 3.0 annex B), as far as Cargo manifests use them: identifiers, `WITH`, `AND`, `OR`,
//! parentheses, and the old `/` for `OR`.

use anyhow::{Result, bail};

/// A parsed expression.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Expression {
    /// A licence, with its exception when it has one: `Apache-2.0 WITH LLVM-exception`.
    Licence(String),
    And(Vec<Self>),
    Or(Vec<Self>),
}

impl Expression {
    /// Reads an expression.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let spaced = text.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
        let mut words = spaced.split_whitespace().peekable();
        let expression = alternatives(&mut words)?;
        match words.next() {
            None => Ok(expression),
            Some(word) => bail!("unexpected `{word}` in the licence expression `{text}`"),
        }
    }

    /// Whether the licences that `allowed` says yes to are enough.
    pub(crate) fn is_satisfied(&self, allowed: &impl Fn(&str) -> bool) -> bool {
        match self {
            Self::Licence(licence) => allowed(licence),
            Self::And(parts) => parts.iter().all(|p| p.is_satisfied(allowed)),
            Self::Or(parts) => parts.iter().any(|p| p.is_satisfied(allowed)),
        }
    }
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

/// `OR` binds least.
fn alternatives(words: &mut Words<'_>) -> Result<Expression> {
    let mut parts = vec![requirements(words)?];
    while words.next_if_eq(&"OR").is_some() {
        parts.push(requirements(words)?);
    }
    Ok(if parts.len() == 1 { parts.remove(0) } else { Expression::Or(parts) })
}

fn requirements(words: &mut Words<'_>) -> Result<Expression> {
    let mut parts = vec![licence(words)?];
    while words.next_if_eq(&"AND").is_some() {
        parts.push(licence(words)?);
    }
    Ok(if parts.len() == 1 { parts.remove(0) } else { Expression::And(parts) })
}

fn licence(words: &mut Words<'_>) -> Result<Expression> {
    match words.next() {
        Some("(") => {
            let inner = alternatives(words)?;
            match words.next() {
                Some(")") => Ok(inner),
                _ => bail!("a parenthesis is not closed"),
            }
        }
        None | Some(")" | "AND" | "OR" | "WITH") => bail!("a licence is missing"),
        Some(name) => match words.next_if_eq(&"WITH") {
            None => Ok(Expression::Licence(name.to_owned())),
            Some(_) => match words.next() {
                Some(exception) => Ok(Expression::Licence(format!("{name} WITH {exception}"))),
                None => bail!("WITH names no exception"),
            },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_judged_by_what_is_allowed() {
        let allowed = |licence: &str| ["MIT", "Apache-2.0 WITH LLVM-exception", "Zlib"].contains(&licence);
        for (text, enough) in [
            ("MIT", true),
            ("MIT OR Apache-2.0", true),
            ("Apache-2.0/MIT", true),
            ("MIT AND Zlib", true),
            ("MIT AND GPL-3.0", false),
            ("GPL-3.0 OR MIT AND Zlib", true),
            ("(GPL-3.0 OR MIT) AND Zlib", true),
            ("(MIT OR GPL-3.0) AND (GPL-3.0 OR LGPL-2.1)", false),
            ("Apache-2.0 WITH LLVM-exception", true),
            ("Apache-2.0", false),
            ("mit", false),
        ] {
            assert_eq!(Expression::parse(text).unwrap().is_satisfied(&allowed), enough, "{text}");
        }
        for wrong in ["", "MIT OR", "(MIT", "MIT)", "MIT Zlib", "MIT WITH", "AND MIT"] {
            assert!(Expression::parse(wrong).is_err(), "{wrong}");
        }
    }
}
