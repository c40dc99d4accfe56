//! Build jobs: pip, npm and mkfs.erofs run under the isolation of an instance, never on the node itself.

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use stratos_api::DeployEvent;
use stratos_sandbox::egress::Denied;
use stratos_sandbox::seccomp::SeccompFilter;
use stratos_sandbox::{EgressPolicy, Image, JobError, JobOutput, Sandbox};
use stratos_sandbox::{Exit, JobPlan};
use stratos_types::{EgressRule, EgressTarget};

pub(super) use stratos_sandbox::Bind;

use super::error::DeployError;

/// Bytes of a job's output that are kept for an error.
const OUTPUT_LIMIT: usize = 16 << 10;
/// Most characters of one line passed on.
const MAX_LINE: usize = 1000;
/// Where a job finds the node's settings.
pub(super) const SETTINGS: &str = "/tmp/stratos";
/// Where layers have their list of certificate authorities.
const CA_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// How dependencies are resolved on this node: its package indexes, its certificates, its limits.
#[derive(Debug, Clone)]
pub struct BuildConfig {
    /// pip's configuration file (package index, proxy).
    pub pip_config: Option<PathBuf>,
    /// npm's configuration file (registry, tokens).
    pub npmrc: Option<PathBuf>,
    /// Certificate authorities, instead of the layer's.
    pub ca_bundle: Option<PathBuf>,
    /// More environment of pip and npm, such as `PIP_INDEX_URL` and `NPM_CONFIG_REGISTRY`.
    pub extra_env: Vec<(String, String)>,
    /// How long one job may take.
    pub timeout: Duration,
    /// Memory of one job in bytes.
    pub memory_bytes: u64,
    /// Addresses that no job may connect to.
    pub egress_denied: Denied,
}

impl BuildConfig {
    /// No settings but the limits: 15 min, 1 GiB, and the addresses that instances are refused too.
    pub fn plain() -> Self {
        Self {
            pip_config: None,
            npmrc: None,
            ca_bundle: None,
            extra_env: Vec::new(),
            timeout: Duration::from_secs(15 * 60),
            memory_bytes: 1 << 30,
            egress_denied: Denied::default(),
        }
    }

    /// What pip and npm would use if the agent's user ran them: their configuration files in `home` and `/etc`, the
    /// `PIP_*`, `NPM_CONFIG_*` and proxy variables among `env`, and the list of certificate authorities that
    /// `SSL_CERT_FILE` names or the host has.
    pub fn of_host(env: impl IntoIterator<Item = (String, String)>, home: Option<&Path>) -> Self {
        let env: Vec<(String, String)> = env.into_iter().collect();
        let named = |name: &str| env.iter().find(|(n, _)| n == name).map(|(_, v)| PathBuf::from(v));
        let first = |candidates: Vec<Option<PathBuf>>| candidates.into_iter().flatten().find(|p| p.is_file());
        let in_home = |path: &str| home.map(|home| home.join(path));
        // What names files of the host means nothing in a job; the files themselves are shown to it.
        let files = ["PIP_CERT", "PIP_CONFIG_FILE", "PIP_FIND_LINKS", "PIP_CLIENT_CERT", "PIP_CACHE_DIR"];
        let npm_files = ["USERCONFIG", "GLOBALCONFIG", "CAFILE", "CACHE", "PREFIX", "NODEDIR"];
        let wanted = |name: &str| {
            let upper = name.to_ascii_uppercase();
            match upper.strip_prefix("NPM_CONFIG_") {
                Some(key) => !npm_files.contains(&key),
                None if upper.starts_with("PIP_") => !files.contains(&upper.as_str()),
                None => matches!(upper.as_str(), "HTTP_PROXY" | "HTTPS_PROXY" | "NO_PROXY"),
            }
        };
        Self {
            pip_config: first(vec![
                named("PIP_CONFIG_FILE"),
                in_home(".config/pip/pip.conf"),
                in_home(".pip/pip.conf"),
                Some("/etc/pip.conf".into()),
            ]),
            npmrc: first(vec![named("NPM_CONFIG_USERCONFIG"), in_home(".npmrc"), Some("/etc/npmrc".into())]),
            ca_bundle: first(vec![named("SSL_CERT_FILE"), Some(CA_BUNDLE.into())]),
            extra_env: env.iter().filter(|(name, _)| wanted(name)).cloned().collect(),
            ..Self::plain()
        }
    }
}

/// A job to run.
pub(super) struct Job<'a> {
    /// What it is, for errors and to choose the settings: `pip`, `npm`.
    pub(super) what: &'static str,
    pub(super) layer: &'a Arc<Image>,
    pub(super) binds: Vec<Bind>,
    pub(super) argv: Vec<String>,
    pub(super) cwd: &'static str,
    pub(super) env: Vec<(String, String)>,
    /// Whether it may reach package indexes.
    pub(super) network: bool,
}

/// Runs jobs with one node's settings.
pub(super) struct Builder<'a> {
    pub(super) sandbox: &'a Sandbox,
    pub(super) config: &'a BuildConfig,
    pub(super) seccomp: &'a Arc<SeccompFilter>,
    /// A folder of this deploy's own.
    pub(super) scratch: &'a Path,
}

/// A job that ended.
pub(super) struct Ended {
    pub(super) ok: bool,
    /// What it printed, but for what went before the last 16 KiB.
    pub(super) lines: Vec<String>,
    pub(super) oom_killed: bool,
    pub(super) timed_out: bool,
}

impl Builder<'_> {
    /// Runs a job to its end; its lines go to `progress` as they come.
    pub(super) fn run(
        &self,
        job: Job<'_>,
        progress: &mut dyn FnMut(DeployEvent),
    ) -> Result<Ended, DeployError> {
        let what = job.what;
        let (sender, pieces) = channel::<Vec<u8>>();
        let mut plan = self.plan(job)?;
        plan.on_output = Some(Box::new(move |piece| {
            // The other end reads until this one is dropped with the plan.
            if sender.send(piece.to_vec()).is_err() {
                tracing::debug!("a line of a build job came after its end");
            }
        }));
        // The gateway of a job with network needs the runtime, which a new thread does not inherit.
        let runtime = tokio::runtime::Handle::try_current().ok();
        let result = std::thread::scope(|scope| {
            let running = scope.spawn(move || {
                let _entered = runtime.as_ref().map(|runtime| runtime.enter());
                self.sandbox.run_job(&plan)
            });
            let mut lines = Lines::default();
            for piece in pieces {
                lines.take_in(&piece, &mut |line| progress(DeployEvent::Output { line }));
            }
            lines.end(&mut |line| progress(DeployEvent::Output { line }));
            running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        match result {
            Ok(JobOutput { exit, output, oom_killed }) => {
                let ok = exit == Exit { code: Some(0), signal: None };
                Ok(Ended { ok, lines: lines_of(&output), oom_killed, timed_out: false })
            }
            Err(JobError::Timeout { output, .. }) => {
                Ok(Ended { ok: false, lines: lines_of(&output), oom_killed: false, timed_out: true })
            }
            Err(source) => Err(DeployError::Job { what, source }),
        }
    }

    fn plan(&self, job: Job<'_>) -> Result<JobPlan, DeployError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let c_string = |text: String| {
            CString::new(text).map_err(|_| DeployError::Settings { reason: "a value holds a NUL".into() })
        };
        let mut binds = job.binds;
        let mut env = vec![
            ("PATH".to_owned(), "/usr/bin".to_owned()),
            ("HOME".to_owned(), "/tmp".to_owned()),
            ("LANG".to_owned(), "C.UTF-8".to_owned()),
        ];
        env.extend(job.env);
        let mut egress = None;
        if job.network {
            env.extend(self.config.extra_env.iter().filter(|(name, _)| is_for(job.what, name)).cloned());
            self.settings(job.what, &mut binds, &mut env)?;
            let rules = rules(self.ports(job.what));
            let policy = EgressPolicy::new(rules, self.config.egress_denied.clone());
            let policy = policy.map_err(|e| DeployError::Settings { reason: e.to_string() })?;
            egress = Some(Arc::new(policy));
        }
        let env = env.into_iter().map(|(k, v)| c_string(format!("{k}={v}")));
        Ok(JobPlan {
            id: format!("build-{}", NUMBER.fetch_add(1, Ordering::Relaxed)),
            layer: Arc::clone(job.layer),
            binds,
            argv: job.argv.into_iter().map(c_string).collect::<Result<_, _>>()?,
            env: env.collect::<Result<_, _>>()?,
            cwd: job.cwd.to_owned(),
            memory_bytes: self.config.memory_bytes,
            timeout: self.config.timeout,
            seccomp: Arc::clone(self.seccomp),
            egress,
            output_limit: OUTPUT_LIMIT,
            on_output: None,
        })
    }

    /// The configuration file of the tool `what`, its name in a job, and the variable that tells the tool.
    fn own_file(&self, what: &str) -> Option<(&Path, &'static str, &'static str)> {
        let (source, name, variable) = match what {
            "pip" => (&self.config.pip_config, "pip.conf", "PIP_CONFIG_FILE"),
            "npm" => (&self.config.npmrc, "npmrc", "NPM_CONFIG_USERCONFIG"),
            _ => return None,
        };
        Some((source.as_deref()?, name, variable))
    }

    /// Shows the node's configuration file for the tool `what` to the job: a copy, for the original is often root's
    /// alone.
    fn settings(
        &self,
        what: &str,
        binds: &mut Vec<Bind>,
        env: &mut Vec<(String, String)>,
    ) -> Result<(), DeployError> {
        let folder = self.scratch.join(format!("settings-{what}"));
        fs::create_dir_all(&folder).map_err(|e| DeployError::io("create", &folder, e))?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))
            .map_err(|e| DeployError::io("set the mode of", &folder, e))?;
        if let Some((source, name, variable)) = self.own_file(what) {
            let copy = folder.join(name);
            fs::copy(source, &copy).map_err(|e| DeployError::io("copy", source, e))?;
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o644))
                .map_err(|e| DeployError::io("set the mode of", &copy, e))?;
            env.push((variable.into(), format!("{SETTINGS}/{name}")));
        }
        binds.push(Bind { source: folder, target: SETTINGS.into(), writable: false });
        if let Some(bundle) = &self.config.ca_bundle {
            // The bundle's own file, should it be a link.
            let source = fs::canonicalize(bundle).map_err(|e| DeployError::io("find", bundle, e))?;
            binds.push(Bind { source, target: CA_BUNDLE.into(), writable: false });
            for variable in [
                "SSL_CERT_FILE",
                "PIP_CERT",
                "REQUESTS_CA_BUNDLE",
                "NODE_EXTRA_CA_CERTS",
                "NPM_CONFIG_CAFILE",
            ] {
                env.push((variable.into(), CA_BUNDLE.into()));
            }
        }
        Ok(())
    }

    /// Ports besides 80 and 443 that an index, registry or proxy of the settings is on.
    fn ports(&self, what: &str) -> Vec<u16> {
        let file = self.own_file(what).and_then(|(path, ..)| fs::read_to_string(path).ok());
        let mut texts: Vec<String> = file.into_iter().collect();
        let env = self.config.extra_env.iter().filter(|(name, _)| is_for(what, name));
        texts.extend(env.map(|(_, value)| value.clone()));
        texts.iter().flat_map(|text| ports_of_urls(text)).collect()
    }
}

/// Whether the tool `what` is given this variable: those of the other one may hold logins that it has no use for.
fn is_for(what: &str, variable: &str) -> bool {
    let upper = variable.to_ascii_uppercase();
    match () {
        () if upper.starts_with("PIP_") => what == "pip",
        () if upper.starts_with("NPM_CONFIG_") => what == "npm",
        () => true,
    }
}

fn rules(extra: Vec<u16>) -> Vec<EgressRule> {
    let mut ports = vec![80, 443];
    ports.extend(extra);
    ports.sort_unstable();
    ports.dedup();
    ports.into_iter().map(|p| EgressRule { target: EgressTarget::AnyHost, ports: p..=p }).collect()
}

fn ports_of_urls(text: &str) -> Vec<u16> {
    let authority = |rest: &str| {
        let end = rest.find(|c: char| c == '/' || c.is_whitespace()).unwrap_or(rest.len());
        rest[..end].rsplit_once(':').and_then(|(_, port)| port.parse().ok())
    };
    text.split("://").skip(1).filter_map(authority).filter(|port| *port != 0).collect()
}

/// Makes lines of pieces.
#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn take_in(&mut self, piece: &[u8], line: &mut dyn FnMut(String)) {
        for byte in piece {
            match byte {
                b'\n' | b'\r' => self.end(line),
                // Cut here already, lest a line without an end takes the node's memory.
                byte if self.0.len() < MAX_LINE * 4 => self.0.push(*byte),
                _ => {}
            }
        }
    }

    fn end(&mut self, line: &mut dyn FnMut(String)) {
        let text = clean(&std::mem::take(&mut self.0));
        if !text.is_empty() {
            line(text);
        }
    }
}

/// A line without control sequences, as it may be shown on a terminal.
fn clean(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut clean = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            // CSI sequences end with a letter; what else follows an escape is one character.
            '\x1b' => {
                if chars.next() == Some('[') {
                    chars.by_ref().find(|c| c.is_ascii_alphabetic());
                }
            }
            c if c.is_control() && c != '\t' => {}
            c => clean.push(c),
        }
    }
    clean.trim_end().chars().take(MAX_LINE).collect()
}

impl Ended {
    /// The last lines, for an error; not those from `until` on.
    pub(super) fn tail(&self, until: Option<&str>) -> Vec<String> {
        const LINES: usize = 20;
        let end = until.and_then(|until| self.lines.iter().position(|line| line.contains(until)));
        let end = end.unwrap_or(self.lines.len());
        self.lines[end.saturating_sub(LINES)..end].to_vec()
    }
}

fn lines_of(output: &[u8]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut splitter = Lines::default();
    splitter.take_in(output, &mut |line| lines.push(line));
    splitter.end(&mut |line| lines.push(line));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_becomes_clean_lines() {
        let mut lines = Vec::new();
        let mut splitter = Lines::default();
        for piece in [&b"one\ntw"[..], b"o\r\x1b[31mred\x1b[0m\x07 text\n\n", b"end"] {
            splitter.take_in(piece, &mut |line| lines.push(line));
        }
        splitter.end(&mut |line| lines.push(line));
        assert_eq!(lines, ["one", "two", "red text", "end"]);
        assert_eq!(lines_of(&vec![b'y'; 100_000])[0].len(), MAX_LINE);
        let output: String = (0..50).map(|i| format!("line {i}\n")).collect();
        let ended =
            Ended { ok: false, lines: lines_of(output.as_bytes()), oom_killed: false, timed_out: false };
        assert_eq!((ended.tail(None).len(), ended.tail(None)[19].as_str()), (20, "line 49"));
        assert_eq!(ended.tail(Some("line 30"))[19], "line 29");
    }

    #[test]
    fn ports_of_indexes_are_opened() {
        let text = "[global]\nindex-url = https://user:word@mirror.example:8443/simple\nproxy=http://p.example:3128\n\
                    extra-index-url = https://plain.example/simple";
        assert_eq!(ports_of_urls(text), [8443, 3128]);
        let shown: Vec<_> = rules(ports_of_urls(text)).iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["*:80", "*:443", "*:3128", "*:8443"]);
    }

    #[test]
    fn settings_of_the_host_are_taken_without_its_paths() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join(".npmrc"), "fund=false").unwrap();
        let env = [
            ("PIP_INDEX_URL", "u"),
            ("PIP_CERT", "/x"),
            ("npm_config_registry", "r"),
            ("NPM_CONFIG_CACHE", "/x"),
            ("https_proxy", "p"),
            ("PATH", "/bin"),
        ];
        let config = BuildConfig::of_host(env.map(|(k, v)| (k.into(), v.into())), Some(home.path()));
        let names: Vec<_> = config.extra_env.iter().map(|(k, _)| k.as_str()).collect();
        assert_eq!(names, ["PIP_INDEX_URL", "npm_config_registry", "https_proxy"]);
        let given = |what: &str| names.iter().copied().filter(|name| is_for(what, name)).collect::<Vec<_>>();
        assert_eq!(given("pip"), ["PIP_INDEX_URL", "https_proxy"]);
        assert_eq!(given("npm"), ["npm_config_registry", "https_proxy"]);
        assert_eq!(config.npmrc, Some(home.path().join(".npmrc")));
    }
}
