//! The node's own log: what PID 1 and its services printed, and the kernel's.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use stratos_api::node::{NODE_LOGS_FOLDER, NodeLogLine};

use super::kernel_log::KernelLog;

/// Most lines given at once.
pub(crate) const MAX_TAIL: usize = 10_000;
/// What is read of one file, from its end.
const MAX_READ: u64 = 4 << 20;
/// Most files, each of one source.
const MAX_FILES: usize = 64;
/// The kernel's source, read from memory where PID 1 keeps no file of it.
const KERNEL: &str = "kernel";

/// Which lines are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogRequest {
    /// Of this source alone.
    pub source: Option<String>,
    /// How many that are there already.
    pub tail: usize,
}

/// The log, open at its end: [`NodeLog::new_lines`] gives what has come since.
#[derive(Debug)]
pub struct NodeLog {
    folder: PathBuf,
    wanted: Option<String>,
    files: Vec<Followed>,
    kernel: Option<KernelLog>,
}

/// A file that grows.
#[derive(Debug)]
struct Followed {
    source: String,
    file: File,
    inode: u64,
    /// The start of a line whose end is not there yet.
    partial: Vec<u8>,
}

impl NodeLog {
    /// Opens the log under `state`; gives its last lines, oldest first.
    pub(super) fn open(state: &Path, request: LogRequest) -> io::Result<(Vec<NodeLogLine>, Self)> {
        let folder = state.join(NODE_LOGS_FOLDER);
        let count = request.tail.min(MAX_TAIL);
        let mut log = Self { folder, wanted: request.source, files: Vec::new(), kernel: None };
        let mut lines = Vec::new();
        for source in log.sources()? {
            let older = read_end(&log.path(&source).with_added_extension("1"))?;
            let mut tail = Tail::new(count);
            older.map(|(text, _)| text).iter().for_each(|text| tail.take_in(&source, text));
            if let Some(followed) = log.follow(&source, &mut tail)? {
                log.files.push(followed);
            }
            lines.extend(tail.lines);
        }
        if log.wants(KERNEL) && !log.files.iter().any(|followed| followed.source == KERNEL) {
            log.kernel = KernelLog::open();
            let mut tail = Tail::new(count);
            log.kernel.iter_mut().for_each(|kernel| kernel.read(|line| tail.push(line)));
            lines.extend(tail.lines);
        }
        // Each source is in order; times are of one format, so they sort as text.
        lines.sort_by(|a, b| a.at.cmp(&b.at));
        lines.drain(..lines.len().saturating_sub(count));
        Ok((lines, log))
    }

    /// The lines that have come since the last call, at most [`MAX_TAIL`] of each source.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn new_lines(&mut self) -> io::Result<Vec<NodeLogLine>> {
        let mut lines = Vec::new();
        for source in self.sources()? {
            let mut tail = Tail::new(MAX_TAIL);
            let known = self.files.iter().position(|followed| followed.source == source);
            if let Some(known) = known {
                self.files[known].read_on(&mut tail)?;
            }
            // PID 1 began a new file, having put the old one aside; or a service has printed for the first time.
            let inode = std::fs::metadata(self.path(&source)).map(|meta| meta.ino()).ok();
            if inode.is_some() && inode != known.map(|known| self.files[known].inode) {
                let followed = self.follow(&source, &mut tail)?;
                self.files.retain(|old| old.source != source);
                self.files.extend(followed);
            }
            lines.extend(tail.lines);
        }
        if let Some(kernel) = &mut self.kernel {
            kernel.read(|line| lines.push(line));
        }
        lines.sort_by(|a, b| a.at.cmp(&b.at));
        Ok(lines)
    }

    fn wants(&self, source: &str) -> bool {
        self.wanted.as_deref().is_none_or(|wanted| wanted == source)
    }

    /// The sources that have a file and are wanted.
    fn sources(&self) -> io::Result<Vec<String>> {
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let source =
            |entry: std::fs::DirEntry| Some(entry.file_name().to_str()?.strip_suffix(".log")?.to_owned());
        let sources = entries.flatten().filter_map(source).filter(|source| self.wants(source));
        let mut sources: Vec<String> = sources.take(MAX_FILES).collect();
        sources.sort();
        Ok(sources)
    }

    fn path(&self, source: &str) -> PathBuf {
        self.folder.join(source).with_added_extension("log")
    }

    /// Opens a source's file and reads it to its end.
    fn follow(&self, source: &str, tail: &mut Tail) -> io::Result<Option<Followed>> {
        let Some((text, file)) = read_end(&self.path(source))? else { return Ok(None) };
        let inode = file.metadata()?.ino();
        let mut followed = Followed { source: source.to_owned(), file, inode, partial: Vec::new() };
        followed.take_in(&text, tail);
        Ok(Some(followed))
    }
}

impl Followed {
    fn read_on(&mut self, tail: &mut Tail) -> io::Result<()> {
        let mut text = Vec::new();
        (&self.file).take(MAX_READ).read_to_end(&mut text)?;
        self.take_in(&text, tail);
        Ok(())
    }

    /// Lines count once they are whole.
    fn take_in(&mut self, text: &[u8], tail: &mut Tail) {
        self.partial.extend_from_slice(text);
        let whole = self.partial.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
        let rest = self.partial.split_off(whole);
        tail.take_in(&self.source, &std::mem::replace(&mut self.partial, rest));
        // A line of this length is none of PID 1's.
        if self.partial.len() as u64 > MAX_READ {
            self.partial.clear();
        }
    }
}

/// The last lines.
struct Tail {
    count: usize,
    lines: VecDeque<NodeLogLine>,
}

impl Tail {
    fn new(count: usize) -> Self {
        Self { count, lines: VecDeque::new() }
    }

    fn take_in(&mut self, source: &str, text: &[u8]) {
        text.split(|b| *b == b'\n').filter_map(|line| parse(source, line)).for_each(|line| self.push(line));
    }

    fn push(&mut self, line: NodeLogLine) {
        self.lines.push_back(line);
        if self.lines.len() > self.count {
            self.lines.pop_front();
        }
    }
}

/// One line of a file. What a power cut left of one is passed over.
fn parse(source: &str, line: &[u8]) -> Option<NodeLogLine> {
    let line: NodeLogLine = serde_json::from_slice(line).ok()?;
    Some(NodeLogLine { source: source.to_owned(), ..line })
}

/// The end of a file, from a whole line on, and the file at its end; `None` when there is none.
fn read_end(path: &Path) -> io::Result<Option<(Vec<u8>, File)>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let start = file.metadata()?.len().saturating_sub(MAX_READ);
    file.seek(SeekFrom::Start(start))?;
    let mut text = Vec::new();
    (&file).take(2 * MAX_READ).read_to_end(&mut text)?;
    if start > 0 {
        let first = text.iter().position(|b| *b == b'\n').map_or(text.len(), |end| end + 1);
        text.drain(..first);
    }
    Ok(Some((text, file)))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn line(second: u32, message: &str) -> String {
        let at = format!("2026-01-02T03:04:{second:02}.000Z");
        let line = NodeLogLine { at, source: "whatever".into(), message: message.into() };
        serde_json::to_string(&line).unwrap() + "\n"
    }

    fn append(path: &Path, text: &str) {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        file.unwrap().write_all(text.as_bytes()).unwrap();
    }

    fn messages(lines: &[NodeLogLine]) -> Vec<&str> {
        lines.iter().filter(|line| line.source != KERNEL).map(|line| line.message.as_str()).collect()
    }

    #[test]
    fn files_are_told_as_one_log_and_followed_over_their_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join(NODE_LOGS_FOLDER);
        std::fs::create_dir(&folder).unwrap();
        let (agent, init) = (folder.join("stratosd.log"), folder.join("init.log"));
        append(&folder.join("stratosd.log.1"), &line(1, "a1"));
        append(&agent, &(line(3, "a3") + "{ broken\n" + &line(5, "a5")));
        append(&init, &(line(2, "i2") + &line(4, "i4")));
        append(&folder.join("kernel.log"), "");
        let open = |source: Option<&str>, tail| {
            NodeLog::open(dir.path(), LogRequest { source: source.map(str::to_owned), tail }).unwrap()
        };
        let (lines, mut log) = open(None, 100);
        assert_eq!(messages(&lines), ["a1", "i2", "a3", "i4", "a5"]);
        assert_eq!(lines[0].source, "stratosd");
        assert_eq!(messages(&open(Some("init"), 1).0), ["i4"]);
        assert_eq!(messages(&open(None, 2).0), ["i4", "a5"]);
        assert_eq!(messages(&open(Some("nobody"), 9).0), [] as [&str; 0]);

        assert_eq!(log.new_lines().unwrap(), []);
        let whole = line(6, "a6");
        let (start, rest) = whole.split_at(20);
        append(&agent, start);
        assert_eq!(log.new_lines().unwrap(), [], "half a line is none yet");
        append(&agent, rest);
        append(&agent, &line(7, "a7"));
        std::fs::rename(&agent, folder.join("stratosd.log.1")).unwrap();
        append(&agent, &line(8, "a8"));
        append(&folder.join("new.log"), &line(9, "n9"));
        assert_eq!(messages(&log.new_lines().unwrap()), ["a6", "a7", "a8", "n9"]);
        append(&agent, &line(10, "a10"));
        assert_eq!(messages(&log.new_lines().unwrap()), ["a10"]);
    }

    #[test]
    fn a_huge_file_is_read_from_near_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join(NODE_LOGS_FOLDER);
        std::fs::create_dir(&folder).unwrap();
        let filler = line(1, &"x".repeat(1000));
        append(&folder.join("a.log"), &filler.repeat(6 << 10));
        append(&folder.join("a.log"), &line(2, "last"));
        let (lines, _) =
            NodeLog::open(dir.path(), LogRequest { source: Some("a".into()), tail: usize::MAX }).unwrap();
        assert!(lines.len() < 4200 && lines.len() > 3000, "{}", lines.len());
        assert_eq!(lines.last().unwrap().message, "last");
    }
}
