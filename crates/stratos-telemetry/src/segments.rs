//! Frames of bytes in a row of files whose sum is limited: what is written last is kept longest.
//!
//! A file is a header and frames, each with its length and checksum (docs/formats/telemetry.md). Frames are
//! appended, many in one write; nothing is synced, so a power cut may take the last ones. A frame that was not written
//! whole is cut off when the files are opened again. What is damaged elsewhere is set aside, and what is whole before it
//! is kept.

use std::collections::VecDeque;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// The first bytes of a file: what it is, and the format's version.
const MAGIC: [u8; 8] = *b"STRTEL\x00\x01";
/// Length and checksum before each frame.
const HEAD: usize = 8;
/// Longest frame in bytes; ours are a hundredth of it.
pub const MAX_FRAME: usize = 64 << 10;
/// Largest file in bytes.
const MAX_FILE: u64 = 1 << 20;

/// What functions were given and what they answered is nobody else's business.
const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Where a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The number of its file.
    pub file: u64,
    offset: u32,
    length: u32,
}

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {}", path.display())]
pub struct SegmentError {
    /// What was tried.
    pub what: &'static str,
    /// On which file.
    pub path: PathBuf,
    /// Why not.
    pub source: io::Error,
}

/// A file of which a part could not be read.
#[derive(Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file as it is now called.
    pub set_aside: PathBuf,
    /// Bytes at its begin that were taken over.
    pub whole: u64,
    /// Bytes of which nothing is known.
    pub lost: u64,
}

/// The files.
#[derive(Debug)]
pub struct Segments {
    dir: PathBuf,
    name: &'static str,
    most_bytes: u64,
    file_bytes: u64,
    /// Number and length of each, oldest first; the last is written to.
    files: VecDeque<(u64, u64)>,
    open: Option<File>,
    /// Nothing may follow in the last file, for what stands at its end is not known.
    spoiled: bool,
}

/// What became of frames that were to be appended.
#[derive(Debug, Default)]
pub struct Appended {
    /// Where they are: the first so many of them.
    pub places: Vec<Place>,
    /// Numbers of files that had to go for them.
    pub gone: Vec<u64>,
    /// Why the others are not there.
    pub failed: Option<SegmentError>,
}

impl Segments {
    /// Opens the files `NAME-NUMBER` in a folder, which is made when it is not there. `frame` is given each frame that is in
    /// them, oldest first. What is damaged is told.
    ///
    /// # Errors
    /// When the folder or a file in it cannot be used.
    pub fn open(
        dir: &Path,
        name: &'static str,
        most_bytes: u64,
        mut frame: impl FnMut(Place, &[u8]),
    ) -> Result<(Self, Vec<Damage>), SegmentError> {
        let failed = |what, path: &Path| {
            let path = path.to_owned();
            move |source| SegmentError { what, path, source }
        };
        DirBuilder::new().recursive(true).mode(DIR_MODE).create(dir).map_err(failed("make", dir))?;
        // Those of an earlier version may be open to all.
        restrict(dir, DIR_MODE).map_err(failed("restrict", dir))?;
        let file_bytes = (most_bytes / 8).clamp(4 << 10, MAX_FILE);
        let mut all = Self {
            dir: dir.to_owned(),
            name,
            most_bytes,
            file_bytes,
            files: VecDeque::new(),
            open: None,
            spoiled: false,
        };
        let mut numbers = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(failed("read", dir))? {
            let entry = entry.map_err(failed("read", dir))?;
            let file_name = entry.file_name();
            let number = file_name.to_str().and_then(|n| n.strip_prefix(name)?.strip_prefix('-'));
            numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
        }
        numbers.sort_unstable();
        let mut damages = Vec::new();
        for (i, number) in numbers.iter().enumerate() {
            let path = all.path(*number);
            restrict(&path, FILE_MODE).map_err(failed("restrict", &path))?;
            let bytes = read_limited(&path).map_err(failed("read", &path))?;
            let whole = whole_frames(&bytes, |offset, payload| {
                frame(Place { file: *number, offset, length: payload.len() as u32 }, payload);
            });
            let last = i + 1 == numbers.len();
            if whole < bytes.len() {
                // The end of the last one may be missing after a crash. All else is no accident of ours.
                if !(last && whole >= MAGIC.len() && is_torn(&bytes[whole..])) {
                    damages.push(all.set_aside(*number, &bytes, whole)?);
                }
                let file = OpenOptions::new().write(true).open(&path).map_err(failed("open", &path))?;
                file.set_len(whole as u64).map_err(failed("cut", &path))?;
            }
            match whole {
                0..=8 => std::fs::remove_file(&path).map_err(failed("remove", &path))?,
                _ => all.files.push_back((*number, whole as u64)),
            }
        }
        all.drop_oldest(0, &mut Vec::new())?;
        Ok((all, damages))
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{}-{number:08}", self.name))
    }

    /// Keeps a damaged file for a person to look at; only the newest one.
    fn set_aside(&self, number: u64, bytes: &[u8], whole: usize) -> Result<Damage, SegmentError> {
        let aside = self.dir.join(format!("{}.damaged", self.name));
        let failed = |source| SegmentError { what: "set aside", path: self.path(number), source };
        std::fs::copy(self.path(number), &aside).map_err(failed)?;
        Ok(Damage { set_aside: aside, whole: whole as u64, lost: (bytes.len() - whole) as u64 })
    }

    /// Appends frames, each file's in one write. When some cannot be written, those before them are there.
    pub fn append(&mut self, frames: &[Vec<u8>]) -> Appended {
        let mut appended = Appended::default();
        appended.failed = self.append_to(frames, &mut appended).err();
        appended
    }

    fn append_to(&mut self, frames: &[Vec<u8>], appended: &mut Appended) -> Result<(), SegmentError> {
        let mut rest = frames;
        while !rest.is_empty() {
            let (number, length) = self.writable()?;
            let (mut buffer, mut places) = (Vec::new(), Vec::new());
            for frame in rest {
                debug_assert!(frame.len() <= MAX_FRAME);
                let full = length + (buffer.len() + HEAD + frame.len()) as u64 > self.file_bytes;
                if full && (!places.is_empty() || length > MAGIC.len() as u64) {
                    break;
                }
                let offset = (length as usize + buffer.len() + HEAD) as u32;
                places.push(Place { file: number, offset, length: frame.len() as u32 });
                buffer.extend_from_slice(&(frame.len() as u32).to_le_bytes());
                buffer.extend_from_slice(&crc32fast::hash(frame).to_le_bytes());
                buffer.extend_from_slice(frame);
            }
            if places.is_empty() {
                self.begin(number + 1)?;
                continue;
            }
            self.drop_oldest(buffer.len() as u64, &mut appended.gone)?;
            self.write(&buffer)?;
            rest = &rest[places.len()..];
            appended.places.extend(places);
        }
        Ok(())
    }

    /// The file that is written to, and its length.
    fn writable(&mut self) -> Result<(u64, u64), SegmentError> {
        match self.files.back().copied() {
            Some((number, _)) if self.spoiled => self.begin(number + 1),
            Some(last) => Ok(last),
            None => self.begin(1),
        }
    }

    fn begin(&mut self, number: u64) -> Result<(u64, u64), SegmentError> {
        let path = self.path(number);
        self.open = None;
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(&path);
        let made = file.and_then(|mut file| file.write_all(&MAGIC));
        made.map_err(|source| SegmentError { what: "make", path, source })?;
        self.spoiled = false;
        self.files.push_back((number, MAGIC.len() as u64));
        Ok((number, MAGIC.len() as u64))
    }

    fn write(&mut self, buffer: &[u8]) -> Result<(), SegmentError> {
        let Some((number, length)) = self.files.back().copied() else { return Ok(()) };
        let path = self.path(number);
        let failed = |source| SegmentError { what: "write to", path: path.clone(), source };
        let mut file = match self.open.take() {
            Some(file) => file,
            None => OpenOptions::new().append(true).open(&path).map_err(failed)?,
        };
        if let Err(error) = file.write_all(buffer) {
            // Half of it must not lie before what is written next.
            self.spoiled = file.set_len(length).is_err();
            return Err(failed(error));
        }
        self.open = Some(file);
        if let Some(last) = self.files.back_mut() {
            last.1 += buffer.len() as u64;
        }
        Ok(())
    }

    /// Removes the oldest files until there is room for so many bytes more. The one that is written to stays.
    fn drop_oldest(&mut self, more: u64, gone: &mut Vec<u64>) -> Result<(), SegmentError> {
        while self.files.len() > 1 && self.bytes() + more > self.most_bytes {
            gone.extend(self.drop_one()?);
        }
        Ok(())
    }

    /// Removes the oldest file, and gives its number; the one that is written to stays.
    ///
    /// # Errors
    /// When it cannot be removed: it is there still then.
    pub fn drop_one(&mut self) -> Result<Option<u64>, SegmentError> {
        let Some((number, _)) = self.files.front().copied().filter(|_| self.files.len() > 1) else {
            return Ok(None);
        };
        let path = self.path(number);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(SegmentError { what: "remove", path, source });
            }
            _ => self.files.pop_front(),
        };
        Ok(Some(number))
    }

    /// Reads a frame; `None` when its file is gone or it is damaged.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&self, place: Place) -> Result<Option<Vec<u8>>, SegmentError> {
        let path = self.path(place.file);
        let failed = |source| SegmentError { what: "read", path: path.clone(), source };
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let begin = u64::from(place.offset) - HEAD as u64;
        file.seek(SeekFrom::Start(begin)).map_err(failed)?;
        let mut bytes = vec![0; HEAD + place.length as usize];
        match file.read_exact(&mut bytes) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(failed(error)),
        }
        Ok(frame_at(&bytes, 0).map(<[u8]>::to_vec))
    }

    /// All files together, bytes.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, length)| length).sum()
    }
}

fn restrict(path: &Path, mode: u32) -> io::Result<()> {
    std::fs::set_permissions(path, Permissions::from_mode(mode))
}

/// A file, as far as one of ours can be long.
fn read_limited(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE + (MAX_FRAME + HEAD) as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn number_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The frame whose head is here, when it is whole.
fn frame_at(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let (length, sum) = (number_at(bytes, at)? as usize, number_at(bytes, at + 4)?);
    let payload = bytes.get(at + HEAD..at + HEAD + length.min(MAX_FRAME + 1))?;
    (length <= MAX_FRAME && crc32fast::hash(payload) == sum).then_some(payload)
}

/// Gives each frame with the offset of its payload; returns where the first that is not whole begins.
fn whole_frames(bytes: &[u8], mut frame: impl FnMut(u32, &[u8])) -> usize {
    if !bytes.starts_with(&MAGIC) {
        return 0;
    }
    let mut at = MAGIC.len();
    while let Some(payload) = frame_at(bytes, at) {
        frame((at + HEAD) as u32, payload);
        at += HEAD + payload.len();
    }
    at
}

/// Whether the bytes are the begin of a frame, or zeros that a file system left where bytes were to be.
fn is_torn(rest: &[u8]) -> bool {
    match number_at(rest, 0) {
        None => true,
        Some(length) => {
            rest.iter().all(|b| *b == 0)
                || length as usize <= MAX_FRAME && rest.len() < HEAD + length as usize
        }
    }
}

/// The frames of any bytes; for fuzzing.
pub fn frames(bytes: &[u8]) -> Vec<&[u8]> {
    let mut offsets = Vec::new();
    whole_frames(bytes, |offset, payload| offsets.push((offset as usize, payload.len())));
    offsets.into_iter().map(|(offset, length)| &bytes[offset..offset + length]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    type Opened = (Segments, Vec<(Place, Vec<u8>)>, Vec<Damage>);

    fn open(dir: &Path, most: u64) -> Opened {
        let mut all = Vec::new();
        let opened = Segments::open(dir, "t", most, |place, frame| all.push((place, frame.to_vec())));
        let (segments, damages) = opened.unwrap();
        (segments, all, damages)
    }

    fn numbered(range: std::ops::Range<u32>) -> Vec<Vec<u8>> {
        range.map(|i| format!("frame {i} {}", "x".repeat(i as usize % 300)).into_bytes()).collect()
    }

    #[test]
    fn frames_come_back_in_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let (mut segments, none, _) = open(dir.path(), 1 << 20);
        assert!(none.is_empty());
        let Appended { places, gone, failed } = segments.append(&numbered(0..500));
        assert!(gone.is_empty() && failed.is_none());
        assert_eq!(segments.read(places[77]).unwrap().unwrap(), numbered(77..78)[0]);
        let (again, all, damages) = open(dir.path(), 1 << 20);
        assert_eq!(all.iter().map(|(_, frame)| frame.clone()).collect::<Vec<_>>(), numbered(0..500));
        assert_eq!(all.iter().map(|(place, _)| *place).collect::<Vec<_>>(), places);
        assert!(damages.is_empty() && again.bytes() == segments.bytes());
    }

    #[test]
    fn the_files_keep_to_their_limit_and_lose_the_oldest() {
        let dir = tempfile::tempdir().unwrap();
        let limit = 64 << 10;
        let (mut segments, ..) = open(dir.path(), limit);
        let mut gone = 0;
        for i in 0..300 {
            gone += segments.append(&numbered(i * 10..i * 10 + 10)).gone.len();
            let on_disk: u64 =
                std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
            assert!(on_disk <= limit && on_disk == segments.bytes(), "{on_disk}");
        }
        assert!(gone > 10);
        let (_, all, _) = open(dir.path(), limit);
        let kept: Vec<_> = all.into_iter().map(|(_, frame)| frame).collect();
        assert_eq!(kept, numbered(3000 - kept.len() as u32..3000));
        assert!(kept.len() > 200);
    }

    #[test]
    fn a_torn_end_is_cut_off_and_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t-00000001");
        let (mut segments, ..) = open(dir.path(), 1 << 20);
        assert!(segments.append(&numbered(0..10)).failed.is_none());
        let bytes = std::fs::read(&path).unwrap();
        for cut in 1..100 {
            std::fs::write(&path, &bytes[..bytes.len() - cut]).unwrap();
            let (mut segments, all, damages) = open(dir.path(), 1 << 20);
            assert_eq!((damages.len(), all.len() < 10), (0, true), "{cut}");
            assert!(segments.append(&numbered(90..91)).failed.is_none());
            let (_, again, _) = open(dir.path(), 1 << 20);
            assert_eq!(
                (again.len(), &again.last().unwrap().1),
                (all.len() + 1, &numbered(90..91)[0]),
                "{cut}"
            );
        }
    }

    #[test]
    fn damage_is_set_aside_and_costs_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (mut segments, ..) = open(dir.path(), 32 << 10);
        for i in 0..20 {
            assert!(segments.append(&numbered(i * 10..i * 10 + 10)).failed.is_none());
        }
        assert!(segments.files.len() > 2);
        let path = dir.path().join("t-00000001");
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let before = open_count(&dir, &bytes);
        let (_, all, damages) = open(dir.path(), 32 << 10);
        assert_eq!(damages.len(), 1);
        assert_eq!(std::fs::read(&damages[0].set_aside).unwrap(), bytes);
        assert_eq!((damages[0].whole + damages[0].lost) as usize, bytes.len());
        assert!(all.len() < 200 && all.len() == before, "{}", all.len());
        // It is told once.
        assert!(open(dir.path(), 32 << 10).2.is_empty());
        // A file that is none of ours.
        std::fs::write(&path, b"what is this").unwrap();
        let (_, all, damages) = open(dir.path(), 32 << 10);
        assert_eq!((damages.len(), damages[0].whole), (1, 0));
        assert!(!all.is_empty() && !path.exists());
    }

    /// Whole frames of the damaged file and of all others.
    fn open_count(dir: &tempfile::TempDir, damaged: &[u8]) -> usize {
        let others = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path());
        let others = others.filter(|path| !path.ends_with("t-00000001"));
        others.map(|path| frames(&std::fs::read(path).unwrap()).len()).sum::<usize>() + frames(damaged).len()
    }

    #[test]
    fn a_disk_that_is_full_loses_the_frames_that_did_not_fit() {
        let dir = tempfile::tempdir().unwrap();
        let (mut segments, ..) = open(dir.path(), 1 << 20);
        assert!(segments.append(&numbered(0..3)).failed.is_none());
        // A device that takes nothing, in the place of the file.
        segments.open = Some(OpenOptions::new().write(true).open("/dev/full").unwrap());
        let appended = segments.append(&numbered(3..4));
        assert!(appended.failed.is_some() && appended.places.is_empty());
        assert!(segments.append(&numbered(4..5)).failed.is_none());
        let (_, all, damages) = open(dir.path(), 1 << 20);
        assert_eq!((all.len(), damages.len()), (4, 0));
    }

    #[test]
    fn what_was_appended_before_a_failure_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let (mut segments, ..) = open(dir.path(), 32 << 10);
        // A folder in the place of the third file.
        std::fs::create_dir(dir.path().join("t-00000003")).unwrap();
        let frames = numbered(0..200);
        let Appended { places, failed, .. } = segments.append(&frames);
        assert!(failed.is_some() && places.len() > 20 && places.len() < 200, "{}", places.len());
        assert_eq!(places.last().unwrap().file, 2);
        for (place, frame) in places.iter().zip(&frames) {
            assert_eq!(segments.read(*place).unwrap().as_ref(), Some(frame));
        }
        // Nor is a file forgotten that cannot be removed.
        std::fs::remove_dir(dir.path().join("t-00000003")).unwrap();
        std::fs::remove_file(dir.path().join("t-00000001")).unwrap();
        std::fs::create_dir(dir.path().join("t-00000001")).unwrap();
        let mut appended = Appended::default();
        for _ in 0..5 {
            appended = segments.append(&frames);
        }
        assert!(appended.failed.is_some() && appended.gone.is_empty());
        assert_eq!(segments.files.front().unwrap().0, 1);
    }

    #[test]
    fn nobody_else_reads_the_files() {
        let all = tempfile::tempdir().unwrap();
        let dir = all.path().join("telemetry");
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        let (mut segments, ..) = open(&dir, 1 << 20);
        segments.append(&numbered(0..3));
        let file = dir.join("t-00000001");
        assert_eq!((mode(&dir), mode(&file)), (0o700, 0o600));
        // As an earlier version made them.
        restrict(&dir, 0o755).unwrap();
        restrict(&file, 0o644).unwrap();
        open(&dir, 1 << 20);
        assert_eq!((mode(&dir), mode(&file)), (0o700, 0o600));
    }
}
