//! The command line, as clap reads it. What a command does stands in `command`.

mod artifact;
mod secret;
mod telemetry;
mod trace;

use std::path::PathBuf;

pub(crate) use self::artifact::{BuildArgs, KeyCommand, KeyFileArg, KeyGenerateArgs, KeyIdArg};
use clap::{Args, Parser, Subcommand};
use stratos_types::{FunctionName, InvocationId, KernelChoice, MemorySize, Runtime, Timeout};
use stratos_vm::MachineKind;

pub(crate) use self::secret::{SecretCommand, SecretRmArgs, SecretSetArgs};
pub(crate) use self::telemetry::{InvocationsArgs, SortBy, TopArgs};
pub(crate) use self::trace::TraceArgs;
use crate::exit;
use crate::node::NodeArgs;

/// Deploys and invokes functions on a StratOS node
#[derive(Debug, Parser)]
#[command(name = "stratos", version, max_term_width = 100, disable_help_subcommand = false)]
#[command(after_help = "Start here:
  stratos new hello --runtime node24    make a function
  stratos deploy hello                  deploy it to the node
  stratos invoke hello -d '{}'          invoke it", after_long_help = exit::HELP)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    /// Print JSON to stdout: one document, or one a line for streams
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a folder with a new function
    New(NewArgs),
    /// Deploy a function's folder, or its artifact, as its new version
    Deploy(DeployArgs),
    /// Build a function's artifact: code, runtime layer and checkpoint in one file
    Build(BuildArgs),
    /// Make keys that sign artifacts, and tell a node which to believe
    #[command(subcommand)]
    Key(KeyCommand),
    /// Invoke a function and print its answer
    Invoke(InvokeArgs),
    /// List functions
    #[command(
        visible_alias = "list",
        after_help = "Examples:
  stratos ls
  stratos ls --json"
    )]
    Ls,
    /// Show a function: version, dependencies, instances, last invocations
    #[command(after_help = "Examples:
  stratos show hello
  stratos show hello --json")]
    Show(NameArg),
    /// List a function's versions
    #[command(after_help = "Examples:
  stratos versions hello")]
    Versions(NameArg),
    /// Print a function's log
    Logs(LogsArgs),
    /// Watch all functions: rate, latency, cold starts, memory, errors
    Top(TopArgs),
    /// List a function's last invocations, or those that failed, or show where one's time went
    Invocations(InvocationsArgs),
    /// Count and time the system calls of a function's instances
    Trace(TraceArgs),
    /// Make an earlier version the current one
    Rollback(RollbackArgs),
    /// Remove a function with all its versions
    Rm(RmArgs),
    /// Show asynchronous invocations that failed for good, retry or forget them
    DeadLetters(DeadLettersArgs),
    /// Set, list and remove the secrets that functions are given
    #[command(subcommand)]
    Secret(SecretCommand),
    /// Deploy a folder on every change and print its log; runs a node of its own unless one is named
    Dev(DevArgs),
    /// Build and list runtime layers
    #[command(subcommand)]
    Layer(LayerCommand),
    /// Build, list and boot operating system images
    #[command(subcommand)]
    Image(ImageCommand),
    /// Ask a node how it is, look at its machine, shut it down
    #[command(subcommand)]
    Node(NodeCommand),
    /// Show the node's page in a browser: prints its address and serves it until Ctrl-C
    Ui(UiArgs),
    /// Print a completion script for a shell
    #[command(after_help = "Examples:
  stratos completions bash > ~/.local/share/bash-completion/completions/stratos
  stratos completions zsh > ~/.zfunc/_stratos
  stratos completions fish > ~/.config/fish/completions/stratos.fish")]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// A function's name alone.
#[derive(Debug, Args)]
pub(crate) struct NameArg {
    /// Name of the function
    pub(crate) name: FunctionName,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  stratos new hello                             a Node.js handler
  stratos new hello --runtime python3.13        a Python handler
  stratos new web --runtime node24 --http       a server that listens on $PORT")]
pub(crate) struct NewArgs {
    /// Name of the function and of its folder
    pub(crate) name: FunctionName,
    /// Runtime: node24, python3.13 or native
    #[arg(long, default_value_t = Runtime::Node24)]
    pub(crate) runtime: Runtime,
    /// Make an HTTP server on $PORT in place of a handler
    #[arg(long)]
    pub(crate) http: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  stratos deploy                deploy the current folder
  stratos deploy ./hello        deploy another one
  stratos deploy hello.stratos  deploy what `stratos build` has made
  stratos deploy --json hello   one JSON document for each step

Left out of the package: .git, __pycache__, .venv, a Rust target folder, node_modules where package.json
or a lock file says what belongs in it, and what .stratosignore lists (patterns as in .gitignore; a
pattern with ! brings something back).")]
pub(crate) struct DeployArgs {
    /// The function's folder, or its artifact
    #[arg(default_value = ".")]
    pub(crate) dir: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  stratos invoke hello -d '{\"name\":\"you\"}'
  stratos invoke hello -f event.json --log
  echo '{}' | stratos invoke hello
  stratos invoke hello -d '{}' --async        stored, run in the background
  stratos invoke hello -d '{}' --version 2

Without -d and -f the payload is read from stdin, or is {} when stdin is a terminal.")]
pub(crate) struct InvokeArgs {
    /// Name of the function
    pub(crate) name: FunctionName,
    /// The payload itself
    #[arg(short, long, value_name = "DATA", conflicts_with = "file")]
    pub(crate) data: Option<String>,
    /// File with the payload; - is stdin
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Store the request, answer with its id, and run it in the background
    #[arg(long = "async")]
    pub(crate) asynchronous: bool,
    /// Version to invoke in place of the current one
    #[arg(long, value_name = "N")]
    pub(crate) version: Option<u64>,
    /// Print the invocation's log lines to stderr
    #[arg(long, conflicts_with = "asynchronous")]
    pub(crate) log: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  stratos logs hello
  stratos logs hello --tail 20 -f
  stratos logs hello --json | jq -r .message")]
pub(crate) struct LogsArgs {
    /// Name of the function
    pub(crate) name: FunctionName,
    /// Go on with new lines as they come
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// How many of the last lines to begin with
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) tail: u32,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  stratos rollback hello           to the version before the current one
  stratos rollback hello --to 3")]
pub(crate) struct RollbackArgs {
    /// Name of the function
    pub(crate) name: FunctionName,
    /// The version to go back to
    #[arg(long, value_name = "N")]
    pub(crate) to: Option<u64>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  stratos rm hello         asks first
  stratos rm hello --yes")]
pub(crate) struct RmArgs {
    /// Name of the function
    pub(crate) name: FunctionName,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  stratos dead-letters hello
  stratos dead-letters hello --retry 5f0c9c1e-8d0b-4c56-9d3e-0a1b2c3d4e5f
  stratos dead-letters hello --all
  stratos dead-letters hello --forget 5f0c9c1e-8d0b-4c56-9d3e-0a1b2c3d4e5f")]
pub(crate) struct DeadLettersArgs {
    /// Name of the function
    pub(crate) name: FunctionName,
    /// Queue this invocation again
    #[arg(long, value_name = "ID", value_parser = invocation_id)]
    pub(crate) retry: Option<InvocationId>,
    /// Queue all of them again
    #[arg(long, conflicts_with = "retry")]
    pub(crate) all: bool,
    /// Forget this invocation
    #[arg(long, value_name = "ID", value_parser = invocation_id, conflicts_with_all = ["retry", "all"])]
    pub(crate) forget: Option<InvocationId>,
}

pub(crate) fn invocation_id(text: &str) -> Result<InvocationId, stratos_types::id::IdError> {
    text.parse()
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sudo stratos dev hello                        a node of its own, gone when you press Ctrl-C
  stratos dev hello --node http://node:8080     on a node that runs already")]
pub(crate) struct DevArgs {
    /// The function's folder
    #[arg(default_value = ".")]
    pub(crate) dir: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sudo stratos ui                                                 the node of this machine
  stratos ui --node https://node:8443 --token-file token          another one
  stratos ui --port 8700

Open the printed address in a browser of this machine. The token stays with this command; the address
holds a key that is of use while the command runs.")]
pub(crate) struct UiArgs {
    /// Port on 127.0.0.1 [default: a free one]
    #[arg(long, value_name = "PORT", default_value_t = 0, hide_default_value = true)]
    pub(crate) port: u16,
}

/// Work on runtime layers.
#[derive(Debug, Subcommand)]
pub(crate) enum LayerCommand {
    /// Build layers into the cache, as distro/stratos.lock says
    #[command(after_help = "Examples:
  stratos layer build                 all layers
  stratos layer build node24 native
  stratos layer build --locked        fail when a locked version is gone from its archive")]
    Build(LayerBuildArgs),
    /// Look up the newest versions and write distro/stratos.lock anew
    #[command(after_help = "Examples:
  stratos layer lock")]
    Lock(LayerArgs),
    /// List the layers in the cache
    #[command(after_help = "Examples:
  stratos layer ls")]
    Ls,
}

#[derive(Debug, Args)]
pub(crate) struct LayerBuildArgs {
    /// Layers to build; all without a name
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// Fail when a locked version is gone from its archive, in place of taking a newer one
    #[arg(long)]
    pub(crate) locked: bool,
    #[command(flatten)]
    pub(crate) layer: LayerArgs,
}

#[derive(Debug, Args)]
pub(crate) struct KernelArgs {
    /// Which kernel: stratos or debian
    #[arg(long, value_name = "NAME", default_value_t = KernelChoice::Stratos)]
    pub(crate) kernel: KernelChoice,
    /// Fail when a locked version is gone from its archive, in place of taking a newer one
    #[arg(long)]
    pub(crate) locked: bool,
    #[command(flatten)]
    pub(crate) layer: LayerArgs,
}

#[derive(Debug, Args)]
pub(crate) struct LayerArgs {
    /// Debian archive to use [default: the one that this machine's apt uses]
    #[arg(long, value_name = "URL", env = "STRATOS_DEBIAN_MIRROR", hide_env_values = true)]
    pub(crate) debian_mirror: Option<String>,
    /// The folder that holds distro/ and runtimes/ [default: the nearest one above the current folder]
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
}

/// Work on operating system images.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Build an operating system image into the cache: disk, kernel image, initramfs, verified root
    #[command(after_help = "Examples:
  stratos image build                        with Debian's kernel
  stratos image build --kernel stratos       with StratOS's own, built when the cache lacks it
  stratos image build --debug                also the disk with shell, strace and bpftool
  stratos image build -o out                 copy the files to out/

The disk holds everything; the other files are the same parts for direct boot, signing or a registry.")]
    Build(ImageBuildArgs),
    /// Build or fetch a kernel alone into the cache
    #[command(after_help = "Examples:
  stratos image kernel                     StratOS's own; the first build compiles for half an hour or more
  stratos image kernel --kernel debian     Debian's for virtual machines
  stratos image kernel --json | jq -r .image")]
    Kernel(KernelArgs),
    /// List the images in the cache
    #[command(after_help = "Examples:
  stratos image ls
  stratos image ls --json")]
    Ls,
    /// Boot the image in a virtual machine, until Ctrl-C
    #[command(after_help = "Examples:
  stratos image boot                              Debian's kernel, 2 CPUs, 512 MB
  stratos image boot --port 8443 --disk node.qcow2
  stratos image boot --from-snapshot              within a second, from `stratos image snapshot`
  stratos image boot --debug                      with a shell, strace and bpftool on this terminal")]
    Boot(ImageBootArgs),
    /// Boot the image until it is ready, and save the machine for `boot --from-snapshot`
    #[command(after_help = "Examples:
  stratos image snapshot
  stratos image snapshot --kernel stratos --memory 256MB")]
    Snapshot(ImageSnapshotArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ImageBuildArgs {
    /// The kernel: debian or stratos
    #[arg(long, default_value_t = KernelChoice::Debian)]
    pub(crate) kernel: KernelChoice,
    /// Fail when a locked version is gone from its archive, in place of taking a newer one
    #[arg(long)]
    pub(crate) locked: bool,
    /// Build the debug layer's disk, too
    #[arg(long)]
    pub(crate) debug: bool,
    /// Copy the image's files to this folder
    #[arg(short, long, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) layer: LayerArgs,
}

/// What a virtual machine is made of.
#[derive(Debug, Args)]
pub(crate) struct MachineArgs {
    /// The image's kernel: debian or stratos
    #[arg(long, default_value_t = Self::default().kernel)]
    pub(crate) kernel: KernelChoice,
    /// Memory of the machine
    #[arg(long, value_name = "SIZE", default_value_t = Self::default().memory)]
    pub(crate) memory: MemorySize,
    /// CPUs of the machine
    #[arg(long, value_name = "N", default_value_t = Self::default().cpus)]
    pub(crate) cpus: u32,
}

impl Default for MachineArgs {
    fn default() -> Self {
        let memory = MemorySize::from_mib(512).expect("a size that is allowed");
        Self { kernel: KernelChoice::Debian, memory, cpus: 2 }
    }
}

/// Kinds of machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum KindArg {
    /// A PC
    Q35,
    /// The least there is; starts faster, for the stratos kernel only
    Microvm,
}

impl From<KindArg> for MachineKind {
    fn from(kind: KindArg) -> Self {
        match kind {
            KindArg::Q35 => Self::Q35,
            KindArg::Microvm => Self::Microvm,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ImageBootArgs {
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
    /// Port of this computer, on 127.0.0.1, that leads to the node's API [default: a free one]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Option<u16>,
    /// Keep what the machine writes to its disk in this file, and go on with it the next time
    #[arg(long, value_name = "FILE")]
    pub(crate) disk: Option<PathBuf>,
    /// Kind of machine
    #[arg(long = "machine", value_name = "KIND", value_enum, default_value_t = KindArg::Q35)]
    pub(crate) kind: KindArg,
    /// Let UEFI firmware boot the disk, in place of loading the kernel directly
    #[arg(long)]
    pub(crate) uefi: bool,
    /// Go on from a snapshot of such a machine
    #[arg(long, conflicts_with_all = ["disk", "kind", "uefi", "debug"])]
    pub(crate) from_snapshot: bool,
    /// Make this terminal the machine's console; Ctrl-] leaves
    #[arg(long)]
    pub(crate) console: bool,
    /// Add the debug layer, whose shell is on the console
    #[arg(long)]
    pub(crate) debug: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ImageSnapshotArgs {
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
    /// Make it again when there is one
    #[arg(long)]
    pub(crate) again: bool,
}

/// Questions to a node, and its end.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Print version, layers, load, and what the machine lacks
    #[command(after_help = "Examples:
  stratos node health
  stratos node health --node https://node:8443 --ca node.pem --token-file token")]
    Health,
    /// Print the machine's memory and disk, its services and abilities
    #[command(after_help = "Examples:
  stratos node status
  stratos node status --json | jq .init.services")]
    Status,
    /// Print what the node can see of functions by eBPF, and what its machine lacks
    #[command(after_help = "Examples:
  stratos node features
  stratos node features --json | jq '.groups[] | select(.state == \"refused\")'")]
    Features,
    /// Print the node's own log: PID 1, services, kernel
    Logs(NodeLogsArgs),
    /// Draw the tree of the node's processes
    Tree(NodeTreeArgs),
    /// Draw a boot, phase by phase
    Boot(NodeBootArgs),
    /// Shut the node's machine down and start it again
    #[command(after_help = "Examples:
  stratos node reboot              asks first, waits until the node is back
  stratos node reboot --yes --no-wait")]
    Reboot(ShutdownArgs),
    /// Shut the node's machine down and switch it off
    #[command(
        name = "poweroff",
        after_help = "Examples:
  stratos node poweroff            asks first, waits until the node is away
  stratos node poweroff --yes --no-wait"
    )]
    PowerOff(ShutdownArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  stratos node logs
  stratos node logs --source kernel --tail 20
  stratos node logs --source stratosd -f
  stratos node logs --json | jq -r .message")]
pub(crate) struct NodeLogsArgs {
    /// Lines of this source alone: init, kernel, or a service
    #[arg(long, value_name = "NAME")]
    pub(crate) source: Option<String>,
    /// Go on with new lines as they come
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// How many of the last lines to begin with
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) tail: u32,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  stratos node tree
  stratos node tree --watch            drawn anew every second, until Ctrl-C
  stratos node tree --all              with the kernel's threads one by one")]
pub(crate) struct NodeTreeArgs {
    /// Draw it anew every second
    #[arg(short, long)]
    pub(crate) watch: bool,
    /// Show the kernel's threads one by one
    #[arg(short, long)]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  stratos node boot                    the boot that runs now
  stratos node boot --last 3           and the two before it
  stratos node boot --svg boot.svg     as a drawing")]
pub(crate) struct NodeBootArgs {
    /// How many of the last boots to draw
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) last: u32,
    /// Write the newest boot to this file as SVG, in place of drawing it here; - is stdout
    #[arg(long, value_name = "FILE", conflicts_with = "last")]
    pub(crate) svg: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ShutdownArgs {
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Do not wait for the node to be away, and back
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// How long to wait at most
    #[arg(long, value_name = "TIME", default_value = "5m")]
    pub(crate) wait: Timeout,
}
