//! This terminal as a machine's console: what is typed goes to the machine, every key of it, Ctrl-C too. Ctrl-] leaves.

use std::io::{Read as _, Write as _};
use std::process::ChildStdin;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::sync::watch;

use crate::failure::{Failure, Result};
use crate::output::note;

/// Ctrl-], as in telnet: no program needs it.
const LEAVE: u8 = 0x1d;

/// The terminal in the machine's hands, until it is dropped.
pub(crate) struct Keyboard {
    before: Option<Termios>,
    left: watch::Receiver<bool>,
}

impl Keyboard {
    /// Gives the terminal to a machine.
    pub(crate) fn give(mut machine: ChildStdin) -> Result<Self> {
        let stdin = std::io::stdin();
        // Pipes are passed on as well, as they are.
        let before = tcgetattr(&stdin).ok();
        if let Some(before) = &before {
            note("this terminal is the machine's console now; Ctrl-] leaves it and switches the machine off");
            let mut raw = before.clone();
            raw.make_raw();
            tcsetattr(&stdin, OptionalActions::Now, &raw)
                .map_err(|e| Failure::new("cannot use this terminal as a console").because(&e))?;
        }
        let on_terminal = before.is_some();
        let (tell, left) = watch::channel(false);
        // A thread that ends with the process: reading a terminal cannot be called off.
        std::thread::spawn(move || {
            let mut buffer = [0; 1024];
            while let Ok(n @ 1..) = std::io::stdin().lock().read(&mut buffer) {
                let typed = &buffer[..n];
                let until = typed.iter().position(|byte| on_terminal && *byte == LEAVE);
                if machine.write_all(&typed[..until.unwrap_or(n)]).is_err() {
                    return;
                }
                if until.is_some() {
                    tell.send_replace(true);
                    return;
                }
            }
            // The end of a pipe is no reason to leave, and the machine keeps its keyboard.
            loop {
                std::thread::park();
            }
        });
        Ok(Self { before, left })
    }

    /// Waits until Ctrl-] is typed.
    pub(crate) async fn left(&self) {
        let mut left = self.left.clone();
        if left.wait_for(|left| *left).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // There is nobody to tell, and nothing else to try.
            tcsetattr(std::io::stdin(), OptionalActions::Now, before).unwrap_or_default();
        }
    }
}
