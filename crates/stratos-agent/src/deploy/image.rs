//! A function's folder as a read-only image: the same folder always gives the same bytes.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use stratos_api::DeployEvent;
use stratos_sandbox::Image;

use super::build::{Bind, Builder, Job};
use super::error::DeployError;
use super::folder::Folder;

/// The time of every file: 1980-01-01, for zip archives know no earlier one and functions make zip archives.
const TIME: &str = "-T315532800";
/// The image is known by its digest; a UUID drawn anew would change that.
const UUID: &str = "-U00000000-0000-4000-8000-000000000000";

/// Makes the image in the builder's own folder; gives its path.
pub(super) fn make(
    builder: &Builder<'_>,
    tools: &Arc<Image>,
    folder: &Folder,
    progress: &mut dyn FnMut(DeployEvent),
) -> Result<PathBuf, DeployError> {
    progress(DeployEvent::Step { step: "making the image".into() });
    let out = builder.scratch.join("image");
    fs::create_dir(&out).map_err(|e| DeployError::io("create", &out, e))?;
    let words =
        ["/usr/bin/mkfs.erofs", "--quiet", TIME, UUID, "--all-root", "-x-1", "/mnt/out/image", "/mnt/in"];
    let job = Job {
        what: "mkfs.erofs",
        layer: tools,
        binds: vec![
            Bind { source: folder.path().to_owned(), target: "/mnt/in".into(), writable: false },
            Bind { source: out.clone(), target: "/mnt/out".into(), writable: true },
        ],
        argv: words.map(str::to_owned).into(),
        cwd: "/",
        env: Vec::new(),
        network: false,
    };
    // Its few lines mean nothing to who deploys, unless it fails.
    let ended = builder.run(job, &mut |_| {})?;
    match ended.ok {
        true => Ok(out.join("image")),
        false => Err(DeployError::Image { output: ended.tail(None).join("; ") }),
    }
}
