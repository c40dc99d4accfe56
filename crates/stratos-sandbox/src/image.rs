//! EROFS images, mounted once each and shared: two mounts of one image would have two page caches.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustix::mount::{UnmountFlags, unmount};
use stratos_sys::erofs;

use crate::error::MountError;
use crate::filesystem::Filesystem;

#[derive(Debug, Default)]
struct State {
    mounted: HashMap<PathBuf, Weak<Image>>,
    next: u64,
}

/// The mounted images of a node.
#[derive(Debug)]
pub(crate) struct Images {
    filesystem: Arc<Filesystem>,
    state: Mutex<State>,
}

impl Images {
    pub(crate) fn new(filesystem: Arc<Filesystem>) -> Arc<Self> {
        Arc::new(Self { filesystem, state: Mutex::default() })
    }

    pub(crate) fn mount(self: &Arc<Self>, image: &Path) -> Result<Arc<Image>, MountError> {
        let path = fs::canonicalize(image)
            .map_err(|source| MountError::Missing { image: image.to_owned(), source })?;
        // Held over the mount, so that an image asked for twice at once is mounted once.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mounted) = state.mounted.get(&path).and_then(Weak::upgrade) {
            return Ok(mounted);
        }
        let point = self.filesystem.images.join(state.next.to_string());
        state.next += 1;
        let at = |source| MountError::MountPoint { path: point.clone(), source };
        let c_point = CString::new(point.as_os_str().as_bytes()).map_err(|error| at(error.into()))?;
        fs::create_dir(&point).map_err(at)?;
        if let Err(source) = erofs::mount(&path, &point) {
            fs::remove_dir(&point).map_err(at)?;
            return Err(MountError::Mount { image: path, source });
        }
        let image = Arc::new(Image { path: path.clone(), point: c_point, images: Arc::clone(self) });
        state.mounted.insert(path, Arc::downgrade(&image));
        Ok(image)
    }
}

/// A mounted image. Unmounted when the last owner drops it; instances that run from it keep their own view.
#[derive(Debug)]
pub struct Image {
    path: PathBuf,
    point: CString,
    images: Arc<Images>,
}

impl Image {
    /// The image file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory where it is mounted, in the agent's mount namespace.
    pub fn mount_point(&self) -> &Path {
        Path::new(std::ffi::OsStr::from_bytes(self.point.to_bytes()))
    }

    pub(crate) fn c_mount_point(&self) -> &CStr {
        &self.point
    }

    fn unmount(&self) -> io::Result<()> {
        unmount(self.point.as_c_str(), UnmountFlags::DETACH)?;
        fs::remove_dir(self.mount_point())
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let mut state = self.images.state.lock().unwrap_or_else(PoisonError::into_inner);
        // The same image may have been mounted anew since our count fell to zero; that entry is not ours.
        if state.mounted.get(&self.path).is_some_and(|entry| entry.strong_count() == 0) {
            state.mounted.remove(&self.path);
        }
        drop(state);
        if let Err(error) = self.unmount() {
            tracing::warn!(image = %self.path.display(), %error, "cannot unmount an image");
        }
    }
}
