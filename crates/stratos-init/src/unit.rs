//! Units: what a service is, as TOML in `distro/units`. Pure.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use serde::Deserialize;

use crate::error::InitError;

/// Most bytes of a unit.
pub const MAX_BYTES: usize = 16 << 10;
/// Most units.
pub const MAX_UNITS: usize = 32;
/// Longest of a unit's waits.
const LONGEST: u64 = 600;

/// A service.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unit {
    /// Its name, that of its file.
    #[serde(skip)]
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Services start by this number, and stop the other way round.
    pub order: u32,
    /// Program and arguments; no shell reads them.
    pub exec: Vec<String>,
    /// Its environment; nothing else is in it, but what `node_environment` adds.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Adds what the node's configuration says of the API: `STRATOS_LISTEN` and the like.
    #[serde(default)]
    pub node_environment: bool,
    /// Whether the node is ready only when this service is.
    pub essential: bool,
    /// Whether it starts only once the node is ready, and leaves the processors to the others until then.
    #[serde(default)]
    pub after_ready: bool,
    /// When it is started again.
    pub restart: Restart,
    /// How it becomes ready.
    pub ready: Ready,
    /// How it is stopped.
    pub stop: Stop,
    /// Memory that the kernel never takes from it, in MiB.
    pub memory_min_mib: u32,
    /// How gladly the kernel kills it when memory is short: -1000 (never) to 1000.
    pub oom_score_adj: i32,
    /// Most open files.
    pub open_files: u64,
}

/// When a service that ended is started again: always, after a while that doubles each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restart {
    /// The first wait, in ms.
    pub first_ms: u64,
    /// The longest wait, in ms.
    pub most_ms: u64,
    /// After a run of this many seconds the waits begin anew.
    pub reset_after_s: u64,
}

/// How a service becomes ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ready {
    /// It says so itself, by sd_notify; without, it is ready once it runs.
    pub notify: bool,
    /// When it has not said so after this many seconds, it is killed and counts as ended.
    pub within_s: u64,
}

/// How a service is stopped.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// `TERM` or `INT`.
    pub signal: StopSignal,
    /// When it still runs after this many seconds, all of it is killed.
    pub within_s: u64,
}

/// What asks a service to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum StopSignal {
    /// SIGTERM.
    Term,
    /// SIGINT.
    Int,
}

impl StopSignal {
    /// The signal.
    pub const fn signal(self) -> Signal {
        match self {
            Self::Term => Signal::TERM,
            Self::Int => Signal::INT,
        }
    }
}

impl Ready {
    /// How long it may take.
    pub const fn within(&self) -> Duration {
        Duration::from_secs(self.within_s)
    }
}

impl Stop {
    /// How long it may take.
    pub const fn within(&self) -> Duration {
        Duration::from_secs(self.within_s)
    }
}

impl Unit {
    /// Reads the unit `NAME.toml`.
    ///
    /// # Errors
    /// When the name is none, the text is no unit, or a value makes no sense.
    pub fn parse(path: &Path, text: &str) -> Result<Self, InitError> {
        let shown = path.display().to_string();
        let wrong = |problem: &str| Err(InitError::invalid(shown.as_str(), problem));
        let name =
            path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".toml"));
        let legal = |name: &&str| {
            let inner = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
            (1..=32).contains(&name.len()) && inner && name.as_bytes().first() != Some(&b'-')
        };
        let Some(name) = name.filter(legal) else {
            return wrong("its name has to be 1 to 32 of a-z, 0-9 and `-`, with .toml");
        };
        if text.len() > MAX_BYTES {
            return wrong("it is too large");
        }
        let mut unit: Self = toml::from_str(text)
            .map_err(|source| InitError::Toml { path: path.to_owned(), source: Box::new(source) })?;
        name.clone_into(&mut unit.name);
        match unit.problem() {
            Some(problem) => wrong(problem),
            None => Ok(unit),
        }
    }

    fn problem(&self) -> Option<&'static str> {
        let seconds = 1..=LONGEST;
        let zero = |text: &String| text.contains('\0');
        if self.description.is_empty() {
            return Some("description has to say what it is for");
        }
        if !self.exec.first().is_some_and(|program| program.starts_with('/')) {
            return Some("exec has to begin with a program's whole path");
        }
        if self.exec.iter().chain(self.environment.values()).any(zero)
            || self.environment.keys().any(|key| zero(key) || key.is_empty() || key.contains('='))
        {
            return Some("exec and environment are texts without zeros, and names without `=`");
        }
        if !(1..=self.restart.most_ms).contains(&self.restart.first_ms)
            || self.restart.most_ms > LONGEST * 1000
        {
            return Some(
                "restart.first_ms has to be 1 or more, and restart.most_ms at least that and at most 600000",
            );
        }
        if !seconds.contains(&self.restart.reset_after_s)
            || !seconds.contains(&self.ready.within_s)
            || !seconds.contains(&self.stop.within_s)
        {
            return Some("reset_after_s and within_s have to be 1 to 600");
        }
        if !(-1000..=1000).contains(&self.oom_score_adj) {
            return Some("oom_score_adj has to be -1000 to 1000");
        }
        if !(16..=1 << 20).contains(&self.open_files) || self.memory_min_mib > 1024 {
            return Some("open_files has to be 16 to 1048576, memory_min_mib at most 1024");
        }
        None
    }
}

/// Reads every unit of a folder, in the order in which they start.
///
/// # Errors
/// When the folder or a unit in it cannot be read; the units that can be read are given beside.
pub fn load(folder: &Path) -> (Vec<Unit>, Vec<InitError>) {
    let names = match crate::files::names(folder, MAX_UNITS) {
        Ok(names) => names,
        Err(error) => return (Vec::new(), vec![error]),
    };
    let mut units = Vec::new();
    let mut errors = Vec::new();
    for name in names {
        let path = folder.join(name);
        match crate::files::read_text(&path, MAX_BYTES).and_then(|text| Unit::parse(&path, &text)) {
            Ok(unit) => units.push(unit),
            Err(error) => errors.push(error),
        }
    }
    units.sort_by(|a, b| (a.order, &a.name).cmp(&(b.order, &b.name)));
    (units, errors)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: &str = r#"
        description = "sleeps"
        order = 10
        exec = ["/bin/sleep", "1"]
        essential = true
        restart = { first_ms = 100, most_ms = 30000, reset_after_s = 60 }
        ready = { notify = false, within_s = 10 }
        stop = { signal = "TERM", within_s = 5 }
        memory_min_mib = 8
        oom_score_adj = -500
        open_files = 1024
    "#;

    #[test]
    fn every_unit_of_the_distribution_is_read() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../distro/units");
        let (units, errors) = load(&folder);
        assert!(errors.is_empty(), "{errors:?}");
        let names: Vec<_> = units.iter().map(|unit| unit.name.as_str()).collect();
        assert_eq!(names, ["network", "stratosd", "time"]);
    }

    #[test]
    fn a_unit_has_the_name_of_its_file() {
        let unit = Unit::parse(Path::new("/units/sleep-1.toml"), UNIT).unwrap();
        assert_eq!(unit.name, "sleep-1");
        assert_eq!(unit.stop.signal.signal(), Signal::TERM);
        for name in ["/units/Sleep.toml", "/units/.toml", "/units/a.tom", "/units/-a.toml", "/"] {
            assert!(Unit::parse(Path::new(name), UNIT).is_err(), "{name}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (from, to, expected) in [
            ("order = 10", "order = 10\nordre = 1", "unknown field `ordre`"),
            ("\"/bin/sleep\"", "\"sleep\"", "exec has to begin with"),
            ("first_ms = 100", "first_ms = 0", "restart.first_ms has to be"),
            ("within_s = 10", "within_s = 0", "within_s have to be"),
            ("-500", "-1001", "oom_score_adj has to be"),
            ("TERM", "KILL", "unknown variant `KILL`"),
            ("\"1\"", "\"\\u0000\"", "without zeros"),
            ("open_files = 1024", "open_files = 1", "open_files has to be"),
            ("\"sleeps\"", "\"\"", "description has to"),
        ] {
            let error = Unit::parse(Path::new("a.toml"), &UNIT.replace(from, to)).unwrap_err().chain();
            assert!(error.contains(expected), "{error}\nexpected {expected}");
        }
    }
}
