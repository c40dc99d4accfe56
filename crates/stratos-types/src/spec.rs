//! What a function is: the file `stratos.toml`, read strictly.

mod slo;
mod variables;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use toml::Value;

use crate::{CpuShare, EgressRule, FunctionName, MemorySize, SecretName, Timeout};

/// The file's name, at the top of a function's folder.
pub const FILE_NAME: &str = "stratos.toml";

/// Most requests at a time that one instance can be given.
pub const MAX_CONCURRENCY: u32 = 1000;
/// Most instances of one function on one node.
pub const MAX_INSTANCES: u32 = 1000;
/// Most instances that are kept restored ahead of requests.
pub const MAX_HELD: u32 = 100;
/// Most requests before a checkpoint, and most bytes of each.
pub const MAX_PRIME: (usize, usize) = (16, 4096);
/// Most bytes of `[env]`, names and values together; AWS Lambda's limit is the same 4 KiB.
pub const MAX_ENV_BYTES: usize = 4096;
/// Most secrets of one function.
pub const MAX_SECRETS: usize = 64;
/// Most egress rules.
pub const MAX_EGRESS_RULES: usize = 64;
/// Most TCP ports that all rules together open: each takes a descriptor per instance.
pub const MAX_EGRESS_PORTS: usize = 256;

/// A runtime that a function can ask for; each is a layer of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Runtime {
    /// Node.js 24.
    Node24,
    /// Python 3.13.
    Python313,
    /// A Linux binary that needs at most glibc.
    Native,
}

impl Runtime {
    /// Every runtime.
    pub const ALL: [Self; 3] = [Self::Node24, Self::Python313, Self::Native];

    /// Its name, which is also its layer's and its system call profile's.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Node24 => "node24",
            Self::Python313 => "python3.13",
            Self::Native => "native",
        }
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why a text is not a runtime.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a runtime (node24, python3.13 or native)")]
pub struct RuntimeError(String);

impl FromStr for Runtime {
    type Err = RuntimeError;

    fn from_str(text: &str) -> Result<Self, RuntimeError> {
        let found = Self::ALL.into_iter().find(|r| r.as_str() == text);
        found.ok_or_else(|| RuntimeError(text.chars().take(40).collect()))
    }
}

/// How requests reach the code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A handler behind the Lambda Runtime API: `file.export`; for `native`, the executable's path.
    Handler(String),
    /// A command that serves HTTP on `$PORT`.
    Start(Vec<String>),
    /// A command that is a Lambda Runtime API client of its own, such as `python3 -m awslambdaric app.handler`.
    Client {
        /// The command.
        argv: Vec<String>,
        /// What it is told in `_HANDLER`; only the client knows what that means.
        handler: String,
    },
}

impl Entry {
    /// Whether requests reach the code as HTTP on `$PORT`, in place of events over the Runtime API.
    pub const fn is_http(&self) -> bool {
        matches!(self, Self::Start(_))
    }
}

/// Which of the machine's processors instances run on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum CpuClass {
    /// Those that all functions share.
    #[default]
    Shared,
    /// Those that the node keeps for functions which ask for them.
    Reserved,
}

impl CpuClass {
    /// Its name in `stratos.toml`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Reserved => "reserved",
        }
    }
}

/// Why a text is not a class of processors.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a class of CPUs (shared or reserved)")]
pub struct CpuClassError(String);

impl FromStr for CpuClass {
    type Err = CpuClassError;

    fn from_str(text: &str) -> Result<Self, CpuClassError> {
        let found = [Self::Shared, Self::Reserved].into_iter().find(|class| class.as_str() == text);
        found.ok_or_else(|| CpuClassError(text.chars().take(40).collect()))
    }
}

/// Whether instances are restored from a checkpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum CheckpointMode {
    /// Where that is possible; other starts are fresh, and the reason is shown.
    #[default]
    Auto,
    /// Never.
    Off,
    /// Always: an instance that cannot be restored is not started.
    Required,
}

impl CheckpointMode {
    /// Its name in `stratos.toml`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Off => "off",
            Self::Required => "required",
        }
    }
}

/// Why a text is not a way to use checkpoints.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a way to use checkpoints (auto, off or required)")]
pub struct CheckpointModeError(String);

impl FromStr for CheckpointMode {
    type Err = CheckpointModeError;

    fn from_str(text: &str) -> Result<Self, CheckpointModeError> {
        let found = [Self::Auto, Self::Off, Self::Required].into_iter().find(|mode| mode.as_str() == text);
        found.ok_or_else(|| CheckpointModeError(text.chars().take(40).collect()))
    }
}

/// One function, as its author wants it run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionSpec {
    /// Its name.
    pub name: FunctionName,
    /// What it runs on.
    pub runtime: Runtime,
    /// How it is entered.
    pub entry: Entry,
    /// Memory limit of one instance.
    pub memory: MemorySize,
    /// CPU time per time of one instance; as much as there is when `None`.
    pub cpu: Option<CpuShare>,
    /// Which processors it runs on.
    pub cpu_class: CpuClass,
    /// Whether instances are restored from a checkpoint.
    pub checkpoint: CheckpointMode,
    /// Instances that are kept restored ahead of requests, 0 to [`MAX_HELD`].
    pub held: u32,
    /// What the function is asked before its checkpoint is taken, so that what that loads is in it: paths for a server,
    /// events as JSON for a handler.
    pub prime: Vec<String>,
    /// Limit for one invocation, waiting and cold start included.
    pub timeout: Timeout,
    /// Requests at a time that one instance is given, 1 to [`MAX_CONCURRENCY`].
    pub concurrency: u32,
    /// Most instances at a time, 1 to [`MAX_INSTANCES`].
    pub max_instances: u32,
    /// What it may connect to.
    pub egress: Vec<EgressRule>,
    /// Whether its function URL answers without the node's token.
    pub public: bool,
    /// Environment of its own.
    pub env: BTreeMap<String, String>,
    /// Secrets of the node that it is given at its release: the variable of each.
    pub secrets: BTreeMap<String, SecretName>,
    /// What is aimed at.
    pub slo: Slo,
}

/// What a function's author aims at (its service level objectives). Nothing is enforced: what misses it is kept in full.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Slo {
    /// How long an invocation takes at most, from the whole request being there to its answer.
    pub latency: Option<Timeout>,
}

/// What is wrong with a specification, where, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {}{message}", .key.as_deref().map(|k| format!("{k}: ")).unwrap_or_default())]
pub struct SpecError {
    /// The file it stands in, relative to the function's folder.
    pub file: String,
    /// The key, such as `memory` or `env.NAME`; `None` when the file as a whole is meant.
    pub key: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

impl SpecError {
    fn at(key: &str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { file: FILE_NAME.into(), key: Some(key.into()), message: message.into(), hint: hint.into() }
    }
}

/// Defaults for keys that are not in the file, made by looking at the function's folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inferred {
    /// From the folder's name or `package.json`.
    pub name: Option<String>,
    /// From the files found.
    pub runtime: Option<Runtime>,
    /// From the files found.
    pub entry: Option<Entry>,
}

const KEYS: [&str; 18] = [
    "name",
    "runtime",
    "handler",
    "start",
    "memory",
    "cpu",
    "cpu_class",
    "checkpoint",
    "held",
    "prime",
    "timeout",
    "concurrency",
    "max_instances",
    "egress",
    "public",
    "env",
    "secrets",
    "slo",
];

impl FunctionSpec {
    /// Reads `stratos.toml`; what it leaves out comes from `inferred` or from the defaults (128MB, no CPU limit on
    /// shared CPUs, 30s, one request at a time, 10 instances, no egress, not public).
    ///
    /// # Errors
    /// The first thing that is wrong, with its key and a remedy.
    pub fn parse(text: &str, inferred: &Inferred) -> Result<Self, SpecError> {
        let table: toml::Table = text.parse().map_err(|e: toml::de::Error| SpecError {
            file: FILE_NAME.into(),
            key: None,
            message: position(text, e.span()) + e.message(),
            hint: "the file is TOML: `key = \"value\"`, one a line".into(),
        })?;
        if let Some(unknown) = table.keys().find(|k| !KEYS.contains(&k.as_str())) {
            let near = KEYS.iter().find(|k| is_near(k, unknown));
            let hint = match near {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the keys are {}", KEYS.join(", ")),
            };
            return Err(SpecError::at(unknown, "unknown key", hint));
        }
        let keys = Keys(&table);
        let runtime = keys.runtime(inferred)?;
        let entry = keys.entry(runtime, inferred)?;
        Ok(Self {
            name: keys.name(inferred)?,
            runtime,
            prime: keys.prime(&entry, runtime)?,
            entry,
            memory: keys.parsed("memory", "write an amount such as \"128MB\"")?.unwrap_or(DEFAULT_MEMORY),
            cpu: keys
                .parsed("cpu", "write a number of CPUs such as \"0.5\", or leave it out for no limit")?,
            cpu_class: keys.parsed("cpu_class", "write \"reserved\", or leave it out")?.unwrap_or_default(),
            checkpoint: keys
                .parsed("checkpoint", "write \"off\" or \"required\", or leave it out")?
                .unwrap_or_default(),
            held: keys.held()?,
            timeout: match keys.parsed("timeout", "write a time such as \"30s\"")? {
                Some(timeout) => timeout,
                None => Timeout::new(std::time::Duration::from_secs(30)).expect("30 s is in range"),
            },
            concurrency: keys.count("concurrency", 1, MAX_CONCURRENCY)?,
            max_instances: keys.count("max_instances", 10, MAX_INSTANCES)?,
            egress: keys.egress()?,
            public: keys.boolean("public")?,
            env: keys.env()?,
            secrets: keys.secrets()?,
            slo: keys.slo()?,
        })
    }

    /// The specification as a complete `stratos.toml`, which parses to the same specification.
    pub fn to_toml(&self) -> String {
        let mut table = toml::Table::new();
        let mut set = |key: &str, value: Value| table.insert(key.into(), value);
        set("name", self.name.to_string().into());
        set("runtime", self.runtime.to_string().into());
        match &self.entry {
            Entry::Handler(handler) => set("handler", handler.clone().into()),
            Entry::Start(argv) => set("start", argv.clone().into()),
            Entry::Client { argv, handler } => {
                set("handler", handler.clone().into());
                set("start", argv.clone().into())
            }
        };
        set("memory", self.memory.to_string().into());
        // Left out where they say nothing, so that an agent that does not know them yet still reads the rest.
        if let Some(cpu) = self.cpu {
            set("cpu", cpu.to_string().into());
        }
        if self.cpu_class != CpuClass::default() {
            set("cpu_class", self.cpu_class.as_str().into());
        }
        if self.checkpoint != CheckpointMode::default() {
            set("checkpoint", self.checkpoint.as_str().into());
        }
        if self.held > 0 {
            set("held", i64::from(self.held).into());
        }
        if !self.prime.is_empty() {
            set("prime", self.prime.clone().into());
        }
        set("timeout", self.timeout.to_string().into());
        set("concurrency", i64::from(self.concurrency).into());
        set("max_instances", i64::from(self.max_instances).into());
        set("egress", self.egress.iter().map(ToString::to_string).collect::<Vec<_>>().into());
        set("public", self.public.into());
        let env: toml::Table = self.env.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect();
        set("env", env.into());
        if !self.secrets.is_empty() {
            let names = self.secrets.iter().map(|(k, v)| (k.clone(), v.to_string().into()));
            set("secrets", toml::Table::from_iter(names).into());
        }
        if let Some(latency) = self.slo.latency {
            let slo = toml::Table::from_iter([("latency".to_owned(), latency.to_string().into())]);
            set("slo", slo.into());
        }
        table.to_string()
    }
}

const DEFAULT_MEMORY: MemorySize = MemorySize::from_mib(128).expect("128 MiB is in range");

/// The file's keys, each read by a method that knows its shape.
struct Keys<'a>(&'a toml::Table);

impl Keys<'_> {
    fn text(&self, key: &str) -> Result<Option<&str>, SpecError> {
        match self.0.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong_type(key, "a text in quotes", other)),
        }
    }

    fn parsed<T>(&self, key: &str, hint: &str) -> Result<Option<T>, SpecError>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        let parse = |text: &str| text.parse().map_err(|e: T::Err| SpecError::at(key, e.to_string(), hint));
        self.text(key)?.map(parse).transpose()
    }

    fn name(&self, inferred: &Inferred) -> Result<FunctionName, SpecError> {
        const HINT: &str = "choose a name such as \"hello\"";
        match (self.parsed("name", HINT)?, &inferred.name) {
            (Some(name), _) => Ok(name),
            (None, Some(name)) => name.parse().map_err(|e| SpecError::at("name", format!("{e}"), HINT)),
            (None, None) => Err(SpecError::at("name", "missing", HINT)),
        }
    }

    fn runtime(&self, inferred: &Inferred) -> Result<Runtime, SpecError> {
        const HINT: &str = "write runtime = \"node24\", \"python3.13\" or \"native\"";
        let runtime = self.parsed("runtime", HINT)?.or(inferred.runtime);
        runtime
            .ok_or_else(|| SpecError::at("runtime", "missing, and the folder's files do not tell it", HINT))
    }

    fn entry(&self, runtime: Runtime, inferred: &Inferred) -> Result<Entry, SpecError> {
        match (self.text("handler")?, self.start()?) {
            (Some(handler), Some(argv)) => {
                if handler.is_empty() || handler.contains('\0') {
                    let hint = "write what the command in `start` shall find in _HANDLER, or leave `handler` out \
                                for a server on $PORT";
                    return Err(SpecError::at("handler", "is not a handler", hint));
                }
                Ok(Entry::Client { argv, handler: handler.into() })
            }
            (Some(handler), None) => {
                check_handler(runtime, handler)?;
                Ok(Entry::Handler(handler.into()))
            }
            (None, Some(argv)) => Ok(Entry::Start(argv)),
            (None, None) => inferred_entry(runtime, inferred)?.ok_or_else(|| {
                let (key, example) = match runtime {
                    Runtime::Node24 => {
                        ("handler", "handler = \"index.handler\" or start = \"node server.js\"")
                    }
                    Runtime::Python313 => {
                        ("handler", "handler = \"app.handler\" or start = \"python3 app.py\"")
                    }
                    Runtime::Native => ("handler", "handler = \"bootstrap\" or start = \"./server\""),
                };
                SpecError::at(
                    key,
                    "missing, and the folder's files do not tell it",
                    format!("write {example}"),
                )
            }),
        }
    }

    fn start(&self) -> Result<Option<Vec<String>>, SpecError> {
        const HINT: &str = "write the command with its arguments, such as \"node server.js\"";
        let argv: Vec<String> = match self.0.get("start") {
            None => return Ok(None),
            Some(Value::String(command)) => {
                if command.contains(['"', '\'', '$', '|', '&', ';', '<', '>', '`', '\\']) {
                    let message =
                        "no shell runs this command, so it cannot hold quotes, variables or operators";
                    let hint = "write a list: start = [\"node\", \"--flag=a b\", \"server.js\"]";
                    return Err(SpecError::at("start", message, hint));
                }
                command.split_whitespace().map(str::to_owned).collect()
            }
            Some(Value::Array(items)) => items
                .iter()
                .map(|item| {
                    item.as_str().map(str::to_owned).ok_or_else(|| wrong_type("start", "a text", item))
                })
                .collect::<Result<_, _>>()?,
            Some(other) => return Err(wrong_type("start", "a command in quotes", other)),
        };
        if !is_command(&argv) {
            return Err(SpecError::at("start", "is not a command", HINT));
        }
        Ok(Some(argv))
    }

    fn count(&self, key: &str, default: u32, most: u32) -> Result<u32, SpecError> {
        let Some(value) = self.0.get(key) else { return Ok(default) };
        let number = value.as_integer().ok_or_else(|| wrong_type(key, "a whole number", value))?;
        let fits = u32::try_from(number).ok().filter(|n| (1..=most).contains(n));
        fits.ok_or_else(|| {
            SpecError::at(key, format!("{number} is out of range"), format!("write 1 to {most}"))
        })
    }

    fn held(&self) -> Result<u32, SpecError> {
        let Some(value) = self.0.get("held") else { return Ok(0) };
        let number = value.as_integer().ok_or_else(|| wrong_type("held", "a whole number", value))?;
        let fits = u32::try_from(number).ok().filter(|n| *n <= MAX_HELD);
        fits.ok_or_else(|| {
            SpecError::at("held", format!("{number} is out of range"), format!("write 0 to {MAX_HELD}"))
        })
    }

    fn prime(&self, entry: &Entry, runtime: Runtime) -> Result<Vec<String>, SpecError> {
        let Some(value) = self.0.get("prime") else { return Ok(Vec::new()) };
        let (hint, is_fine): (_, fn(&str) -> bool) = match entry {
            Entry::Handler(_) if runtime == Runtime::Native => {
                ("leave it out: let the program do that itself before it waits for its release", |_| false)
            }
            Entry::Handler(_) if runtime == Runtime::Python313 => {
                ("leave it out: call the handler at the end of its module instead", |_| false)
            }
            Entry::Start(_) => ("write paths: prime = [\"/health\"]", |text| {
                text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic())
            }),
            Entry::Handler(_) => {
                ("write events as JSON: prime = ['{\"warm\": true}']", |text| !text.contains('\0'))
            }
            Entry::Client { .. } => ("leave it out: such a function has no checkpoint", |_| false),
        };
        let items = value.as_array().ok_or_else(|| wrong_type("prime", "a list", value))?;
        let (most, bytes) = MAX_PRIME;
        if items.len() > most {
            let message = format!("{} requests are too many", items.len());
            return Err(SpecError::at("prime", message, format!("at most {most} are allowed")));
        }
        let item = |(i, item): (usize, &Value)| {
            let key = format!("prime[{i}]");
            let text = item.as_str().ok_or_else(|| wrong_type(&key, "a text in quotes", item))?;
            match text.len() <= bytes && is_fine(text) {
                true => Ok(text.to_owned()),
                false => Err(SpecError::at(&key, "is not what this function can be asked", hint)),
            }
        };
        items.iter().enumerate().map(item).collect()
    }

    fn boolean(&self, key: &str) -> Result<bool, SpecError> {
        let Some(value) = self.0.get(key) else { return Ok(false) };
        value.as_bool().ok_or_else(|| wrong_type(key, "true or false", value))
    }

    fn egress(&self) -> Result<Vec<EgressRule>, SpecError> {
        const HINT: &str = "write egress = [\"api.example.com:443\", \"10.0.0.0/8:5432\"]";
        let Some(value) = self.0.get("egress") else { return Ok(Vec::new()) };
        let items = value.as_array().ok_or_else(|| wrong_type("egress", "a list of rules", value))?;
        if items.len() > MAX_EGRESS_RULES {
            let message = format!("{} rules are too many", items.len());
            return Err(SpecError::at("egress", message, format!("at most {MAX_EGRESS_RULES} are allowed")));
        }
        let rule = |(i, item): (usize, &Value)| {
            let key = format!("egress[{i}]");
            let text = item.as_str().ok_or_else(|| wrong_type(&key, "a text in quotes", item))?;
            text.parse().map_err(|e| SpecError::at(&key, format!("{e}"), HINT))
        };
        let rules: Vec<EgressRule> = items.iter().enumerate().map(rule).collect::<Result<_, SpecError>>()?;
        // Ranges are counted, not listed: 64 of them could hold four million ports.
        let ports: usize = rules.iter().map(|rule| rule.ports.len()).sum();
        if ports > MAX_EGRESS_PORTS {
            let hint = format!("at most {MAX_EGRESS_PORTS} are allowed; name the ports that are used");
            return Err(SpecError::at("egress", format!("opens {ports} ports"), hint));
        }
        match rules.iter().position(EgressRule::is_reserved) {
            None => Ok(rules),
            Some(i) => {
                let hint = "name the service by its host name or by an address that others can reach";
                let message = "198.18.0.0/15 is what instances see of StratOS itself";
                Err(SpecError::at(&format!("egress[{i}]"), message, hint))
            }
        }
    }
}

/// The entry that files tell of, if what they say can be one: it is kept in the same form as one that was written.
fn inferred_entry(runtime: Runtime, inferred: &Inferred) -> Result<Option<Entry>, SpecError> {
    match &inferred.entry {
        Some(Entry::Handler(handler)) => check_handler(runtime, handler)?,
        Some(Entry::Start(argv) | Entry::Client { argv, .. }) if !is_command(argv) => {
            let hint = "write the command with its arguments, such as start = \"node server.js\"";
            return Err(SpecError::at("start", "what the folder's files tell is not a command", hint));
        }
        _ => {}
    }
    Ok(inferred.entry.clone())
}

/// Whether execve(2) can take it.
fn is_command(argv: &[String]) -> bool {
    argv.first().is_some_and(|program| !program.is_empty()) && argv.iter().all(|arg| !arg.contains('\0'))
}

fn check_handler(runtime: Runtime, handler: &str) -> Result<(), SpecError> {
    let outside = handler.starts_with('/') || handler.split('/').any(|part| part == "..");
    let (named, hint) = match runtime {
        Runtime::Node24 => (handler.contains('.'), "write FILE.EXPORT, such as \"index.handler\""),
        Runtime::Python313 => (handler.contains('.'), "write FILE.FUNCTION, such as \"app.handler\""),
        Runtime::Native => (true, "write the executable's path inside the folder, such as \"bootstrap\""),
    };
    if handler.is_empty() || handler.contains('\0') || outside || !named {
        return Err(SpecError::at("handler", format!("`{handler}` is not a handler"), hint));
    }
    Ok(())
}

fn wrong_type(key: &str, want: &str, got: &Value) -> SpecError {
    SpecError::at(key, format!("is {}", article(got.type_str())), format!("write {want}"))
}

fn article(kind: &str) -> String {
    let an = kind.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {kind}", if an { "an" } else { "a" })
}

fn position(text: &str, span: Option<std::ops::Range<usize>>) -> String {
    let line = |at: usize| text.as_bytes()[..at.min(text.len())].iter().filter(|b| **b == b'\n').count() + 1;
    span.map(|s| format!("line {}: ", line(s.start))).unwrap_or_default()
}

/// True when one edit (insert, delete, change or swap of neighbours) or two turn one word into the other.
fn is_near(a: &str, b: &str) -> bool {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.to_lowercase().chars().take(40).collect());
    let mut previous: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut current = vec![i];
        for j in 1..=b.len() {
            let change = previous[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            current.push(change.min(previous[j] + 1).min(current[j - 1] + 1));
        }
        previous = current;
    }
    previous[b.len()] <= 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<FunctionSpec, SpecError> {
        FunctionSpec::parse(text, &Inferred::default())
    }

    const SMALL: &str = "name = \"a\"\nruntime = \"node24\"\nhandler = \"index.handler\"\n";

    #[test]
    fn a_function_is_primed_with_what_it_can_be_asked() {
        let server =
            "name = \"a\"\nruntime = \"python3.13\"\nstart = \"python3 s.py\"\nprime = [\"/a\", \"/b?c\"]";
        let spec = parse(server).unwrap();
        assert_eq!(spec.prime, ["/a", "/b?c"]);
        assert_eq!(parse(&spec.to_toml()).unwrap(), spec);
        assert_eq!(parse(&format!("{SMALL}prime = ['{{}}']")).unwrap().prime, ["{}"]);
    }

    #[test]
    fn defaults_and_everything_round_trip() {
        let small = parse(SMALL).unwrap();
        assert_eq!((small.memory.mib(), small.concurrency, small.max_instances), (128, 1, 10));
        assert_eq!(small.timeout.to_string(), "30s");
        assert!(small.egress.is_empty() && !small.public);
        assert_eq!((small.cpu, small.cpu_class), (None, CpuClass::Shared));
        let full = parse(
            r#"
            name = "full"
            runtime = "python3.13"
            start = "python3 -m app"
            memory = "1GB"
            cpu = "1.5"
            cpu_class = "reserved"
            checkpoint = "required"
            held = 2
            timeout = "500ms"
            concurrency = 8
            max_instances = 2
            egress = ["api.example.com", "10.0.0.0/8:1-9"]
            public = true
            [env]
            A = "b"
            [secrets]
            DB_PASSWORD = "db-password"
            [slo]
            latency = "200ms"
            "#,
        )
        .unwrap();
        assert_eq!(full.entry, Entry::Start(vec!["python3".into(), "-m".into(), "app".into()]));
        let latency = |spec: &FunctionSpec| spec.slo.latency.map(|latency| latency.to_string());
        assert_eq!((latency(&small), latency(&full).as_deref()), (None, Some("200ms")));
        let client = parse(&format!("{SMALL}start = \"node ./ric.js\"")).unwrap();
        let argv = vec!["node".into(), "./ric.js".into()];
        assert_eq!(client.entry, Entry::Client { argv, handler: "index.handler".into() });
        let http = [&small, &full, &client].map(|spec| spec.entry.is_http());
        assert_eq!(http, [false, true, false]);
        for spec in [small, full, client] {
            assert_eq!(parse(&spec.to_toml()).unwrap(), spec);
        }
    }

    #[test]
    fn missing_keys_are_inferred() {
        let inferred = Inferred {
            name: Some("folder".into()),
            runtime: Some(Runtime::Native),
            entry: Some(Entry::Handler("bootstrap".into())),
        };
        assert_eq!(FunctionSpec::parse("", &inferred).unwrap().name.as_str(), "folder");
        let named = FunctionSpec::parse("name = \"x\"\nstart = [\"./s\", \"a b\"]", &inferred).unwrap();
        assert_eq!(named.entry, Entry::Start(vec!["./s".into(), "a b".into()]));
    }

    /// Every mistake names its key, says what is wrong and what to do.
    #[test]
    fn mistakes_are_explained() {
        let cases = [
            ("nam = \"a\"", "nam: unknown key", "did you mean `name`?"),
            ("zzzzzzz = 1", "zzzzzzz: unknown key", "the keys are"),
            ("name = ", "line 1: ", "TOML"),
            (
                "name = \"A\"\nruntime = \"native\"\nhandler = \"b\"",
                "name: `A` is not a function name",
                "choose",
            ),
            ("runtime = \"native\"\nhandler = \"b\"", "name: missing", "choose"),
            ("name = \"a\"", "runtime: missing", "node24"),
            ("name = \"a\"\nruntime = \"node18\"", "runtime: `node18` is not a runtime", "node24"),
            ("name = 1\nruntime = \"native\"\nhandler = \"b\"", "name: is an integer", "text in quotes"),
            ("name = \"a\"\nruntime = \"node24\"", "handler: missing", "index.handler"),
            (
                "name = \"a\"\nruntime = \"node24\"\nhandler = \"index\"",
                "handler: `index` is not",
                "FILE.EXPORT",
            ),
            ("name = \"a\"\nruntime = \"native\"\nhandler = \"../b\"", "handler: `../b` is not", "inside"),
            ("name = \"a\"\nruntime = \"native\"\nstart = \"./a | b\"", "start: no shell", "list"),
            ("name = \"a\"\nruntime = \"native\"\nstart = \"\"", "start: is not a command", "arguments"),
            (
                "name = \"a\"\nruntime = \"native\"\nstart = \"x\"\nhandler = \"\"",
                "handler: is not a handler",
                "_HANDLER",
            ),
            (&format!("{SMALL}memory = \"1TB\""), "memory: `1TB` is not an amount", "128MB"),
            (&format!("{SMALL}cpu = \"0.01\""), "cpu: `0.01` is not a number of CPUs", "\"0.5\""),
            (&format!("{SMALL}cpu = 0.5"), "cpu: is a float", "text in quotes"),
            (
                &format!("{SMALL}checkpoint = \"on\""),
                "checkpoint: `on` is not a way to use checkpoints",
                "\"off\"",
            ),
            (
                "name = \"a\"\nruntime = \"node24\"\nstart = \"x\"\nprime = [\"x\"]",
                "prime[0]: is not what this function can be asked",
                "paths",
            ),
            (&format!("{SMALL}held = 101"), "held: 101 is out of range", "0 to 100"),
            (&format!("{SMALL}cpu_class = \"fast\""), "cpu_class: `fast` is not a class", "\"reserved\""),
            (
                &format!("{SMALL}cpuclass = \"reserved\""),
                "cpuclass: unknown key",
                "did you mean `cpu_class`?",
            ),
            (&format!("{SMALL}timeout = \"1h\""), "timeout: `1h` is not a time", "30s"),
            (&format!("{SMALL}concurrency = 0"), "concurrency: 0 is out of range", "1 to 1000"),
            (&format!("{SMALL}max_instances = \"2\""), "max_instances: is a string", "whole number"),
            (&format!("{SMALL}egress = [\"*\"]"), "egress[0]: `*` has a wildcard", "api.example.com"),
            (&format!("{SMALL}egress = [\"a.com:1-300\"]"), "egress: opens 300 ports", "at most 256"),
            (&format!("{SMALL}egress = [\"198.19.0.0/16\"]"), "egress[0]: 198.18.0.0/15 is", "host name"),
            (&format!("{SMALL}public = 1"), "public: is an integer", "true or false"),
            (&format!("{SMALL}[env]\nPORT = \"1\""), "env.PORT: is reserved", "another"),
            (&format!("{SMALL}[env]\n\"a-b\" = \"1\""), "env.a-b: is not a name", "letters"),
            (&format!("{SMALL}[env]\nA = 1"), "env.A: is an integer", "quotes"),
            (&format!("{SMALL}[env]\nA = \"{}\"", "x".repeat(5000)), "env: 5001 bytes", "4096"),
            (&format!("{SMALL}secrets = [\"a\"]"), "secrets: is an array", "a table"),
            (&format!("{SMALL}[secrets]\nA = 1"), "secrets.A: is an integer", "quotes"),
            (&format!("{SMALL}[secrets]\nA = \"hunter2!\""), "secrets.A: is not the name", "secret set"),
            (&format!("{SMALL}[secrets]\n\"a-b\" = \"a\""), "secrets.a-b: is not a name", "letters"),
            (&format!("{SMALL}[secrets]\nPORT = \"a\""), "secrets.PORT: is reserved", "another"),
            (&format!("{SMALL}[secrets]\nTZ = \"a\""), "secrets.TZ: is reserved", "another"),
            (&format!("{SMALL}[secrets]\nNODE_OPTIONS = \"a\""), "secrets.NODE_OPTIONS: is", "another"),
            (&format!("{SMALL}slo = \"200ms\""), "slo: is a string", "[slo]"),
            (&format!("{SMALL}[slo]\nlatency = 200"), "slo.latency: is an integer", "quotes"),
            (&format!("{SMALL}[slo]\nlatency = \"fast\""), "slo.latency: `fast` is not a time", "200ms"),
            (&format!("{SMALL}[slo]\nlatancy = \"1s\""), "slo.latancy: unknown key", "latency"),
            (
                &format!("{SMALL}[env]\nA = \"x\"\n[secrets]\nA = \"a\""),
                "secrets.A: is set by [env] as well",
                "one of the two",
            ),
        ];
        for (text, message, hint) in cases {
            let error = parse(text).unwrap_err();
            assert!(error.to_string().starts_with(&format!("stratos.toml: {message}")), "{text}: {error}");
            assert!(error.hint.contains(hint), "{text}: {}", error.hint);
        }
    }
}
