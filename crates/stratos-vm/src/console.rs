//! A machine's console: every line of it, for whoever waits for one.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read, Write};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// Most lines that are kept in memory; the log file has all of them.
const MAX_LINES: usize = 20_000;
/// Longest line; what follows is a line of its own.
const MAX_LINE: usize = 8 << 10;
/// How many lines an error shows.
const TAIL: usize = 20;

/// One line of a console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsoleLine {
    /// When it was complete, since QEMU was started.
    pub at: Duration,
    /// Its text, without control characters.
    pub text: String,
}

/// What PID 1 says when every service is ready: `stratos: ready in N ms (kernel M ms)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// When the line was read, since QEMU was started.
    pub at: Duration,
    /// PID 1's own count since the kernel began.
    pub since_kernel: Duration,
    /// The kernel's share of that.
    pub kernel: Duration,
}

/// The lines of a console, whatever its bytes.
pub fn lines_of(bytes: &[u8]) -> Vec<ConsoleLine> {
    let console = Console::new();
    // Reading from memory does not fail.
    console.read(bytes, Vec::new()).unwrap_or_default();
    console.lines(0)
}

impl Ready {
    /// Reads the line.
    pub fn parse(line: &ConsoleLine) -> Option<Self> {
        let (_, rest) = line.text.split_once("stratos: ready in ")?;
        let (all, rest) = rest.split_once(" ms (kernel ")?;
        let (kernel, _) = rest.split_once(" ms)")?;
        let ms = |text: &str| text.parse().ok().map(Duration::from_millis);
        Some(Self { at: line.at, since_kernel: ms(all)?, kernel: ms(kernel)? })
    }
}

/// The end of a console, as an error's cause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsoleTail(Vec<ConsoleLine>);

impl fmt::Display for ConsoleTail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("its console is empty");
        }
        f.write_str("its console ends with")?;
        self.0.iter().try_for_each(|line| write!(f, "\n[{:6.1}] {}", line.at.as_secs_f64(), line.text))
    }
}

impl std::error::Error for ConsoleTail {}

/// What is known of a machine's run.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Progress {
    /// Lines so far.
    pub(crate) lines: usize,
    /// How QEMU ended.
    pub(crate) exit: Option<ExitStatus>,
}

/// The console, shared by the thread that reads it and those who look at it.
#[derive(Debug, Clone)]
pub(crate) struct Console {
    begun: Instant,
    kept: Arc<Mutex<Kept>>,
    progress: watch::Sender<Progress>,
}

#[derive(Debug, Default)]
struct Kept {
    /// How many lines were dropped from the front.
    dropped: usize,
    lines: VecDeque<ConsoleLine>,
}

impl Console {
    /// An empty one, of a machine that is started now.
    pub(crate) fn new() -> Self {
        Self { begun: Instant::now(), kept: Arc::default(), progress: watch::channel(Progress::default()).0 }
    }

    /// Time since the machine was started.
    pub(crate) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Tells of each new line, and of the end.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// The lines from number `from` on, as far as they are kept.
    pub(crate) fn lines(&self, from: usize) -> Vec<ConsoleLine> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.lines.iter().skip(from.saturating_sub(kept.dropped)).cloned().collect()
    }

    /// The last lines, for an error.
    pub(crate) fn tail(&self) -> ConsoleTail {
        ConsoleTail(self.lines(self.progress.borrow().lines.saturating_sub(TAIL)))
    }

    /// Reads a console to its end, into `sinks` as it comes. A sink that fails gets no more: the machine must go on.
    pub(crate) fn read(&self, mut from: impl Read, mut sinks: Vec<Box<dyn Write + Send>>) -> io::Result<()> {
        let (mut buffer, mut line) = ([0; 4096], Vec::new());
        loop {
            let n = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            sinks.retain_mut(|sink| sink.write_all(&buffer[..n]).and_then(|()| sink.flush()).is_ok());
            for byte in &buffer[..n] {
                if *byte == b'\n' || line.len() == MAX_LINE {
                    self.line(&std::mem::take(&mut line));
                }
                if *byte != b'\n' {
                    line.push(*byte);
                }
            }
        }
        if !line.is_empty() {
            self.line(&line);
        }
        Ok(())
    }

    fn line(&self, bytes: &[u8]) {
        let line = ConsoleLine { at: self.begun.elapsed(), text: plain(&String::from_utf8_lossy(bytes)) };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.lines.len() == MAX_LINES {
            kept.lines.pop_front();
            kept.dropped += 1;
        }
        kept.lines.push_back(line);
        let lines = kept.dropped + kept.lines.len();
        drop(kept);
        self.progress.send_modify(|progress| progress.lines = lines);
    }

    /// QEMU has ended.
    pub(crate) fn ended(&self, exit: ExitStatus) {
        self.progress.send_modify(|progress| progress.exit = Some(exit));
    }
}

/// A line without escape sequences (firmware clears the screen) and other control characters.
fn plain(text: &str) -> String {
    let (mut plain, mut chars) = (String::with_capacity(text.len()), text.chars().peekable());
    while let Some(c) = chars.next() {
        match c {
            // CSI: parameters and intermediates up to a final byte.
            '\x1b' if chars.next_if_eq(&'[').is_some() => {
                for c in chars.by_ref() {
                    if ('\x40'..='\x7e').contains(&c) {
                        break;
                    }
                }
            }
            '\x1b' => {
                chars.next();
            }
            '\t' => plain.push(' '),
            c if c.is_control() => {}
            c => plain.push(c),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console(bytes: &[u8]) -> (Console, Vec<String>) {
        let console = Console::new();
        console.read(bytes, Vec::new()).unwrap();
        let lines = console.lines(0).into_iter().map(|line| line.text).collect();
        (console, lines)
    }

    #[test]
    fn lines_are_kept_without_what_steers_a_terminal() {
        let (console, lines) = console(b"\x1b[2J\x1b[01;01Hone\r\n\xff two\x07\n\nlast");
        assert_eq!(lines, ["one", "\u{fffd} two", "", "last"]);
        assert_eq!(console.subscribe().borrow().lines, 4);
        assert!(console.tail().to_string().ends_with("] last"), "{}", console.tail());
    }

    #[test]
    fn memory_for_lines_is_bounded() {
        let (console, lines) = console("x\n".repeat(MAX_LINES + 5).as_bytes());
        assert_eq!(lines.len(), MAX_LINES);
        assert_eq!(console.lines(MAX_LINES).len(), 5, "numbers count what was dropped");
        let (_, lines) = self::console(&[b'y'; MAX_LINE + 1]);
        assert_eq!(lines.iter().map(String::len).collect::<Vec<_>>(), [MAX_LINE, 1]);
    }

    #[test]
    fn readiness_is_one_line() {
        let line = |text: &str| ConsoleLine { at: Duration::from_secs(9), text: text.into() };
        let ready = Ready::parse(&line("stratos: ready in 1234 ms (kernel 900 ms)")).unwrap();
        assert_eq!((ready.since_kernel.as_millis(), ready.kernel.as_millis()), (1234, 900));
        for wrong in ["stratos: ready", "stratos: ready in x ms (kernel 1 ms)", "stratos: mounting"] {
            assert_eq!(Ready::parse(&line(wrong)), None, "{wrong}");
        }
    }
}
