//! The records of the last boots, in the state.

use std::path::{Path, PathBuf};

use stratos_api::node::{BOOTS_FOLDER, BOOTS_KEPT, BootRecord};

use crate::boot::Node;
use crate::error::InitError;
use crate::{clock, files, state};

/// More files than this are somebody else's.
const MOST_FILES: usize = 4096;

fn folder() -> PathBuf {
    Path::new(state::FOLDER).join(BOOTS_FOLDER)
}

/// The numbers of the boots that are kept, from the names of their files; sorted.
fn numbers(names: &[String]) -> Vec<u64> {
    let number = |name: &String| name.strip_suffix(".json")?.parse().ok();
    let mut numbers: Vec<u64> = names.iter().filter_map(number).collect();
    numbers.sort_unstable();
    numbers
}

/// The number of this boot.
pub fn next_number() -> u64 {
    let names = files::names(folder(), MOST_FILES).unwrap_or_default();
    numbers(&names).last().map_or(1, |last| last.saturating_add(1))
}

/// A record as it is when PID 1 begins.
pub fn begin(kernel_us: u64) -> BootRecord {
    BootRecord {
        began_at: clock::rfc3339(clock::wall_ms()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        kernel_us,
        ..BootRecord::default()
    }
}

/// Keeps the record of this boot. The log's thread writes it: the disk may hang.
pub fn keep(node: &mut Node) {
    if node.record.number == 0 {
        return;
    }
    let Ok(text) = serde_json::to_vec_pretty(&node.record) else { return };
    if !node.journal.record(node.record.number, text) {
        node.journal.say("the record of this boot cannot be kept");
    }
}

/// Writes the record of boot `number`, and removes the oldest beyond the limit.
///
/// # Errors
/// When the state does not take it.
pub fn write(number: u64, text: &[u8]) -> Result<(), InitError> {
    let folder = folder();
    files::folder(&folder)?;
    files::replace(folder.join(format!("{number}.json")), text, 0o600)?;
    for old in beyond(&numbers(&files::names(&folder, MOST_FILES)?)) {
        let path = folder.join(format!("{old}.json"));
        std::fs::remove_file(&path).map_err(|source| InitError::file("remove", path, source))?;
    }
    Ok(())
}

/// The numbers of the boots that are too many.
fn beyond(numbers: &[u64]) -> &[u64] {
    numbers.get(..numbers.len().saturating_sub(BOOTS_KEPT)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boots_are_counted_by_their_files() {
        let names = ["10.json", "9.json", "x.json", "11.json.new"].map(str::to_owned);
        assert_eq!(numbers(&names), [9, 10]);
        let many: Vec<u64> = (1..=12).collect();
        assert_eq!(beyond(&many), [1, 2]);
        assert_eq!(beyond(&[1, 2]), [0; 0]);
    }

    #[test]
    fn a_record_knows_when_and_on_which_kernel() {
        let record = begin(7);
        assert_eq!(record.kernel_us, 7);
        assert!(record.kernel.contains('.') && record.began_at.ends_with('Z'), "{record:?}");
    }
}
