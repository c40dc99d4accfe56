//! Exit codes of `stratos`: the one place where they are given out.

use std::process::{ExitCode, Termination};

use stratos_api::{Blame, ErrorCode};

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Done.
    Ok = 0,
    /// Something on this side failed: a file, a folder, a program.
    Failed = 1,
    /// The command line was wrong. clap ends with the same code.
    Usage = 2,
    /// No node answered.
    Unreachable = 3,
    /// The function is to blame: its code, its dependencies, its timeout.
    Function = 4,
    /// The node is to blame.
    Platform = 5,
    /// The node refused the request: unknown function, wrong configuration, missing token, full queue.
    Refused = 6,
}

/// The codes as `stratos help` lists them.
pub(crate) const HELP: &str = "Exit codes:
  0  done
  1  failed on this side (a file, a folder, a program)
  2  wrong command line
  3  no node answered
  4  the function is to blame (its error, its timeout, its dependencies)
  5  the node is to blame
  6  the node refused the request (unknown function, wrong configuration, no token, full queue)";

impl Exit {
    /// The code for an error that a node answered with.
    pub(crate) fn of(code: ErrorCode, blame: Blame) -> Self {
        match (code, blame) {
            // The node is on its way down: for a script the same as one that is not there.
            (ErrorCode::Unavailable, _) => Self::Unreachable,
            (_, Blame::Function) => Self::Function,
            (_, Blame::Platform) => Self::Platform,
            (_, Blame::Client) => Self::Refused,
        }
    }
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        ExitCode::from(self as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_lists_every_code() {
        use Exit::*;
        for code in [Ok, Failed, Usage, Unreachable, Function, Platform, Refused] {
            assert!(HELP.contains(&format!("\n  {}  ", code as u8)), "{code:?}");
        }
    }

    #[test]
    fn blame_decides() {
        for (code, exit) in [
            (ErrorCode::NotFound, Exit::Refused),
            (ErrorCode::QueueFull, Exit::Refused),
            (ErrorCode::FunctionTimeout, Exit::Function),
            (ErrorCode::DependencyFailed, Exit::Function),
            (ErrorCode::QueueTimeout, Exit::Platform),
            (ErrorCode::Internal, Exit::Platform),
            (ErrorCode::Unavailable, Exit::Unreachable),
        ] {
            assert_eq!(Exit::of(code, code.blame()), exit, "{code}");
        }
        // The node's word counts, not what this version believes about a code.
        assert_eq!(Exit::of(ErrorCode::Internal, Blame::Function), Exit::Function);
    }
}
