//! What the operator can decide: the command line of `stratosd`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use stratos_sandbox::egress::Denied;
use stratos_types::{MemorySize, Timeout};

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

    /// Serve the API on TCP too; clients need the token.
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,

    /// File with the token for TCP; made on first start [default: STATE/token].
    #[arg(long, value_name = "FILE", requires = "listen")]
    pub token_file: Option<PathBuf>,

    /// Certificate chain for TCP (PEM); required beyond loopback.
    #[arg(long, value_name = "FILE", requires = "tls_key", requires = "listen")]
    pub tls_cert: Option<PathBuf>,

    /// Private key of the certificate (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// Memory that all instances together may be promised [default: 80 % of the machine's].
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<MemorySize>,

    /// How long an instance without requests is kept.
    #[arg(long, value_name = "TIME", default_value = "10m")]
    pub idle_timeout: Timeout,

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

    /// How long requests may take to end when the node stops.
    #[arg(long, value_name = "TIME", default_value = "30s")]
    pub stop_grace: Timeout,
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

    /// Where the token is.
    pub fn token_file(&self) -> PathBuf {
        self.token_file.clone().unwrap_or_else(|| self.state.join("token"))
    }

    /// Bytes of memory that all instances together may be promised.
    ///
    /// # Errors
    /// When the machine's memory cannot be read.
    pub fn memory_budget(&self) -> std::io::Result<u64> {
        match self.memory {
            Some(memory) => Ok(memory.bytes()),
            None => Ok(total_memory()? / 100 * MEMORY_SHARE),
        }
    }

    /// How long an instance without requests is kept.
    pub fn idle_timeout(&self) -> Duration {
        self.idle_timeout.duration()
    }
}

/// The folder that `stratos layer build` fills.
fn cache_dir() -> PathBuf {
    let from = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    from("STRATOS_CACHE")
        .or_else(|| from("XDG_CACHE_HOME").map(|dir| dir.join("stratos")))
        .or_else(|| from("HOME").map(|dir| dir.join(".cache/stratos")))
        .unwrap_or_else(|| "/var/cache/stratos".into())
}

/// The machine's memory in bytes, from the first line of /proc/meminfo, in KiB (proc_meminfo(5)).
fn total_memory() -> std::io::Result<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo")?;
    let kib = meminfo.split_ascii_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok());
    kib.map(|kib| kib * 1024)
        .ok_or_else(|| std::io::Error::other("/proc/meminfo does not begin with MemTotal"))
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
        assert_eq!(options.memory_budget().unwrap(), 1 << 30);
        assert!(total_memory().unwrap() > 1 << 26);
    }
}
