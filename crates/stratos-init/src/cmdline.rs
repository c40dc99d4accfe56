//! The kernel's command line, as far as it speaks to PID 1.

use stratos_types::Digest;

use crate::error::InitError;
use crate::files;

/// Most bytes that the kernel takes (COMMAND_LINE_SIZE on x86-64 and arm64).
pub const MAX_BYTES: usize = 4096;

/// What the machine does when it cannot go on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LastResort {
    /// Starts again: another slot, or a disk that answers this time.
    #[default]
    Reboot,
    /// Switches off.
    PowerOff,
}

/// What the command line says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommandLine {
    /// `roothash=`: root hash of the verified root.
    pub root_hash: Option<Digest>,
    /// `stratos.debug=`: root hash of the debug layer.
    pub debug: Option<String>,
    /// `stratos.debug_until=`: seconds since 1970 until which there is a shell.
    pub debug_until: Option<String>,
    /// `stratos.fatal=reboot|poweroff`.
    pub last_resort: LastResort,
    /// `reboot=t` (triple fault): a machine that cannot switch itself off.
    pub no_power_off: bool,
}

impl CommandLine {
    /// Reads the command line. A word that PID 1 does not know is somebody else's.
    ///
    /// # Errors
    /// When a word that it knows has no sense.
    pub fn parse(text: &str) -> Result<Self, InitError> {
        let mut line = Self::default();
        for (key, value) in text.split_ascii_whitespace().filter_map(|word| word.split_once('=')) {
            let wrong =
                |problem: &str| InitError::invalid(format!("{key}= on the kernel's command line"), problem);
            let digest = || digest(value).ok_or_else(|| wrong("has to be 64 lower-case hex digits"));
            match key {
                "roothash" => line.root_hash = Some(digest()?),
                // A mistake in these is the debug phase's to tell: without a shell, a node is a node.
                "stratos.debug" => line.debug = Some(value.to_owned()),
                "stratos.debug_until" => line.debug_until = Some(value.to_owned()),
                "stratos.fatal" => {
                    line.last_resort =
                        last_resort(value).ok_or_else(|| wrong("has to be reboot or poweroff"))?;
                }
                "reboot" => line.no_power_off = is_triple_fault(value),
                _ => {}
            }
        }
        Ok(line)
    }

    /// Only how the machine ends, for the time before the line was read as a whole, and for what comes when it makes no
    /// sense. What cannot be read is as if it was not there.
    pub fn early() -> Self {
        Self::ending(&files::read_text("/proc/cmdline", MAX_BYTES).unwrap_or_default())
    }

    /// The same of a line that was read.
    pub fn ending(text: &str) -> Self {
        let mut line = Self::default();
        for (key, value) in text.split_ascii_whitespace().filter_map(|word| word.split_once('=')) {
            match key {
                "stratos.fatal" => line.last_resort = last_resort(value).unwrap_or_default(),
                "reboot" => line.no_power_off = is_triple_fault(value),
                _ => {}
            }
        }
        line
    }

    /// The debug layer that is asked for: its root hash, and the second since 1970 until which there is a shell.
    ///
    /// # Errors
    /// When it makes no sense.
    pub fn debug_layer(&self) -> Result<Option<(Digest, u64)>, InitError> {
        let on_line = |key: &str| format!("{key}= on the kernel's command line");
        let Some(hash) = &self.debug else { return Ok(None) };
        let hash = digest(hash).ok_or_else(|| {
            InitError::invalid(on_line("stratos.debug"), "has to be 64 lower-case hex digits")
        })?;
        let until =
            self.debug_until.as_ref().ok_or_else(|| InitError::missing(on_line("stratos.debug_until")))?;
        let until = until.parse().map_err(|_| {
            InitError::invalid(on_line("stratos.debug_until"), "has to be seconds since 1970")
        })?;
        Ok(Some((hash, until)))
    }
}

fn last_resort(value: &str) -> Option<LastResort> {
    match value {
        "reboot" => Some(LastResort::Reboot),
        "poweroff" => Some(LastResort::PowerOff),
        _ => None,
    }
}

/// Whether a value of `reboot=` names the way that machines without a switch have.
fn is_triple_fault(value: &str) -> bool {
    value.split(',').any(|way| way == "t")
}

fn digest(hex: &str) -> Option<Digest> {
    format!("sha256:{hex}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_pid_1_are_read_and_others_left_alone() {
        let hash = "0123456789abcdef".repeat(4);
        let text = format!("console=ttyS0 roothash={hash} quiet stratos.fatal=poweroff reboot=k,t a=b=c\n");
        let line = CommandLine::parse(&text).unwrap();
        assert_eq!(line.root_hash.unwrap().to_string(), format!("sha256:{hash}"));
        assert_eq!(line.last_resort, LastResort::PowerOff);
        assert!(line.no_power_off);
        assert_eq!(CommandLine::parse("").unwrap(), CommandLine::default());
    }

    #[test]
    fn how_the_machine_ends_is_known_whatever_else_is_wrong() {
        let line = CommandLine::ending("roothash=abc stratos.fatal=poweroff reboot=t");
        assert_eq!((line.last_resort, line.no_power_off), (LastResort::PowerOff, true));
        assert_eq!(CommandLine::ending("stratos.fatal=x"), CommandLine::default());
    }

    #[test]
    fn a_debug_layer_that_makes_no_sense_does_not_end_the_boot() {
        let hash = "0123456789abcdef".repeat(4);
        for (text, expected) in [
            ("stratos.debug=abc", "stratos.debug= on the kernel's command line: has to be 64"),
            (&format!("stratos.debug={hash}"), "stratos.debug_until= on the kernel's command line"),
            (
                &format!("stratos.debug={hash} stratos.debug_until=soon"),
                "stratos.debug_until= on the kernel's command line: has to be seconds",
            ),
        ] {
            let error = CommandLine::parse(text).unwrap().debug_layer().unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
        assert_eq!(CommandLine::default().debug_layer().unwrap(), None);
    }

    #[test]
    fn a_word_that_makes_no_sense_is_named() {
        for (text, expected) in [
            ("roothash=abc", "roothash= on the kernel's command line: has to be 64"),
            ("stratos.fatal=panic", "stratos.fatal= on the kernel's command line: has to be reboot"),
        ] {
            let error = CommandLine::parse(text).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
