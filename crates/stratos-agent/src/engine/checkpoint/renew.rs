//! Checkpoints that have served for long are made anew: what all instances of one share, such as the layout of their memory,
//! is not to be learned from one and used against another for ever.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use stratos_checkpoint::image::Image;

use super::images::OnDisk;
use super::{OfVersion, RETRY, State};
use crate::engine::deployed::Deployed;
use crate::engine::invoke::platform_line;
use crate::engine::parked::NotMade;
use crate::engine::{Engine, lock};

impl Engine {
    /// Makes the checkpoint of a version anew in the background, when it is old enough. Until that is done, instances are
    /// restored from the one that there is.
    pub(super) fn renew_if_old(&self, deployed: &Arc<Deployed>, of: &Arc<OfVersion>, image: &Image) {
        if age(image) < self.0.config.checkpoint_age {
            return;
        }
        let mut renewed_at = lock(&of.renewed_at);
        if renewed_at.is_none_or(|at| at.elapsed() >= RETRY) {
            *renewed_at = Some(Instant::now());
            tokio::spawn(self.clone().renew(Arc::clone(deployed), Arc::clone(of)));
        }
    }

    async fn renew(self, deployed: Arc<Deployed>, of: Arc<OfVersion>) {
        let (own, log) = (OnDisk::own(&deployed), self.log(&deployed.key));
        let path = self.0.checkpoints.path(&own);
        match self.make(&deployed, &path, Arc::clone(&log)).await {
            Ok(image) => {
                let image = Arc::new(image);
                let new = OfVersion::new(deployed.version, State::Ready(Arc::clone(&image))).in_place_of(&of);
                let new = Arc::new(new);
                {
                    let mut versions = lock(&self.0.checkpoints.versions);
                    match versions.get_mut(&deployed.key) {
                        Some(now) if Arc::ptr_eq(now, &of) => *now = Arc::clone(&new),
                        // This one was given up, or another version is current by now.
                        Some(now) if now.version == deployed.version => return,
                        _ => return self.0.checkpoints.remove_images(|image| *image == own),
                    }
                }
                // One that came with an artifact has had its time, too.
                self.0.checkpoints.remove_images(|image| {
                    (&image.key, image.version) == (&own.key, own.version) && *image != own
                });
                // What was ready to be cloned is so again before anybody asks.
                let was_warm = {
                    let (held, template) = (std::mem::take(&mut *lock(&of.held)), lock(&of.template).take());
                    held.len() > 0 || template.is_some()
                };
                if was_warm {
                    drop(self.template_of(&deployed, &new, Arc::clone(&image)).await);
                }
                if deployed.spec.held > 0 {
                    self.refill(deployed, new, image).await;
                }
            }
            Err(NotMade { reason, .. }) => {
                let message = format!("CHECKPOINT kept, although it is old: another was not made: {reason}");
                platform_line(&log, "-", None, message);
            }
        }
    }
}

/// How long ago an image was made. A clock that was set back says: just now.
fn age(image: &Image) -> Duration {
    let made = image.file().metadata().and_then(|metadata| metadata.modified());
    let age = made.map(|made| SystemTime::now().duration_since(made).unwrap_or_default());
    age.unwrap_or_else(|error| {
        tracing::debug!(%error, "the age of a checkpoint cannot be told");
        Duration::ZERO
    })
}
