//! The machine's power button, which a virtual machine's host presses too (ACPI).

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, read};

use crate::files;

const INPUTS: &str = "/sys/class/input";
const MOST_INPUTS: usize = 1024;
/// Most buttons that are watched.
const MOST_BUTTONS: usize = 4;
/// Bytes of the kernel's `input_event` on 64-bit machines: a time, then type, code and value.
const EVENT: usize = 24;
const EV_KEY: u16 = 1;
const KEY_POWER: u16 = 116;

/// The buttons that there are.
pub fn open_all() -> Vec<OwnedFd> {
    let names = files::names(INPUTS, MOST_INPUTS).unwrap_or_default();
    let is_button = |name: &&String| {
        let told = files::read_value(Path::new(INPUTS).join(name).join("device/name"));
        name.starts_with("event") && told.is_ok_and(|told| told == "Power Button")
    };
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let buttons = names.iter().filter(is_button);
    buttons
        .filter_map(|name| open(Path::new("/dev/input").join(name), flags, Mode::empty()).ok())
        .take(MOST_BUTTONS)
        .collect()
}

/// Whether the button was pressed since it was last looked at; `None` when it is gone.
pub fn was_pressed(button: &OwnedFd) -> Option<bool> {
    let mut bytes = [0; 64 * EVENT];
    match read(button, &mut bytes) {
        Ok(length) => Some(bytes.get(..length).unwrap_or_default().chunks_exact(EVENT).any(is_press)),
        Err(Errno::AGAIN | Errno::INTR) => Some(false),
        Err(_) => None,
    }
}

fn is_press(event: &[u8]) -> bool {
    let number =
        |at: usize| event.get(at..at + 2).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    number(16) == Some(EV_KEY) && number(18) == Some(KEY_POWER) && number(20) == Some(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_press_of_the_power_key_counts() {
        let event = |kind: u16, code: u16, value: i32| {
            let mut bytes = vec![0; 16];
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(code.to_ne_bytes());
            bytes.extend(value.to_ne_bytes());
            bytes
        };
        assert!(is_press(&event(EV_KEY, KEY_POWER, 1)));
        for (kind, code, value) in [(EV_KEY, KEY_POWER, 0), (EV_KEY, 30, 1), (0, 0, 0)] {
            assert!(!is_press(&event(kind, code, value)));
        }
        assert!(!is_press(&[]));
    }
}
