//! Reads the value of a secret: from a file, a pipe, or a terminal that does not show what is typed.

use std::io::{self, IsTerminal as _, Read};
use std::path::Path;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use stratos_types::SecretName;
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::signals::Signals;
use crate::failure::{Failure, Result};
use crate::output::note;

/// Bytes that are read at most: the node refuses far less.
const MOST: u64 = 1 << 20;
/// Bytes of a line that a terminal passes on at most; what is typed beyond is lost (termios(3), canonical mode).
const TERMINAL_LINE: usize = 4095;

/// The value in a file, as it is.
pub(crate) fn of_file(file: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let opened = std::fs::File::open(file).and_then(read);
    opened.map_err(|e| Failure::new(format!("cannot read the value from {}", file.display())).because(&e))
}

/// The value that is piped or typed, without the line end at its end.
pub(crate) async fn of_stdin(name: &SecretName) -> Result<Zeroizing<Vec<u8>>> {
    let cannot = |e: io::Error| Failure::new("cannot read the value from stdin").because(&e);
    let value = match io::stdin().is_terminal() {
        true => typed(name).await?,
        false => read(io::stdin()).map_err(cannot)?,
    };
    let value = without_line_end(value);
    match value.is_empty() {
        true => Err(Failure::new(format!("no value was given for {name}")).hint("nothing was changed")),
        false => Ok(value),
    }
}

fn read(from: impl Read) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut value = Zeroizing::new(Vec::with_capacity(64 << 10));
    from.take(MOST).read_to_end(&mut value)?;
    Ok(value)
}

fn without_line_end(mut value: Zeroizing<Vec<u8>>) -> Zeroizing<Vec<u8>> {
    if value.last() == Some(&b'\n') {
        value.pop();
        if value.last() == Some(&b'\r') {
            value.pop();
        }
    }
    value
}

/// A terminal that does not show what is typed, until this is dropped.
struct Unseen(Termios);

impl Unseen {
    fn new() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut unseen = before.clone();
        unseen.local_modes.remove(LocalModes::ECHO);
        // The line end is all that shows that something was typed.
        unseen.local_modes.insert(LocalModes::ECHONL);
        tcsetattr(io::stdin(), OptionalActions::Flush, &unseen)?;
        Ok(Self(before))
    }
}

impl Drop for Unseen {
    fn drop(&mut self) {
        // There is nobody to tell, and nothing else to try.
        tcsetattr(io::stdin(), OptionalActions::Now, &self.0).unwrap_or_default();
    }
}

/// One line from the terminal, which shows again what is typed however this ends.
async fn typed(name: &SecretName) -> Result<Zeroizing<Vec<u8>>> {
    let cannot = |e: io::Error| Failure::new("cannot read the value from this terminal").because(&e);
    let mut signals = Signals::new()?;
    let unseen = Unseen::new().map_err(cannot)?;
    note(&format!("value of {name} (it is not shown):"));
    let (tell, told) = oneshot::channel();
    // A thread that ends with the process: reading a terminal cannot be called off.
    std::thread::spawn(move || {
        // Of its final size: one that grows leaves copies behind.
        let mut line = Zeroizing::new(vec![0; TERMINAL_LINE + 1]);
        let read = io::stdin().lock().read(&mut line).map(|count| {
            line.truncate(count);
            line
        });
        // Nobody waits any more after a signal.
        tell.send(read).unwrap_or_default();
    });
    let line = tokio::select! {
        line = told => line.map_err(|e| Failure::new("cannot read the value from this terminal").because(&e))?,
        () = signals.any() => return Err(Failure::new("nothing was changed")),
    };
    drop(unseen);
    let line = line.map_err(cannot)?;
    if line.len() >= TERMINAL_LINE {
        let message = format!("a terminal passes on at most {TERMINAL_LINE} bytes of a line");
        return Err(Failure::new(message).hint("give the value with --from-file, or through a pipe"));
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_end_is_left_out() {
        for (given, value) in
            [("a", "a"), ("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), ("a\r", "a\r"), ("\n", ""), ("", "")]
        {
            let without = without_line_end(Zeroizing::new(given.into()));
            assert_eq!(without.as_slice(), value.as_bytes(), "{given:?}");
        }
    }
}
