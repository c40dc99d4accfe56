//! The records of the last boots, in the state.

use std::path::{Path, PathBuf};

use stratos_api::node::{BOOTS_FOLDER, BOOTS_KEPT, BootRecord};

use crate::boot::Node;
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

/// Keeps the record of this boot, and removes those beyond the limit. Done by the log's thread: the disk may hang.
pub fn keep(node: &mut Node) {
    let folder = folder();
    if node.record.number == 0 || files::folder(&folder).is_err() {
        return;
    }
    let Ok(text) = serde_json::to_vec_pretty(&node.record) else { return };
    let path = folder.join(format!("{}.json", node.record.number));
    if !node.journal.replace(path, text) {
        node.journal.say("the record of this boot cannot be kept");
        return;
    }
    let names = files::names(&folder, MOST_FILES).unwrap_or_default();
    let numbers = numbers(&names);
    let others = numbers.iter().rev().filter(|number| **number != node.record.number);
    for number in others.skip(BOOTS_KEPT - 1) {
        node.journal.remove(folder.join(format!("{number}.json")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boots_are_counted_by_their_files() {
        let names = ["10.json", "9.json", "x.json", "11.json.new"].map(str::to_owned);
        assert_eq!(numbers(&names), [9, 10]);
    }

    #[test]
    fn a_record_knows_when_and_on_which_kernel() {
        let record = begin(7);
        assert_eq!(record.kernel_us, 7);
        assert!(record.kernel.contains('.') && record.began_at.ends_with('Z'), "{record:?}");
    }
}
