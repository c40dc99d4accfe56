//! The records of the last boots, which PID 1 keeps.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use stratos_api::node::{BOOTS_FOLDER, BOOTS_KEPT, BootRecord};

/// Largest record, bytes.
const MAX_RECORD: u64 = 256 << 10;

/// The records under `state`, newest first, with the one that PID 1 tells of now in the place of its file.
pub(super) fn list(state: &Path, live: Option<BootRecord>) -> io::Result<Vec<BootRecord>> {
    let folder = state.join(BOOTS_FOLDER);
    let mut records = Vec::new();
    for number in numbers(&folder)? {
        if live.as_ref().is_some_and(|live| live.number == number) {
            continue;
        }
        let path = folder.join(format!("{number}.json"));
        match read(&path) {
            Ok(Some(record)) => records.push(record),
            // What a power cut left of a record is no reason to hide the others.
            Ok(None) => tracing::warn!(path = %path.display(), "not a boot record"),
            // PID 1 has just removed the oldest.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(live.into_iter().chain(records).collect())
}

/// The numbers of the files, highest first, at most as many as are kept.
fn numbers(folder: &Path) -> io::Result<Vec<u64>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let number = |entry: std::fs::DirEntry| entry.file_name().to_str()?.strip_suffix(".json")?.parse().ok();
    let mut numbers: Vec<u64> = entries.flatten().filter_map(number).collect();
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    numbers.truncate(BOOTS_KEPT);
    Ok(numbers)
}

fn read(path: &Path) -> io::Result<Option<BootRecord>> {
    let mut text = Vec::new();
    File::open(path)?.take(MAX_RECORD).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_come_first_and_the_live_one_is_not_told_twice() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(list(dir.path(), None).unwrap(), []);
        let folder = dir.path().join(BOOTS_FOLDER);
        std::fs::create_dir(&folder).unwrap();
        let record = |number| BootRecord { number, ..BootRecord::default() };
        for number in [2, 9, 10, 11] {
            std::fs::write(
                folder.join(format!("{number}.json")),
                serde_json::to_vec(&record(number)).unwrap(),
            )
            .unwrap();
        }
        std::fs::write(folder.join("8.json"), "{ half").unwrap();
        std::fs::write(folder.join("note.txt"), "").unwrap();
        let numbers = |live| list(dir.path(), live).unwrap().iter().map(|r| r.number).collect::<Vec<_>>();
        assert_eq!(numbers(None), [11, 10, 9, 2]);
        assert_eq!(numbers(Some(record(11))), [11, 10, 9, 2]);
        assert_eq!(numbers(Some(record(12))), [12, 11, 10, 9, 2]);
    }
}
