//! From the lock to files in the cache: what a layer's lock entries are, whether their archives still have them, and
//! what happens when not.
//!
//! - A locked file that is in the cache is used; no archive is asked.
//! - A version that the archive offers with another digest is an error, always.
//! - A version that the archive no longer has is replaced by the one it has now, with a notice, and what was used is
//!   written to `layers/NAME.lock.toml` in the cache; the repository's lock does not change. All Debian packages of
//!   that layer are then taken as the archive has them, so that packages which belong together stay together.
//!   With `locked` it is an error.

use std::path::PathBuf;

use crate::apt::Offers;
use crate::build::Builder;
use crate::buildtree::BuildTreeSpec;
use crate::error::{BuildError, RELOCK_COMMAND, at};
use crate::lock::{InUse, LOCK_FILE, Lock, LockedDeb, LockedWheel, Sources, replace_file};
use crate::os::profile;
use crate::progress::Step;
use crate::spec::LayerSpec;
use crate::{arch, build, pip};

/// The layer whose Python and pip fetch wheels.
const PIP_LAYER: &str = "python3.13";

/// One changed entry of the lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockChange {
    /// The package or wheel.
    pub name: String,
    /// The version that was locked; None for a new entry.
    pub from: Option<String>,
    /// The version that is locked now; None for an entry that is gone.
    pub to: Option<String>,
}

/// Locks the newest version of every package of every layer, image and build tree and of Debian's kernel, and gives what
/// changed.
///
/// # Errors
/// A wrong description, an archive that cannot be used, a lock that cannot be written.
pub fn relock(options: &build::BuildOptions<'_>) -> Result<Vec<LockChange>, BuildError> {
    let mut builder = Builder::open(options)?;
    let mut specs = LayerSpec::load_all(&options.repo_root)?;
    specs.extend(profile::packages(&options.repo_root)?);
    let old = builder.lock.clone();
    options.progress.step("all layers", Step::Resolve);
    let mut names: std::collections::BTreeSet<&str> = specs.iter().flat_map(LayerSpec::deb_names).collect();
    let kernel = builder.newest_kernel()?;
    names.insert(&kernel);
    let mut trees = Vec::new();
    for tree in BuildTreeSpec::load_all(&options.repo_root)? {
        trees.push(builder.resolve_tree(&tree)?);
    }
    names.extend(trees.iter().flat_map(|tree| &tree.packages).map(String::as_str));
    let offers = builder.apt()?.offers(names.iter().copied())?;
    let mut sources = Sources::default();
    for name in names {
        sources.deb.push(offers.best(name)?.clone());
    }
    // pip comes from a layer too, so that layer's packages have to be locked before it can be asked.
    builder.lock.replace(Sources { deb: sources.deb.clone(), wheel: old.wheel.clone() }, arch::debian());
    for wheel in specs.iter().flat_map(|spec| &spec.wheel) {
        if sources.wheel(&wheel.name).is_none() {
            sources.wheel.push(builder.pip("all layers", &wheel.name, &wheel.version, 0)?);
        }
    }
    builder.lock = old.clone();
    builder.lock.replace(sources, arch::debian());
    builder.lock.replace_trees(trees.clone(), arch::debian());
    builder.lock.save(&options.repo_root)?;
    options.progress.step("all layers", Step::Done);
    Ok(changes(&old, &builder.lock))
}

/// What differs between two locks.
fn changes(old: &Lock, new: &Lock) -> Vec<LockChange> {
    let entries = |lock: &Lock| {
        let debs = lock
            .deb
            .iter()
            .map(|deb| ((deb.name.clone(), deb.arch.clone()), (deb.version.clone(), deb.sha256)));
        let wheels =
            lock.wheel.iter().map(|w| ((w.name.clone(), w.arch.clone()), (w.version.clone(), w.sha256)));
        debs.chain(wheels).collect::<std::collections::BTreeMap<_, _>>()
    };
    let (old, new) = (entries(old), entries(new));
    let keys: std::collections::BTreeSet<_> = old.keys().chain(new.keys()).collect();
    let changed = keys.into_iter().filter(|key| old.get(*key) != new.get(*key));
    let version = |entry: Option<&(String, _)>| entry.map(|(version, _)| version.clone());
    changed
        .map(|key| LockChange { name: key.0.clone(), from: version(old.get(key)), to: version(new.get(key)) })
        .collect()
}

/// What is recorded of a layer's sources, and which are recorded nowhere.
pub(crate) struct Recorded {
    pub(crate) sources: Sources,
    pub(crate) missing: Vec<String>,
    /// Whether these are not the lock's, but what an earlier build had to use instead.
    pub(crate) replaced: bool,
}

impl Builder<'_> {
    /// A layer's sources as locked, or as an earlier build had to replace them.
    pub(crate) fn recorded(&self, spec: &LayerSpec) -> Result<Recorded, BuildError> {
        let (sources, missing) = self.lock.sources(spec, arch::debian());
        if !self.options.locked
            && let Some(in_use) = self.in_use(spec)?
            && in_use.replaces == sources.digest()
        {
            let replaced = Lock { deb: in_use.deb, wheel: in_use.wheel, ..Lock::default() };
            let (replaced, missing) = replaced.sources(spec, arch::debian());
            if missing.is_empty() {
                return Ok(Recorded { sources: replaced, missing, replaced: true });
            }
        }
        Ok(Recorded { sources, missing, replaced: false })
    }

    /// Says that a layer is not what the lock describes.
    pub(crate) fn notice_in_use(&self, spec: &LayerSpec) {
        self.options.progress.notice(&format!(
            "layer {} is not built from {LOCK_FILE}: what is used is in {}; `{RELOCK_COMMAND}` locks it",
            spec.name,
            self.in_use_file(spec).display()
        ));
    }

    fn in_use_file(&self, spec: &LayerSpec) -> PathBuf {
        self.cache.layers().join(format!("{}.lock.toml", spec.name))
    }

    fn in_use(&self, spec: &LayerSpec) -> Result<Option<InUse>, BuildError> {
        let file = self.in_use_file(spec);
        match std::fs::read_to_string(&file) {
            // One that is not understood was written by another version of StratOS, and is of no use.
            Ok(text) => Ok(toml::from_str(&text).ok()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(at("read", &file)(error).into()),
        }
    }

    /// Gets all files of a layer into the cache, and gives what they are.
    pub(crate) fn fetch(&mut self, spec: &LayerSpec, recorded: Recorded) -> Result<Sources, BuildError> {
        let Recorded { mut sources, missing, .. } = recorded;
        if self.options.locked
            && let Some(package) = missing.into_iter().next()
        {
            let lock = self.options.repo_root.join(LOCK_FILE);
            return Err(BuildError::NotLocked { layer: spec.name.clone(), package, lock });
        }
        let before = sources.clone();
        self.fetch_debs(spec, &mut sources)?;
        self.fetch_wheels(spec, &mut sources)?;
        if sources != before {
            let replaces = self.lock.sources(spec, arch::debian()).0.digest();
            let in_use = InUse { replaces, deb: sources.deb.clone(), wheel: sources.wheel.clone() };
            let file = self.in_use_file(spec);
            let text = toml::to_string(&in_use).expect("a lock is plain tables of strings and numbers");
            replace_file(&file, text.as_bytes())?;
            self.notice_in_use(spec);
        }
        Ok(sources)
    }

    fn fetch_debs(&mut self, spec: &LayerSpec, sources: &mut Sources) -> Result<(), BuildError> {
        let names = spec.deb_names();
        let absent = self.absent(&sources.deb)?;
        if absent.is_empty() && names.iter().all(|name| sources.deb(name).is_some()) {
            return Ok(());
        }
        self.options.progress.step(&spec.name, Step::Resolve);
        let offers = self.apt()?.offers(names.iter().copied())?;
        let mut replace = names.iter().any(|name| sources.deb(name).is_none());
        for deb in &absent {
            match check_offer(deb, &offers)? {
                Offered::Same => {}
                Offered::Gone if self.options.locked => {
                    return Err(self.vanished(spec, &deb.name, &deb.version));
                }
                Offered::Gone => replace = true,
            }
        }
        if replace {
            let mut new = Vec::new();
            for name in names {
                let best = offers.best(name)?;
                self.notice_replaced(spec, sources.deb(name).map(|deb| &deb.version), name, &best.version);
                new.push(best.clone());
            }
            sources.deb = new;
        }
        let absent = self.absent(&sources.deb)?;
        if absent.is_empty() {
            return Ok(());
        }
        self.options.progress.step(&spec.name, Step::Download);
        let wanted: Vec<&LockedDeb> = absent.iter().collect();
        let options = self.options;
        self.apt()?;
        let apt = self.apt.as_ref().expect("it was opened above");
        let arrived = apt.download(&self.cache, &wanted, &spec.name, options.progress)?;
        for deb in &absent {
            // apt has compared them with the signed index, and the index was compared with the lock; still, what is
            // unpacked has to be what is locked, not what two comparisons imply.
            if let Some(found) = (!arrived.contains(&deb.sha256)).then(|| arrived.first().copied()).flatten()
            {
                return Err(changed(&deb.name, &deb.version, deb.sha256, found));
            }
        }
        Ok(())
    }

    fn fetch_wheels(&mut self, spec: &LayerSpec, sources: &mut Sources) -> Result<(), BuildError> {
        let mut new = Vec::new();
        for wheel in &spec.wheel {
            let locked = sources.wheel(&wheel.name).cloned();
            if let Some(locked) = &locked
                && self.cache.has(&locked.sha256)?
            {
                new.push(locked.clone());
                continue;
            }
            self.options.progress.step(&spec.name, Step::Download);
            let exact = locked.as_ref().map(|locked| (format!("=={}", locked.version), locked));
            let fetched = match exact {
                None => self.pip(&spec.name, &wheel.name, &wheel.version, 0)?,
                Some((version, locked)) => match self.pip(&spec.name, &wheel.name, &version, locked.size) {
                    Ok(fetched) if fetched.sha256 != locked.sha256 => {
                        return Err(changed(&wheel.name, &locked.version, locked.sha256, fetched.sha256));
                    }
                    Ok(fetched) => fetched,
                    Err(BuildError::Pip(error)) if error.is_vanished() => {
                        if self.options.locked {
                            return Err(self.vanished(spec, &wheel.name, &locked.version));
                        }
                        self.pip(&spec.name, &wheel.name, &wheel.version, 0)?
                    }
                    Err(error) => return Err(error),
                },
            };
            self.notice_replaced(spec, locked.as_ref().map(|l| &l.version), &wheel.name, &fetched.version);
            new.push(fetched);
        }
        sources.wheel = new;
        Ok(())
    }

    fn absent(&self, debs: &[LockedDeb]) -> Result<Vec<LockedDeb>, BuildError> {
        let mut absent = Vec::new();
        for deb in debs {
            if !self.cache.has(&deb.sha256)? {
                absent.push(deb.clone());
            }
        }
        Ok(absent)
    }

    /// Downloads a wheel; `size` is its expected size in bytes, or 0.
    fn pip(&mut self, layer: &str, name: &str, version: &str, size: u64) -> Result<LockedWheel, BuildError> {
        let tree = self.tool_tree(PIP_LAYER)?;
        self.options.progress.step(layer, Step::Download);
        Ok(pip::download(&self.cache, &tree, name, version, size, layer, self.options.progress)?)
    }

    fn vanished(&self, spec: &LayerSpec, package: &str, version: &str) -> BuildError {
        BuildError::Vanished {
            layer: spec.name.clone(),
            package: package.to_owned(),
            version: version.to_owned(),
            lock: self.options.repo_root.join(LOCK_FILE),
        }
    }

    fn notice_replaced(&self, spec: &LayerSpec, old: Option<&String>, name: &str, new: &str) {
        let what = match old {
            Some(old) if old == new => return,
            Some(old) => {
                format!("{name} {old} is locked, but its archive no longer has it or a package it belongs to")
            }
            None => format!("{name} is not locked"),
        };
        self.options.progress.notice(&format!("layer {}: {what}; using {new}", spec.name));
    }
}

/// What an archive says of a locked package.
#[derive(Debug, PartialEq, Eq)]
enum Offered {
    /// It has that version, with the locked digest.
    Same,
    /// It does not have that version.
    Gone,
}

fn check_offer(deb: &LockedDeb, offers: &Offers) -> Result<Offered, BuildError> {
    match offers.version(&deb.name, &deb.version) {
        None => Ok(Offered::Gone),
        Some(offer) if offer.sha256 == deb.sha256 => Ok(Offered::Same),
        Some(offer) => Err(changed(&deb.name, &deb.version, deb.sha256, offer.sha256)),
    }
}

fn changed(
    package: &str,
    version: &str,
    locked: stratos_types::Digest,
    found: stratos_types::Digest,
) -> BuildError {
    BuildError::DigestChanged { package: package.to_owned(), version: version.to_owned(), locked, found }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stratos_types::Digest;

    fn deb(version: &str, content: &str) -> LockedDeb {
        LockedDeb {
            name: "a".to_owned(),
            version: version.to_owned(),
            arch: "amd64".to_owned(),
            sha256: Digest::of(content.as_bytes()),
            size: 1,
        }
    }

    #[test]
    fn changes_between_locks_are_listed_by_name() {
        let lock = |debs: &[LockedDeb]| Lock { deb: debs.to_vec(), ..Lock::default() };
        let change = |from: Option<&str>, to: Option<&str>| LockChange {
            name: "a".to_owned(),
            from: from.map(str::to_owned),
            to: to.map(str::to_owned),
        };
        let (one, two) = (lock(&[deb("1", "x")]), lock(&[deb("2", "y")]));
        assert_eq!(changes(&one, &one), []);
        assert_eq!(changes(&one, &two), [change(Some("1"), Some("2"))]);
        assert_eq!(changes(&lock(&[]), &one), [change(None, Some("1"))]);
        assert_eq!(changes(&one, &lock(&[])), [change(Some("1"), None)]);
        let other_content = lock(&[deb("1", "z")]);
        assert_eq!(changes(&one, &other_content), [change(Some("1"), Some("1"))]);
    }
}
