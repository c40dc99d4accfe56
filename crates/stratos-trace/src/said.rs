//! What libbpf says while it loads: its messages hold the kernel's reason, its results only a number.

use std::sync::{Mutex, MutexGuard, PoisonError};

use libbpf_rs::{PrintLevel, set_print};

/// Messages kept; the last ones say why.
const KEPT: usize = 16;

/// libbpf has one place for its messages in a process, so loading takes turns.
static TURN: Mutex<()> = Mutex::new(());
static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn lock<T>(mutex: &'static Mutex<T>) -> MutexGuard<'static, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn note(_: PrintLevel, message: String) {
    let mut said = lock(&SAID);
    if said.len() == KEPT {
        said.remove(0);
    }
    said.push(message);
}

/// Does something with libbpf. When it fails, the error is told with the reason that libbpf gave on the way.
pub(crate) fn with_reason<T>(work: impl FnOnce() -> Result<T, libbpf_rs::Error>) -> Result<T, String> {
    let _turn = lock(&TURN);
    lock(&SAID).clear();
    let previous = set_print(Some((PrintLevel::Warn, note)));
    let result = work();
    set_print(previous);
    result.map_err(|error| {
        let said = std::mem::take(&mut *lock(&SAID));
        match reason(&said) {
            Some(reason) => format!("{error:#}: {reason}"),
            None => format!("{error:#}"),
        }
    })
}

/// The line that says most: the verifier's last word, else libbpf's first complaint.
fn reason(said: &[String]) -> Option<String> {
    const BEGIN: &str = "BEGIN PROG LOAD LOG";
    let log = said.iter().rev().find(|message| message.contains(BEGIN));
    let verdict = log.and_then(|log| {
        let plain = |line: &&str| {
            !line.is_empty() && !line.contains("PROG LOAD LOG") && !line.starts_with("processed ")
        };
        log.lines().map(str::trim).rfind(plain)
    });
    let first = || said.iter().find_map(|message| message.trim().strip_prefix("libbpf: "));
    verdict.or_else(first).map(|line| line.chars().take(300).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verifiers_last_word_is_the_reason() {
        let log = "libbpf: prog 'x': -- BEGIN PROG LOAD LOG --\n0: R1=ctx()\nfunc 'x' doesn't have 2-th argument\n\
                   processed 1 insns (limit 1000000)\n-- END PROG LOAD LOG --\n";
        let said =
            ["libbpf: prog 'x': BPF program load failed: Permission denied\n".to_owned(), log.to_owned()];
        assert_eq!(reason(&said).as_deref(), Some("func 'x' doesn't have 2-th argument"));
        assert_eq!(
            reason(&said[..1]).as_deref(),
            Some("prog 'x': BPF program load failed: Permission denied")
        );
        assert_eq!(reason(&[]), None);
    }
}
