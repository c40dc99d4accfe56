//! The own kernel's configuration: fragments in `distro/kernel/`, in which every option has its value and its reason.
//!
//! All that no fragment names is off, as far as kconfig allows. kconfig drops an option whose dependencies are not met
//! without a word, so the expanded configuration is compared with what was asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{FileError, at};

/// Where the fragments are, relative to the repository.
const FOLDER: &str = "distro/kernel";

/// Why the own kernel's configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A fragment is not valid.
    #[error("{} is not a valid kernel fragment", file.display())]
    Parse {
        /// The fragment.
        file: PathBuf,
        /// Which key is wrong, and where.
        source: Box<toml::de::Error>,
    },
    /// A fragment holds something that makes no sense.
    #[error("{}: {option}: {problem}", file.display())]
    Option {
        /// The fragment.
        file: PathBuf,
        /// The option or key.
        option: String,
        /// What is wrong with it.
        problem: String,
    },
    /// kconfig did not take what was asked for.
    #[error("the kernel's source does not give what distro/kernel asks for: {}", .0.join(", "))]
    NotTaken(Vec<String>),
    /// The source has no option of that name, so that it is neither on nor off.
    #[error("the kernel's source has no option {}, which distro/kernel names", .0.join(", "))]
    Unknown(Vec<String>),
    /// There is no configuration for this architecture.
    #[error("StratOS's own kernel is configured for amd64 only, not for {arch}")]
    Arch {
        /// Debian's name of the architecture.
        arch: &'static str,
    },
    /// A file could not be read.
    #[error(transparent)]
    File(#[from] FileError),
}

/// One file of options.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fragment {
    /// Its name; also the file's name without `.toml`.
    pub name: String,
    /// What its options are for.
    pub reason: String,
    /// The architecture that it is for, if not for all.
    pub arch: Option<String>,
    /// The options, without `CONFIG_`.
    pub options: BTreeMap<String, Setting>,
}

/// The value of an option, and why it has that.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// `y`, `n` or a number.
    value: Option<Value>,
    /// The value of an option that is a text.
    text: Option<String>,
    /// Why.
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
enum Value {
    Number(u64),
    Word(Word),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Y,
    N,
}

impl Setting {
    /// The value as a `.config` has it after the equals sign.
    pub fn value(&self) -> String {
        match (&self.value, &self.text) {
            (Some(Value::Number(number)), _) => number.to_string(),
            (Some(Value::Word(Word::Y)), _) => "y".to_owned(),
            (Some(Value::Word(Word::N)), _) => "n".to_owned(),
            (None, text) => format!("\"{}\"", text.as_deref().unwrap_or_default()),
        }
    }
}

/// What the fragments ask for together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelConfig {
    /// Values by option, as a `.config` has them.
    options: BTreeMap<String, String>,
}

impl Fragment {
    /// Parses a fragment found in `file`.
    ///
    /// # Errors
    /// Unknown or missing keys, and values that make no sense.
    pub fn parse(text: &str, file: &Path) -> Result<Self, KernelError> {
        let fragment: Self = toml::from_str(text)
            .map_err(|source| KernelError::Parse { file: file.to_owned(), source: Box::new(source) })?;
        let wrong = |option: &str, problem: &str| {
            let (option, problem) = (option.to_owned(), problem.to_owned());
            Err(KernelError::Option { file: file.to_owned(), option, problem })
        };
        if file.file_stem().is_none_or(|stem| stem != fragment.name.as_str()) {
            return wrong("name", "has to be the file's name without .toml");
        }
        for (option, setting) in &fragment.options {
            if !option.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_') {
                return wrong(option, "is not the name of an option, written without CONFIG_");
            }
            if setting.value.is_some() == setting.text.is_some() {
                return wrong(option, "needs either `value` or `text`");
            }
            if setting.text.as_ref().is_some_and(|text| text.contains(['"', '\\', '\n'])) {
                return wrong(option, "its `text` has a character that needs quoting");
            }
            if setting.reason.trim().is_empty() {
                return wrong(option, "its `reason` is empty");
            }
        }
        Ok(fragment)
    }
}

impl KernelConfig {
    /// Reads all fragments that are for an architecture.
    ///
    /// # Errors
    /// A fragment that cannot be read or is wrong, an option that two of them name.
    pub fn load(repo_root: &Path, arch: &str) -> Result<Self, KernelError> {
        let folder = repo_root.join(FOLDER);
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&folder).map_err(at("list", &folder))? {
            files.push(entry.map_err(at("list", &folder))?.path());
        }
        files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
        files.sort();
        let mut config = Self::default();
        for file in files {
            let text = std::fs::read_to_string(&file).map_err(at("read", &file))?;
            let fragment = Fragment::parse(&text, &file)?;
            if fragment.arch.as_ref().is_none_or(|of| of == arch) {
                config.add(&fragment, &file)?;
            }
        }
        Ok(config)
    }

    fn add(&mut self, fragment: &Fragment, file: &Path) -> Result<(), KernelError> {
        for (option, setting) in &fragment.options {
            if self.options.insert(option.clone(), setting.value()).is_some() {
                let problem = "another fragment names it too".to_owned();
                return Err(KernelError::Option { file: file.to_owned(), option: option.clone(), problem });
            }
        }
        Ok(())
    }

    /// The text that `KCONFIG_ALLCONFIG` names.
    pub(crate) fn text(&self) -> String {
        self.options.iter().fold(String::new(), |mut text, (option, value)| {
            match value.as_str() {
                "n" => writeln!(text, "# CONFIG_{option} is not set"),
                value => writeln!(text, "CONFIG_{option}={value}"),
            }
            .expect("a String takes every write");
            text
        })
    }

    /// Checks that the kernel's source knows every option: one that is to be off would otherwise pass unseen when its
    /// name is wrong.
    ///
    /// # Errors
    /// Every option that it does not know.
    pub(crate) fn check_known(&self, source: &Path) -> Result<(), KernelError> {
        let mut unknown: BTreeSet<&str> = self.options.keys().map(String::as_str).collect();
        let mut open = vec![source.to_owned()];
        while let Some(folder) = open.pop() {
            for entry in std::fs::read_dir(&folder).map_err(at("list", &folder))? {
                let entry = entry.map_err(at("list", &folder))?;
                if entry.file_type().map_err(at("inspect", &entry.path()))?.is_dir() {
                    open.push(entry.path());
                } else if entry.file_name().to_string_lossy().starts_with("Kconfig") {
                    let text = std::fs::read(entry.path()).map_err(at("read", &entry.path()))?;
                    for line in String::from_utf8_lossy(&text).lines() {
                        let mut words = line.split_whitespace();
                        if matches!(words.next(), Some("config" | "menuconfig")) {
                            unknown.remove(words.next().unwrap_or_default());
                        }
                    }
                }
            }
        }
        let unknown: Vec<String> = unknown.into_iter().map(str::to_owned).collect();
        if unknown.is_empty() { Ok(()) } else { Err(KernelError::Unknown(unknown)) }
    }

    /// Compares with an expanded `.config`.
    ///
    /// # Errors
    /// Every option whose value is another one, with both.
    pub(crate) fn check(&self, expanded: &str) -> Result<(), KernelError> {
        let lines = expanded.lines().filter_map(|line| line.strip_prefix("CONFIG_")?.split_once('='));
        let found: BTreeMap<&str, &str> = lines.collect();
        let differs = self.options.iter().filter_map(|(option, value)| {
            let found = found.get(option.as_str()).copied().unwrap_or("n");
            (found != value).then(|| format!("{option} is {found} in place of {value}"))
        });
        let differs: Vec<String> = differs.collect();
        if differs.is_empty() { Ok(()) } else { Err(KernelError::NotTaken(differs)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "name = 'x'\nreason = 'r'\n[options]\n\
                        SMP = { value = 'y', reason = 'several' }\n\
                        KSM = { value = 'n', reason = 'leaks' }\n\
                        NR_CPUS = { value = 8, reason = 'few' }\n\
                        LSM = { text = 'yama,bpf', reason = 'both' }\n";

    fn config(text: &str) -> Result<KernelConfig, KernelError> {
        let file = Path::new("x.toml");
        let mut config = KernelConfig::default();
        config.add(&Fragment::parse(text, file)?, file)?;
        Ok(config)
    }

    #[test]
    fn fragments_are_read_and_refused() {
        let text = "# CONFIG_KSM is not set\nCONFIG_LSM=\"yama,bpf\"\nCONFIG_NR_CPUS=8\nCONFIG_SMP=y\n";
        let mut twice = config(GOOD).unwrap();
        assert_eq!(twice.text(), text);
        let error = twice.add(&Fragment::parse(GOOD, Path::new("x.toml")).unwrap(), Path::new("y.toml"));
        assert_eq!(error.unwrap_err().to_string(), "y.toml: KSM: another fragment names it too");
        for (from, to, expected) in [
            ("'x'", "'y'", "x.toml: name: has to be the file's name without .toml"),
            (
                "SMP",
                "CONFIG-SMP",
                "x.toml: CONFIG-SMP: is not the name of an option, written without CONFIG_",
            ),
            ("text = 'yama,bpf',", "", "x.toml: LSM: needs either `value` or `text`"),
            ("value = 8", "value = 8, text = ''", "x.toml: NR_CPUS: needs either `value` or `text`"),
            ("yama,bpf", "a\"b", "x.toml: LSM: its `text` has a character that needs quoting"),
            ("'leaks'", "' '", "x.toml: KSM: its `reason` is empty"),
            ("'n'", "'m'", "x.toml is not a valid kernel fragment"),
            ("reason = 'r'", "reasons = 'r'", "x.toml is not a valid kernel fragment"),
        ] {
            assert_eq!(config(&GOOD.replacen(from, to, 1)).unwrap_err().to_string(), expected, "{from}");
        }
    }

    #[test]
    fn options_that_kconfig_did_not_take_are_named() {
        let config = config(GOOD).unwrap();
        config.check(&config.text()).unwrap();
        let error = config.check("CONFIG_KSM=y\nCONFIG_NR_CPUS=64\nCONFIG_LSM=\"yama,bpf\"\n").unwrap_err();
        let expected = "the kernel's source does not give what distro/kernel asks for: KSM is y in place of n, \
                        NR_CPUS is 64 in place of 8, SMP is n in place of y";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn options_that_the_source_does_not_know_are_named() {
        let source = tempfile::tempdir().unwrap();
        std::fs::create_dir(source.path().join("mm")).unwrap();
        std::fs::write(source.path().join("Kconfig"), "config SMP\n\tbool \"x\"\nconfig NR_CPUS\n").unwrap();
        std::fs::write(source.path().join("mm/Kconfig.debug"), "menuconfig KSM\n").unwrap();
        let error = config(GOOD).unwrap().check_known(source.path()).unwrap_err();
        assert_eq!(error.to_string(), "the kernel's source has no option LSM, which distro/kernel names");
    }

    #[test]
    fn every_fragment_of_the_repository_is_valid() {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let config = KernelConfig::load(&repository, "amd64").unwrap();
        for (option, value) in [("DEBUG_INFO_BTF", "y"), ("MODULES", "n"), ("SCHED_CLASS_EXT", "y")] {
            assert_eq!(config.options[option], value, "{option}");
        }
    }
}
