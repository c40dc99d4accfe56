//! What first starts touched: for each image the ranges of its files, as they are kept in the state.

use std::path::{Component, Path};

use serde::{Deserialize, Serialize};
use stratos_types::Digest;

/// Most bytes of the file.
pub const MAX_BYTES: usize = 4 << 20;
/// Most images that are remembered: layers, and the functions deployed last.
pub const MAX_IMAGES: usize = 32;
/// Most files of one image.
pub const MAX_FILES: usize = 2048;
/// Most ranges of one file.
pub const MAX_RANGES: usize = 256;
/// Most bytes that are read of one image.
pub const MAX_IMAGE_BYTES: u64 = 256 << 20;

/// Everything that is remembered, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recording {
    /// Version of this format: 1.
    version: u32,
    /// The images.
    pub images: Vec<WarmImage>,
}

/// One image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WarmImage {
    /// Its digest: what was learned of one image says nothing of another.
    pub digest: Digest,
    /// Whose it is.
    pub of: Owner,
    /// Its files, as far as they were touched.
    pub files: Vec<WarmFile>,
}

/// Whose image it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// A runtime layer's, by its name.
    Layer(String),
    /// A function's, by its name.
    Function(String),
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WarmFile {
    /// Its path in the image, without a leading slash.
    pub path: String,
    /// Where each range begins and ends, in bytes; in order, none touching another.
    pub ranges: Vec<(u64, u64)>,
}

impl Default for Recording {
    fn default() -> Self {
        Self { version: 1, images: Vec::new() }
    }
}

impl Recording {
    /// Reads what was written; `None` for what no agent of this version writes.
    pub fn parse(text: &[u8]) -> Option<Self> {
        if text.len() > MAX_BYTES {
            return None;
        }
        let recording: Self = serde_json::from_slice(text).ok()?;
        let sound = recording.version == 1
            && recording.images.len() <= MAX_IMAGES
            && recording.images.iter().all(WarmImage::is_sound);
        sound.then_some(recording)
    }

    /// The image of that digest.
    pub fn image(&self, digest: &Digest) -> Option<&WarmImage> {
        self.images.iter().find(|image| image.digest == *digest)
    }

    /// Takes in what was learned of an image; what was known of its owner's earlier one goes, and the oldest beyond the
    /// limit.
    pub fn add(&mut self, image: WarmImage) {
        self.images.retain(|known| known.of != image.of && known.digest != image.digest);
        self.images.insert(0, image);
        self.images.truncate(MAX_IMAGES);
    }
}

impl WarmImage {
    fn is_sound(&self) -> bool {
        self.files.len() <= MAX_FILES
            && self.bytes() <= MAX_IMAGE_BYTES
            && self.files.iter().all(WarmFile::is_sound)
    }

    /// Bytes of all ranges.
    pub fn bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum, file| sum.saturating_add(file.bytes()))
    }
}

impl WarmFile {
    fn is_sound(&self) -> bool {
        let inside = Path::new(&self.path).components().all(|part| matches!(part, Component::Normal(_)));
        let ordered = self.ranges.iter().all(|(from, to)| from < to)
            && self.ranges.windows(2).all(|pair| pair[0].1 < pair[1].0);
        !self.path.is_empty()
            && inside
            && !self.path.contains('\0')
            && self.ranges.len() <= MAX_RANGES
            && ordered
    }

    /// Bytes of its ranges.
    pub fn bytes(&self) -> u64 {
        self.ranges.iter().fold(0, |sum, (from, to)| sum.saturating_add(to.saturating_sub(*from)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(name: &str, ranges: Vec<(u64, u64)>) -> WarmImage {
        let files = vec![WarmFile { path: "usr/bin/node".into(), ranges }];
        WarmImage { digest: Digest::of(name.as_bytes()), of: Owner::Layer(name.into()), files }
    }

    #[test]
    fn what_is_written_is_read() {
        let mut recording = Recording::default();
        recording.add(image("a", vec![(0, 4096), (8192, 12_288)]));
        let text = serde_json::to_vec(&recording).unwrap();
        assert_eq!(Recording::parse(&text), Some(recording.clone()));
        assert_eq!(recording.image(&Digest::of(b"a")).unwrap().bytes(), 8192);
        for i in 0..MAX_IMAGES + 5 {
            recording.add(image(&i.to_string(), Vec::new()));
        }
        assert_eq!(recording.images.len(), MAX_IMAGES);
        assert!(recording.image(&Digest::of(b"a")).is_none());
        // A layer's next version takes the place of the last.
        let next = WarmImage { digest: Digest::of(b"next"), ..image("36", Vec::new()) };
        recording.add(next);
        assert!(recording.image(&Digest::of(b"36")).is_none());
    }

    #[test]
    fn what_leads_elsewhere_is_refused() {
        let parse = |change: &dyn Fn(&mut Recording)| {
            let mut recording = Recording::default();
            recording.add(image("a", vec![(0, 4096)]));
            change(&mut recording);
            Recording::parse(&serde_json::to_vec(&recording).unwrap()).is_some()
        };
        assert!(parse(&|_| {}));
        let path = |path: &'static str| move |r: &mut Recording| r.images[0].files[0].path = path.into();
        for wrong in ["", "/etc/passwd", "../x", "a/../../x"] {
            assert!(!parse(&path(wrong)), "{wrong}");
        }
        for wrong in [vec![(4096, 0)], vec![(0, 4096), (4096, 8192)], vec![(0, 1 << 40)]] {
            assert!(!parse(&|r| r.images[0].files[0].ranges = wrong.clone()), "{wrong:?}");
        }
        assert!(!parse(&|r| r.version = 2));
        assert_eq!(Recording::parse(b"{"), None);
    }
}
