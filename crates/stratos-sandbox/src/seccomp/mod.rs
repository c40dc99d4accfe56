//! Seccomp profiles: which system calls a runtime may make, as data with a reason per rule, compiled to a BPF
//! program.
//!
//! A profile is a JSON document (format: `docs/formats/seccomp-profile.md`; the shipped ones are in
//! `distro/seccomp/`). It becomes a binary search tree over ranges of call numbers, because the cost of
//! installing a filter grows with its length and instances install one at each start. A filter here never
//! kills: what a profile does not name answers an errno, so that programs can fall back. The exceptions are
//! calls through another architecture's entry (killed) and x32 calls (`ENOSYS`), which no profile can allow.

mod compile;
mod profile;

#[cfg(test)]
mod interpreter;
#[cfg(test)]
mod tests;

pub use stratos_sys::seccomp::BpfInstruction;

use profile::Profile;

/// The kernel's limit on the length of one program (`BPF_MAXINSNS`).
const MAX_INSTRUCTIONS: usize = 4096;

/// The profiles that come with StratOS, by the name of their runtime.
const SHIPPED: &[(&str, &str)] = &[
    ("base", include_str!("../../../../distro/seccomp/base.json")),
    ("build", include_str!("../../../../distro/seccomp/build.json")),
    ("native", include_str!("../../../../distro/seccomp/native.json")),
    ("node24", include_str!("../../../../distro/seccomp/node24.json")),
    ("python3.13", include_str!("../../../../distro/seccomp/python3.13.json")),
];

/// A compiled filter, ready to be installed. Cheap to share behind an `Arc`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeccompFilter {
    instructions: Vec<BpfInstruction>,
}

impl SeccompFilter {
    /// Compiles the profile in `text`. An `include` names one of the shipped profiles (`"base.json"`).
    ///
    /// # Errors
    /// Whatever makes the profile not mean exactly one thing, naming the rule.
    pub fn from_json(text: &str) -> Result<Self, SeccompError> {
        let profile = Profile::parse(text, |file| shipped(file.strip_suffix(".json")?))?;
        let instructions = compile::compile(&profile);
        if instructions.len() > MAX_INSTRUCTIONS {
            return Err(SeccompError::TooLong { instructions: instructions.len() });
        }
        Ok(Self { instructions })
    }

    /// Compiles the shipped profile of `runtime` (`node24`, `python3.13`, `native`, `build`).
    ///
    /// # Errors
    /// [`SeccompError::UnknownProfile`] when no such profile is shipped.
    pub fn for_runtime(runtime: &str) -> Result<Self, SeccompError> {
        let text =
            shipped(runtime).ok_or_else(|| SeccompError::UnknownProfile { name: runtime.to_owned() })?;
        Self::from_json(text)
    }

    /// The program, first instruction first; never empty.
    pub fn instructions(&self) -> &[BpfInstruction] {
        &self.instructions
    }
}

/// The text of a shipped profile.
fn shipped(name: &str) -> Option<&'static str> {
    SHIPPED.iter().find(|(n, _)| *n == name).map(|(_, text)| *text)
}

/// Why a seccomp profile is refused. `rule` names a rule by its number in its list (from 1) and its first
/// system calls.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// No profile of that name is shipped.
    #[error("there is no seccomp profile `{name}`")]
    UnknownProfile {
        /// The name asked for.
        name: String,
    },
    /// Not JSON, or not of the profile's shape.
    #[error("the seccomp profile is malformed")]
    Malformed {
        /// Where and what.
        source: serde_json::Error,
    },
    /// `include` names a profile that is not shipped.
    #[error("the seccomp profile includes `{name}`, which does not exist")]
    UnknownInclude {
        /// The name included.
        name: String,
    },
    /// The included profile includes another one; one level is all there is.
    #[error("the seccomp profile includes `{name}`, which itself includes another")]
    NestedInclude {
        /// The name included.
        name: String,
    },
    /// The default must stand in exactly one of the profile and what it includes.
    #[error("the default action must stand in the profile or in what it includes, once")]
    Default,
    /// The default action allows, which would turn the list of permissions around.
    #[error("the default action must be an errno")]
    DefaultAllows,
    /// A profile or rule without words on its purpose.
    #[error("{rule} gives no reason")]
    NoReason {
        /// Which one.
        rule: String,
    },
    /// A rule that names no system call.
    #[error("{rule} names no system call")]
    NoSyscalls {
        /// Which rule.
        rule: String,
    },
    /// No architecture has a system call of that name.
    #[error("{rule} names `{syscall}`, which is no system call")]
    UnknownSyscall {
        /// Which rule.
        rule: String,
        /// The name in question.
        syscall: String,
    },
    /// An errno name outside the list of those that make sense here.
    #[error("{rule} answers `{errno}`, which is not a known errno")]
    UnknownErrno {
        /// Which rule, or the default.
        rule: String,
        /// The name in question.
        errno: String,
    },
    /// Two rules decide the same call under the same condition.
    #[error("{rule} decides `{syscall}` again, after {other}")]
    Duplicate {
        /// The later rule.
        rule: String,
        /// The system call both name.
        syscall: String,
        /// The earlier rule.
        other: String,
    },
    /// A rule with a condition after the one without: it could never take effect.
    #[error("{rule} can never apply to `{syscall}`, which {other} decides before it")]
    Unreachable {
        /// The later rule.
        rule: String,
        /// The system call both name.
        syscall: String,
        /// The earlier rule.
        other: String,
    },
    /// A condition on an argument that is not well formed.
    #[error("{rule}: argument {index}: {problem}")]
    Argument {
        /// Which rule.
        rule: String,
        /// The argument's position as written.
        index: u8,
        /// What is wrong.
        problem: &'static str,
    },
    /// The program would exceed the kernel's limit.
    #[error("the seccomp profile compiles to {instructions} instructions, over the kernel's 4096")]
    TooLong {
        /// Instructions it compiles to.
        instructions: usize,
    },
}
