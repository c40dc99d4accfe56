//! The kernel's command line, as far as it speaks to PID 1.

use stratos_types::Digest;

use crate::error::InitError;

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
    pub debug: Option<Digest>,
    /// `stratos.debug_until=`: seconds since 1970 until which there is a shell.
    pub debug_until: Option<u64>,
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
                "stratos.debug" => line.debug = Some(digest()?),
                "stratos.debug_until" => {
                    let seconds = value.parse().map_err(|_| wrong("has to be seconds since 1970"))?;
                    line.debug_until = Some(seconds);
                }
                "stratos.fatal" => {
                    line.last_resort = match value {
                        "reboot" => LastResort::Reboot,
                        "poweroff" => LastResort::PowerOff,
                        _ => return Err(wrong("has to be reboot or poweroff")),
                    }
                }
                "reboot" => line.no_power_off = value.split(',').any(|way| way == "t"),
                _ => {}
            }
        }
        Ok(line)
    }
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
    fn a_word_that_makes_no_sense_is_named() {
        for (text, expected) in [
            ("roothash=abc", "roothash= on the kernel's command line: has to be 64"),
            (
                "stratos.debug_until=soon",
                "stratos.debug_until= on the kernel's command line: has to be seconds",
            ),
            ("stratos.fatal=panic", "stratos.fatal= on the kernel's command line: has to be reboot"),
        ] {
            let error = CommandLine::parse(text).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
