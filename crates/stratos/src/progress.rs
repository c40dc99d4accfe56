//! Progress on stderr: a spinner or bar on a terminal, a plain line per step elsewhere.

use std::io::IsTerminal;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::output::note;

/// Shows what is being done until it is dropped.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    quiet: bool,
    /// The running step, and when its last detail was told.
    step: Mutex<(String, Instant)>,
}

/// How often a detail becomes a line of its own, where there is no terminal to show it on.
const DETAIL: Duration = Duration::from_secs(60);

impl Progress {
    /// Progress for a person; silent when `quiet` is set (`--json`).
    pub(crate) fn new(quiet: bool) -> Self {
        let on_terminal = !quiet && std::io::stderr().is_terminal();
        let bar = on_terminal.then(|| {
            let bar = ProgressBar::new_spinner();
            bar.set_style(spinner());
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self { bar, quiet, step: Mutex::new((String::new(), Instant::now())) }
    }

    /// A step begins.
    pub(crate) fn step(&self, text: &str) {
        *self.current() = (text.to_owned(), Instant::now());
        match &self.bar {
            Some(bar) => {
                bar.set_style(spinner());
                bar.set_message(text.to_owned());
            }
            None if self.quiet => {}
            None => note(&format!("{text} ...")),
        }
    }

    /// What the running step is at.
    pub(crate) fn detail(&self, detail: &str) {
        let mut current = self.current();
        match &self.bar {
            Some(bar) => bar.set_message(format!("{}: {detail}", current.0)),
            None if self.quiet || current.1.elapsed() < DETAIL => {}
            None => {
                current.1 = Instant::now();
                note(&format!("{}: {detail}", current.0));
            }
        }
    }

    fn current(&self) -> MutexGuard<'_, (String, Instant)> {
        self.step.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `done` of `total` bytes; `total` is 0 while it is unknown. Shown on a terminal only.
    pub(crate) fn bytes(&self, done: u64, total: u64) {
        let Some(bar) = self.bar.as_ref().filter(|_| total > 0) else { return };
        if bar.length() != Some(total) {
            bar.set_length(total);
        }
        bar.set_style(byte_bar());
        bar.set_position(done);
    }

    /// A line that stays, above the spinner.
    pub(crate) fn line(&self, text: &str) {
        if !self.quiet {
            self.loud(text);
        }
    }

    /// A line that stays, also where progress is silent.
    pub(crate) fn loud(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| note(text)),
            None => note(text),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn spinner() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {msg} {elapsed:.dim}").expect("the template is correct")
}

fn byte_bar() -> ProgressStyle {
    let template = "{spinner} {msg} [{bar:30}] {bytes}/{total_bytes}";
    ProgressStyle::with_template(template).expect("the template is correct").progress_chars("=> ")
}
