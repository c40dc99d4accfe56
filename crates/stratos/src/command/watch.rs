//! Waiting for a change in a function's folder (inotify).

use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

use crate::failure::{Failure, Result};
use crate::pack;

/// A change is over when nothing has happened for this long: editors and `git checkout` write many files.
const QUIET: Duration = Duration::from_millis(150);

/// Watches every folder that goes into the package. Made before the folder is packed, so that no change falls
/// between.
pub(crate) struct Watch {
    /// An inotify descriptor is read as a pipe is.
    events: Receiver,
}

impl Watch {
    /// Begins to watch `dir` and the folders in it.
    pub(crate) fn start(dir: &Path) -> Result<Self> {
        let failed =
            |e: &dyn std::error::Error| Failure::new(format!("cannot watch {}", dir.display())).because(e);
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(|e| failed(&e))?;
        let flags = WatchFlags::CREATE
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::DELETE
            | WatchFlags::MOVE
            | WatchFlags::ATTRIB
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        for folder in pack::folders(dir)? {
            match inotify::add_watch(&fd, &folder, flags) {
                // A folder that went away since it was listed: its parent's watch reports that.
                Ok(_) | Err(rustix::io::Errno::NOENT) => {}
                Err(rustix::io::Errno::NOSPC) => {
                    let hint = "raise the limit: sysctl fs.inotify.max_user_watches";
                    return Err(
                        Failure::new(format!("too many folders to watch in {}", dir.display())).hint(hint)
                    );
                }
                Err(e) => return Err(failed(&e)),
            }
        }
        Ok(Self { events: Receiver::from_owned_fd_unchecked(fd).map_err(|e| failed(&e))? })
    }

    /// Waits until something has changed and then nothing for a moment.
    pub(crate) async fn changed(&mut self) -> Result<()> {
        self.event().await?;
        while let Ok(event) = tokio::time::timeout(QUIET, self.event()).await {
            event?;
        }
        Ok(())
    }

    async fn event(&mut self) -> Result<()> {
        // What changed does not matter: the package is compared as a whole.
        let mut buffer = [0; 8192];
        self.events.read(&mut buffer).await.map(drop).map_err(failed)
    }
}

fn failed(error: io::Error) -> Failure {
    Failure::new("cannot go on watching the folder").because(&error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn changes_in_any_folder_are_seen() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        for change in ["index.js", "a/b/c.js"] {
            let mut watch = Watch::start(dir.path()).unwrap();
            std::fs::write(dir.path().join(change), "x").unwrap();
            watch.changed().await.unwrap();
        }
        let mut watch = Watch::start(dir.path()).unwrap();
        std::fs::read(dir.path().join("index.js")).unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(50), watch.changed()).await.is_err());
    }
}
