//! From a profile's text to what each system call number means.

use std::collections::BTreeMap;

use serde::Deserialize;
use stratos_sys::syscalls::{self, Syscall};

use super::SeccompError;

/// What the filter answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Action {
    /// The call proceeds.
    Allow,
    /// The call fails with this errno.
    Errno(u16),
}

/// A condition on one argument: whether its bits under `mask` are among `values`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Condition {
    /// Position of the argument, 0 to 5.
    pub(super) index: u8,
    /// Only the low 32 bits count, as for arguments the kernel takes as `int`.
    pub(super) narrow: bool,
    /// Bits looked at.
    pub(super) mask: u64,
    /// Values looked for; bits outside `mask` are zero. Never empty.
    pub(super) values: Vec<u64>,
    /// The condition holds when none matches instead.
    pub(super) negated: bool,
}

/// What a system call answers: the first branch whose conditions all hold, else `otherwise`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) branches: Vec<(Vec<Condition>, Action)>,
    pub(super) otherwise: Action,
}

/// A checked profile.
#[derive(Debug)]
pub(super) struct Profile {
    /// For every call the profile does not name.
    pub(super) default: Action,
    /// By system call number.
    pub(super) decisions: BTreeMap<u32, Decision>,
}

/// Every rule that applies to one system call, while the profile is read.
#[derive(Default)]
struct Collected {
    branches: Vec<(Vec<Condition>, Action, String)>,
    otherwise: Option<(Action, String)>,
}

impl Profile {
    /// Parses `text`; `find` gives the text of an included profile.
    pub(super) fn parse(
        text: &str,
        find: impl Fn(&str) -> Option<&'static str>,
    ) -> Result<Self, SeccompError> {
        let own = read(text)?;
        let mut parts = Vec::new();
        if let Some(name) = &own.include {
            let text = find(name).ok_or_else(|| SeccompError::UnknownInclude { name: name.clone() })?;
            let included = read(text)?;
            if included.include.is_some() {
                return Err(SeccompError::NestedInclude { name: name.clone() });
            }
            parts.push((format!("{name} "), included));
        }
        parts.push((String::new(), own));

        let mut default = None;
        let mut collected = BTreeMap::new();
        for (origin, part) in &parts {
            if part.description.trim().is_empty() {
                return Err(SeccompError::NoReason { rule: format!("{origin}description") });
            }
            if let Some(action) = &part.default {
                if default.is_some() {
                    return Err(SeccompError::Default);
                }
                default = Some(action.resolve("the default action")?);
            }
            for (at, rule) in part.rules.iter().enumerate() {
                collect(&mut collected, rule, rule_name(origin, at + 1, rule))?;
            }
        }
        let default = match default.ok_or(SeccompError::Default)? {
            Action::Allow => return Err(SeccompError::DefaultAllows),
            errno => errno,
        };
        let decisions = collected.into_iter().map(|(number, c)| (number, c.decide(default))).collect();
        Ok(Self { default, decisions })
    }
}

impl Collected {
    fn decide(self, default: Action) -> Decision {
        Decision {
            branches: self.branches.into_iter().map(|(conditions, action, _)| (conditions, action)).collect(),
            otherwise: self.otherwise.map_or(default, |(action, _)| action),
        }
    }
}

fn read(text: &str) -> Result<Document, SeccompError> {
    serde_json::from_str(text).map_err(|source| SeccompError::Malformed { source })
}

fn rule_name(origin: &str, number: usize, rule: &Rule) -> String {
    let more = if rule.syscalls.len() > 2 { ", .." } else { "" };
    let first = rule.syscalls.iter().take(2).map(String::as_str).collect::<Vec<_>>().join(", ");
    format!("{origin}rule {number} ({first}{more})")
}

/// Adds one rule to every call it names.
fn collect(all: &mut BTreeMap<u32, Collected>, rule: &Rule, name: String) -> Result<(), SeccompError> {
    if rule.reason.trim().is_empty() {
        return Err(SeccompError::NoReason { rule: name });
    }
    if rule.syscalls.is_empty() {
        return Err(SeccompError::NoSyscalls { rule: name });
    }
    let action = rule.action.resolve(&name)?;
    let conditions =
        rule.args.iter().map(|arg| arg.condition(&name)).collect::<Result<Vec<Condition>, _>>()?;
    for syscall in &rule.syscalls {
        let number = match syscalls::find(syscall) {
            Some(Syscall::Number(number)) => number,
            Some(Syscall::Absent) => continue,
            None => return Err(SeccompError::UnknownSyscall { rule: name, syscall: syscall.clone() }),
        };
        let here = all.entry(number).or_default();
        let same = here.branches.iter().find(|(c, _, _)| *c == conditions).map(|(_, _, other)| other);
        let before = here.otherwise.as_ref().map(|(_, other)| other);
        match (same, before) {
            (None, Some(other)) if !conditions.is_empty() => {
                let (syscall, other) = (syscall.clone(), other.clone());
                return Err(SeccompError::Unreachable { rule: name, syscall, other });
            }
            (Some(other), _) | (None, Some(other)) => {
                let (syscall, other) = (syscall.clone(), other.clone());
                return Err(SeccompError::Duplicate { rule: name, syscall, other });
            }
            (None, None) if conditions.is_empty() => here.otherwise = Some((action, name.clone())),
            (None, None) => here.branches.push((conditions.clone(), action, name.clone())),
        }
    }
    Ok(())
}

/// The document as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    description: String,
    include: Option<String>,
    default: Option<ActionText>,
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    syscalls: Vec<String>,
    action: ActionText,
    #[serde(default)]
    args: Vec<Arg>,
    reason: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum ActionText {
    Allow,
    Errno(String),
}

impl ActionText {
    fn resolve(&self, rule: &str) -> Result<Action, SeccompError> {
        let Self::Errno(name) = self else { return Ok(Action::Allow) };
        let number = match name.as_str() {
            "EPERM" => libc::EPERM,
            "ENOENT" => libc::ENOENT,
            "EACCES" => libc::EACCES,
            "EINVAL" => libc::EINVAL,
            "ENOSYS" => libc::ENOSYS,
            "EOPNOTSUPP" => libc::EOPNOTSUPP,
            "EAFNOSUPPORT" => libc::EAFNOSUPPORT,
            "ENOTTY" => libc::ENOTTY,
            "ENOSPC" => libc::ENOSPC,
            _ => {
                return Err(SeccompError::UnknownErrno { rule: rule.to_owned(), errno: name.clone() });
            }
        };
        Ok(Action::Errno(number as u16))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Arg {
    index: u8,
    width: u8,
    op: Op,
    value: Option<Number>,
    values: Option<Vec<Number>>,
    mask: Option<Number>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Op {
    Eq,
    Ne,
    MaskedEq,
    In,
    NotIn,
}

/// A number, or a text like `"0x7e020000"` where hexadecimal reads better.
#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Plain(u64),
    Text(String),
}

impl Number {
    fn value(&self) -> Option<u64> {
        match self {
            Self::Plain(value) => Some(*value),
            Self::Text(text) => u64::from_str_radix(text.strip_prefix("0x")?, 16).ok(),
        }
    }
}

impl Arg {
    fn condition(&self, rule: &str) -> Result<Condition, SeccompError> {
        let wrong = |problem| SeccompError::Argument { rule: rule.to_owned(), index: self.index, problem };
        if self.index > 5 {
            return Err(wrong("system calls have arguments 0 to 5"));
        }
        let all_bits = match self.width {
            32 => u64::from(u32::MAX),
            64 => u64::MAX,
            _ => return Err(wrong("the width is 32 or 64 bits, as the kernel takes the argument")),
        };
        let number = |n: &Number| n.value().ok_or_else(|| wrong("numbers are decimal or \"0x..\""));
        let values: Vec<u64> = match (self.op, &self.value, &self.values) {
            (Op::Eq | Op::Ne | Op::MaskedEq, Some(value), None) => vec![number(value)?],
            (Op::In | Op::NotIn, None, Some(values)) if !values.is_empty() => {
                values.iter().map(number).collect::<Result<_, _>>()?
            }
            _ => return Err(wrong("eq, ne and masked_eq take `value`; in and not_in take `values`")),
        };
        let mask = match (self.op, &self.mask) {
            (Op::MaskedEq | Op::In | Op::NotIn, Some(mask)) => number(mask)?,
            (Op::MaskedEq, None) => return Err(wrong("masked_eq needs `mask`")),
            (Op::Eq | Op::Ne, Some(_)) => return Err(wrong("eq and ne take no `mask`")),
            (_, None) => all_bits,
        };
        if mask == 0 || mask & !all_bits != 0 || values.iter().any(|v| v & !mask != 0) {
            return Err(wrong("the values must lie within the mask, and the mask within the width"));
        }
        Ok(Condition {
            index: self.index,
            narrow: self.width == 32,
            mask,
            values,
            negated: matches!(self.op, Op::Ne | Op::NotIn),
        })
    }
}
