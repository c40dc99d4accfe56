//! What the operator can decide: the command line of `stratosd`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use clap::builder::{BoolishValueParser, FalseyValueParser};
use stratos_sandbox::egress::Denied;
use stratos_types::{MemorySize, Timeout};

use crate::http::TlsFiles;
use crate::telemetry::{Collector, CollectorHeaders, ExportConfig};

/// Share of the machine's memory that instances may be promised, in percent.
const MEMORY_SHARE: u64 = 80;

/// The StratOS node agent: deploys functions and answers their requests.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "stratosd",
    version,
    after_help = "Examples:\n  \
        stratosd                                    a node, API on /run/stratos/api.sock\n  \
        stratosd --dev                              the same where cgroup v2 limits are missing\n  \
        stratosd --listen 127.0.0.1:8080            and on TCP, with the token in STATE/token\n  \
        stratosd --listen 0.0.0.0:8443 --tls-self-signed\n  \
        stratosd --listen 0.0.0.0:8443 --tls-cert node.pem --tls-key node.key"
)]
pub struct Options {
    /// Run although this machine cannot limit the functions' memory, CPU and processes.
    #[arg(long)]
    pub dev: bool,

    /// Folder for the node's state: functions, their images, queue, logs.
    #[arg(long, env = "STRATOS_STATE", value_name = "DIR", default_value = "/var/lib/stratos")]
    pub state: PathBuf,

    /// Folder for mount points and sockets.
    #[arg(long, value_name = "DIR", default_value = "/run/stratos")]
    pub run: PathBuf,

    /// Unix socket of the API [default: RUN/api.sock].
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,

    /// Folder with the runtime layers [default: STATE/layers; with --dev the cache that `stratos layer build` fills].
    #[arg(long, env = "STRATOS_LAYERS", value_name = "DIR")]
    pub layers: Option<PathBuf>,

    /// Cgroup below the hierarchy's root to keep instances in, which is this node's alone; made and named by the node
    /// itself without.
    #[arg(long, env = "STRATOS_CGROUP", value_name = "NAME", value_parser = cgroup_name)]
    pub cgroup: Option<String>,

    /// Serve the API on TCP too; clients need the token.
    #[arg(long, env = "STRATOS_LISTEN", value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,

    /// File with the token for TCP; made on first start [default: STATE/token].
    #[arg(long, env = "STRATOS_TOKEN_FILE", value_name = "FILE", requires = "listen")]
    pub token_file: Option<PathBuf>,

    /// Certificate chain for TCP (PEM); required beyond loopback.
    #[arg(long, env = "STRATOS_TLS_CERT", value_name = "FILE", requires = "tls_key", requires = "listen")]
    pub tls_cert: Option<PathBuf>,

    /// Private key of the certificate (PEM).
    #[arg(long, env = "STRATOS_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// Make key and certificate at the first start, where --tls-cert and --tls-key say [default: STATE/tls/node.pem,
    /// STATE/tls/node.key].
    #[arg(long, env = "STRATOS_TLS_SELF_SIGNED", requires = "listen", value_parser = FalseyValueParser::new())]
    pub tls_self_signed: bool,

    /// Memory that all instances together may be promised [default: what their cgroup is limited to, else 80 % of the
    /// machine's; and a share of its swap].
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<MemorySize>,

    /// Share of its memory that an instance may have in swap besides, and share of the swap that instances may be
    /// promised, in percent; where the machine has swap.
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub swap_share: u8,

    /// Note which files of a layer its first start touches, and read them ahead when the node starts again.
    #[arg(long, env = "STRATOS_WARM", value_name = "BOOL", default_value_t = true, default_missing_value = "true",
        num_args = 0..=1, require_equals = true, action = clap::ArgAction::Set,
        value_parser = BoolishValueParser::new())]
    pub warm: bool,

    /// Observe instances by eBPF, as far as the kernel allows; `off`: load nothing into it.
    #[arg(long, env = "STRATOS_TRACE", value_name = "on|off", default_value = "on",
          value_parser = |text: &str| match text {
              "on" => Ok(true),
              "off" => Ok(false),
              _ => Err("write on or off"),
          }, action = clap::ArgAction::Set)]
    pub trace: bool,

    /// How long an instance without requests is kept.
    #[arg(long, value_name = "TIME", default_value = "10m")]
    pub idle_timeout: Timeout,

    /// Variables that all functions are given, as TOML: NAME = "value", one a line. A function's own [env] wins.
    #[arg(long, env = "STRATOS_FUNCTION_ENVIRONMENT", value_name = "FILE")]
    pub function_environment: Option<PathBuf>,

    /// Restore instances from checkpoints, where functions allow it and that is possible; `off`: start all afresh.
    #[arg(long, env = "STRATOS_CHECKPOINTS", value_name = "auto|off", default_value = "auto",
          value_parser = |text: &str| match text {
              "auto" => Ok(true),
              "off" => Ok(false),
              _ => Err("write auto or off"),
          }, action = clap::ArgAction::Set)]
    pub checkpoints: bool,

    /// Folder with the public keys whose signature of an artifact is believed [default: STATE/trusted-keys].
    #[arg(long, env = "STRATOS_TRUSTED_KEYS", value_name = "FOLDER")]
    pub trusted_keys: Option<PathBuf>,

    /// Memory for checkpoints that are kept ready to be cloned [default: a quarter of the functions' memory].
    #[arg(long, value_name = "SIZE", value_parser = template_memory)]
    pub template_memory: Option<u64>,

    /// How old a checkpoint gets before another is made in the background: a number of s, m, h or d. What its instances have
    /// in common, such as the layout of their memory, changes with it.
    #[arg(long, value_name = "TIME", default_value = "1d", value_parser = age)]
    pub checkpoint_age: Duration,

    /// How long a function's SnapStart hooks may take: those before its checkpoint, and those after each restore.
    #[arg(long, value_name = "TIME", default_value = "10s")]
    pub hook_limit: Timeout,

    /// Most requests that wait for one function.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub queue: usize,

    /// Networks that no egress rule opens, `own` for this machine's addresses [default: own, loopback, link-local,
    /// multicast and reserved addresses].
    #[arg(long, value_name = "CIDR,..")]
    pub egress_denied: Option<Denied>,

    /// Settings of pip for dependency builds [default: what pip run here would use].
    #[arg(long, value_name = "FILE")]
    pub pip_config: Option<PathBuf>,

    /// Settings of npm for dependency builds [default: what npm run here would use].
    #[arg(long, value_name = "FILE")]
    pub npm_config: Option<PathBuf>,

    /// Certificates that dependency builds trust [default: this machine's].
    #[arg(long, value_name = "FILE", env = "SSL_CERT_FILE")]
    pub ca_bundle: Option<PathBuf>,

    /// Longest time a dependency build may take.
    #[arg(long, value_name = "TIME", default_value = "10m")]
    pub build_timeout: Timeout,

    /// Disk for what is kept about invocations: summaries, and those that failed or were too slow; a number of MB or GB, or 0
    /// to keep it in memory alone.
    #[arg(long, env = "STRATOS_TELEMETRY_DISK", value_name = "SIZE", default_value = "16MB", value_parser = disk)]
    pub telemetry_disk: u64,

    /// OpenTelemetry collector that traces and metrics are sent to: OTLP over HTTP, http://HOST:PORT or https://HOST:PORT.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<Collector>,

    /// Headers for the collector, such as a key: name=value, with commas between them. Others see what stands on a command
    /// line: better in the environment.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_HEADERS", value_name = "HEADERS", hide_env_values = true)]
    pub otlp_headers: Option<CollectorHeaders>,

    /// Certificates to trust for a collector's https (PEM) [default: this machine's].
    #[arg(long, env = "OTEL_EXPORTER_OTLP_CERTIFICATE", value_name = "FILE")]
    pub otlp_ca: Option<PathBuf>,

    /// How often metrics are sent to the collector, in milliseconds.
    #[arg(long, env = "OTEL_METRIC_EXPORT_INTERVAL", value_name = "MS", default_value_t = 60_000,
          value_parser = clap::value_parser!(u64).range(100..))]
    pub otlp_interval: u64,

    /// How long requests may take to end when the node stops.
    #[arg(long, value_name = "TIME", default_value = "30s")]
    pub stop_grace: Timeout,

    /// Socket of StratOS's own PID 1.
    #[arg(long, value_name = "PATH", default_value = stratos_api::node::INIT_SOCKET, hide = true)]
    pub init_socket: PathBuf,
}

/// An amount of memory, or 0 to keep none.
fn template_memory(text: &str) -> Result<u64, String> {
    match text {
        "0" => Ok(0),
        text => text.parse::<MemorySize>().map(|size| size.bytes()).map_err(|error| error.to_string()),
    }
}

/// What PID 1 calls a cgroup, and no unit of another system's: those hold processes that are not this node's to end.
fn cgroup_name(text: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    match !text.is_empty() && text.len() <= 64 && text.bytes().all(plain) {
        true => Ok(text.to_owned()),
        false => Err("a name holds lower-case letters, digits and `-` alone".to_owned()),
    }
}

impl Options {
    /// Where the API's Unix socket is.
    pub fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| self.run.join("api.sock"))
    }

    /// Where the layers are.
    pub fn layers(&self) -> PathBuf {
        match &self.layers {
            Some(dir) => dir.clone(),
            None if self.dev => cache_dir().join("layers"),
            None => self.state.join("layers"),
        }
    }

    /// Where the keys are that artifacts may be signed by.
    pub fn trusted_keys(&self) -> PathBuf {
        self.trusted_keys.clone().unwrap_or_else(|| self.state.join("trusted-keys"))
    }

    /// Where the token is.
    pub fn token_file(&self) -> PathBuf {
        self.token_file.clone().unwrap_or_else(|| self.state.join("token"))
    }

    /// Certificate and key for TCP, and whether they are made when they are not there.
    pub fn tls(&self) -> Option<TlsFiles> {
        let given = self.tls_cert.clone().zip(self.tls_key.clone());
        let folder = self.state.join("tls");
        let own = || self.tls_self_signed.then(|| (folder.join("node.pem"), folder.join("node.key")));
        let (certificate, key) = given.or_else(own)?;
        Some(TlsFiles { certificate, key, make: self.tls_self_signed })
    }

    /// Percent of its memory that an instance may have in swap besides.
    pub fn swap_percent(&self, machine: &Memory) -> u8 {
        if machine.swap == 0 { 0 } else { self.swap_share }
    }

    /// Bytes of memory that all instances together may be promised; `limit` is that of the cgroup they are kept in.
    ///
    /// Swap is promised in part only. An instance that takes more than its memory goes on in swap of its own for a
    /// while, and those that keep to theirs must still find what they were promised.
    pub fn memory_budget(&self, machine: &Memory, limit: Option<u64>) -> u64 {
        if let Some(memory) = self.memory {
            return memory.bytes();
        }
        let memory =
            limit.filter(|limit| *limit < machine.total).unwrap_or(machine.total / 100 * MEMORY_SHARE);
        memory + machine.swap.min(memory) / 100 * u64::from(self.swap_share)
    }

    /// Bytes of memory that templates may take, of `budget` that functions may be promised.
    pub fn template_budget(&self, budget: u64) -> u64 {
        const SHARE: u64 = 4;
        self.template_memory.unwrap_or(budget / SHARE)
    }

    /// Where traces and metrics go, if anywhere; `host` is what the node calls itself.
    pub fn export(&self, host: &str) -> Option<ExportConfig> {
        Some(ExportConfig {
            collector: self.otlp_endpoint.clone()?,
            headers: self.otlp_headers.clone().unwrap_or_default(),
            ca: self.otlp_ca.clone().or_else(|| self.ca_bundle.clone()),
            metrics_period: Duration::from_millis(self.otlp_interval),
            host: host.to_owned(),
        })
    }

    /// How long an instance without requests is kept.
    pub fn idle_timeout(&self) -> Duration {
        self.idle_timeout.duration()
    }
}

/// An amount of disk, or 0 to use none.
fn disk(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match text[digits.len()..].trim() {
        "" if digits == "0" => Some(0),
        "MB" | "MiB" => Some(1 << 20),
        "GB" | "GiB" => Some(1 << 30),
        _ => None,
    };
    let bytes = digits.parse::<u64>().ok().zip(unit).and_then(|(number, unit)| number.checked_mul(unit));
    let in_range = |bytes: &u64| *bytes == 0 || (1 << 20..=64 << 30).contains(bytes);
    bytes.filter(in_range).ok_or_else(|| "not an amount from 1MB to 64GB, nor 0".to_owned())
}

fn age(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match &text[digits.len()..] {
        "s" => Some(1),
        "m" => Some(60),
        "h" => Some(3600),
        "d" => Some(86_400),
        _ => None,
    };
    let number = digits.parse::<u32>().ok().filter(|number| *number > 0);
    let seconds = number.zip(unit).map(|(number, unit)| u64::from(number) * unit);
    seconds.map(Duration::from_secs).ok_or_else(|| "not a time such as 90m, 12h or 7d".to_owned())
}

/// The folder that `stratos layer build` fills.
fn cache_dir() -> PathBuf {
    let from = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    from("STRATOS_CACHE")
        .or_else(|| from("XDG_CACHE_HOME").map(|dir| dir.join("stratos")))
        .or_else(|| from("HOME").map(|dir| dir.join(".cache/stratos")))
        .unwrap_or_else(|| "/var/cache/stratos".into())
}

/// The machine's memory, bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub total: u64,
    /// Can be had without swapping.
    pub available: u64,
    /// Swap.
    pub swap: u64,
    /// Of this, free.
    pub swap_free: u64,
}

impl Memory {
    /// The machine's, from /proc/meminfo.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of_machine() -> std::io::Result<Self> {
        let meminfo = std::fs::read_to_string("/proc/meminfo")?;
        Self::parse(&meminfo).ok_or_else(|| std::io::Error::other("/proc/meminfo tells no MemTotal"))
    }

    /// Lines of `KEY: NUMBER kB` (proc_meminfo(5)).
    fn parse(meminfo: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
        };
        Some(Self {
            total: field("MemTotal")?,
            available: field("MemAvailable").unwrap_or(0),
            swap: field("SwapTotal").unwrap_or(0),
            swap_free: field("SwapFree").unwrap_or(0),
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Options::command().debug_assert();
        let options = Options::parse_from(["stratosd", "--run", "/r", "--state", "/s", "--memory", "1GB"]);
        assert_eq!(options.socket(), PathBuf::from("/r/api.sock"));
        assert_eq!(options.layers(), PathBuf::from("/s/layers"));
        let machine = Memory::of_machine().unwrap();
        assert_eq!(options.memory_budget(&machine, None), 1 << 30);
        assert!(machine.total > 1 << 26 && machine.available <= machine.total);
        assert!(options.warm && options.tls().is_none());
    }

    #[test]
    fn memory_is_promised_as_there_is() {
        let meminfo = "MemTotal:        1000 kB\nMemFree: 5 kB\nMemAvailable:   600 kB\nSwapTotal:   400 kB\n\
                       SwapFree:  300 kB\nHugePages_Total:       0\n";
        let machine = Memory::parse(meminfo).unwrap();
        let kb = |n: u64| n * 1024;
        assert_eq!((machine.total, machine.available), (kb(1000), kb(600)));
        assert_eq!((machine.swap, machine.swap_free), (kb(400), kb(300)));
        let options = |args: &[&str]| Options::parse_from(["stratosd"].iter().chain(args));
        let budget = |args: &[&str], limit| options(args).memory_budget(&machine, limit) / 1024;
        // 80 % of the memory and half of the swap.
        assert_eq!(budget(&[], None), 1000);
        assert_eq!(budget(&[], Some(kb(500))), 700);
        assert_eq!(budget(&["--swap-share", "0"], Some(kb(500))), 500);
        // No more swap than memory counts: at most half of what was promised can be swapped out.
        assert_eq!(budget(&[], Some(kb(100))), 150);
        assert_eq!(options(&[]).swap_percent(&machine), 50);
        assert_eq!(options(&[]).swap_percent(&Memory { swap: 0, ..machine }), 0);
        assert_eq!(Memory::parse("MemFree: 1 kB\n"), None);
    }

    #[test]
    fn telemetry_takes_as_much_disk_as_it_is_given() {
        let parse = |size: &str| Options::try_parse_from(["stratosd", "--telemetry-disk", size]);
        for (size, bytes) in [("1MB", 1 << 20), ("64 MiB", 64 << 20), ("2GB", 2 << 30), ("0", 0)] {
            assert_eq!(parse(size).unwrap().telemetry_disk, bytes);
        }
        for wrong in ["", "5", "0.5MB", "65GB", "1TB", "18446744073709551615GB"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_cgroup_of_another_system_is_no_place_for_instances() {
        let parse = |name: &str| Options::try_parse_from(["stratosd", "--cgroup", name]).map(|o| o.cgroup);
        assert_eq!(parse("functions").unwrap().as_deref(), Some("functions"));
        for wrong in ["", "system.slice", "../x", "a/b"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn certificates_are_given_or_made() {
        let parse = |args: &[&str]| {
            let listen = ["stratosd", "--state", "/s", "--listen", "0.0.0.0:1"];
            Options::try_parse_from(listen.iter().chain(args)).map(|options| options.tls())
        };
        let own = parse(&["--tls-self-signed"]).unwrap().unwrap();
        assert_eq!((own.certificate.to_str(), own.make), (Some("/s/tls/node.pem"), true));
        let given = parse(&["--tls-cert", "/c", "--tls-key", "/k"]).unwrap().unwrap();
        assert_eq!((given.key.to_str(), given.make), (Some("/k"), false));
        assert!(parse(&["--tls-cert", "/c"]).is_err());
    }
}
