//! StratOS in a virtual machine, for one test.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, SystemTime};

use stratos_types::{KernelChoice, NodeConfig};
use stratos_vm::{Accelerator, Identity, Image, Machine, Ready, Running, Snapshot, VmError, accelerator};
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};

use crate::Api;

/// How long a machine may take to come up or to go down, emulated on a slow and busy computer.
pub const PATIENCE: Duration = Duration::from_secs(300);
/// How long the shell may take for a command.
const SHELL_PATIENCE: Duration = Duration::from_secs(60);
/// The machine of snapshots, and of tests that do not ask for another one.
const CPUS: u32 = 2;
const MEMORY_MIB: u64 = 512;

/// One machine at a time: what is emulated takes a processor for each of its own.
static TURN: Mutex<()> = Mutex::const_new(());

/// What machines are made of on this computer.
#[derive(Debug)]
pub struct Workshop {
    image: Image,
    accelerator: Accelerator,
    dir: TempDir,
    identity: Identity,
    _turn: Option<MutexGuard<'static, ()>>,
}

/// A machine that runs StratOS. It is switched off, as by a power cut, when it is dropped.
pub struct Guest {
    /// The machine.
    pub running: Running,
    /// What PID 1 said when it was ready; `None` after a snapshot was restored.
    pub ready: Option<Ready>,
    api: Api,
}

impl Workshop {
    /// Everything for machines with this kernel, once no other test of this program has one. Where no image was built,
    /// or QEMU is not there, the test is skipped by name on a developer's machine and fails in CI.
    ///
    /// # Panics
    /// In CI without an image, and when there is no temporary folder to be had.
    pub async fn open(test: &str, kernel: KernelChoice) -> Option<Self> {
        let turn = TURN.lock().await;
        match Self::find(kernel).await {
            Ok(workshop) => Some(Self { _turn: Some(turn), ..workshop }),
            Err(error @ (VmError::NoImage { .. } | VmError::NoProgram { .. })) => {
                assert!(std::env::var_os("CI").is_none(), "{test}: CI is meant to boot the image: {error}");
                let hint = error.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
                eprintln!("skipped: {test} ({error}{hint})");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Everything for machines with this kernel, for a program that is not a test.
    ///
    /// # Errors
    /// When no image was built, or QEMU is not there.
    ///
    /// # Panics
    /// When there is no temporary folder to be had.
    pub async fn find(kernel: KernelChoice) -> Result<Self, VmError> {
        let image = Image::open(&crate::cache_dir(), kernel)?;
        let accelerator = accelerator(image.cache(), &image.file("vmlinuz")?).await?;
        let dir = tempfile::Builder::new().prefix("stratos-guest-").tempdir().expect("a temporary folder");
        let identity = Identity::create(&dir.path().join("identity"))?;
        Ok(Self { image, accelerator, dir, identity, _turn: None })
    }

    /// The image.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// How instructions are run.
    pub fn accelerator(&self) -> Accelerator {
        self.accelerator
    }

    /// A folder that is there as long as this.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A machine with the image's disk. Nothing leads out of its network, and it ends in place of booting again.
    ///
    /// # Panics
    /// When the image is not whole.
    pub fn machine(&self) -> Machine {
        let machine = Machine::direct(&self.image).unwrap_or_else(|e| panic!("{e}"));
        self.fit(machine.cpus(CPUS).memory_mib(MEMORY_MIB).config(NodeConfig::default()))
    }

    /// Gives a machine this workshop's identity and folder.
    pub fn fit(&self, machine: Machine) -> Machine {
        machine
            .accelerator(self.accelerator)
            .identity(self.identity.clone())
            .isolated()
            .folder(self.dir().to_owned())
    }

    /// The debug layer for a machine, whose shell [`Guest::shell`] talks to.
    ///
    /// # Panics
    /// When the image has none.
    pub fn with_shell(&self, machine: Machine) -> Machine {
        let until = SystemTime::now() + Duration::from_secs(3600);
        machine.debug(&self.image, until).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Starts a machine and waits until its node answers.
    ///
    /// # Panics
    /// When it does not; the end of its console is in the message.
    pub async fn boot(&self, machine: Machine) -> Guest {
        self.try_boot(machine).await.unwrap_or_else(|error| panic!("{}", told(&error)))
    }

    /// Starts a machine and waits until its node answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn try_boot(&self, machine: Machine) -> Result<Guest, VmError> {
        let log = self.console_log();
        let running = machine.console(create(&log)).start().await?;
        let ready = running.ready(PATIENCE).await?;
        running.answers(PATIENCE).await?;
        Ok(Guest { api: Api::new(running.client()?, log), running, ready: Some(ready) })
    }

    /// Starts a machine with the debug layer and waits for its shell alone: the rest may be damaged.
    ///
    /// # Panics
    /// When there is no shell; the end of its console is in the message.
    pub async fn boot_to_shell(&self, machine: Machine) -> Guest {
        let log = self.console_log();
        let running = self.with_shell(machine).console(create(&log)).start().await;
        let running = running.unwrap_or_else(|error| panic!("{}", told(&error)));
        let client = running.client().unwrap_or_else(|error| panic!("{}", told(&error)));
        let mut guest = Guest { api: Api::new(client, log), running, ready: None };
        guest.wait_for_shell().await;
        guest
    }

    /// A machine from the snapshot of a freshly booted one, which is made when it is not there.
    ///
    /// # Panics
    /// When that fails.
    pub async fn restore(&self) -> Guest {
        self.try_restore().await.unwrap_or_else(|error| panic!("{}", told(&error)))
    }

    async fn try_restore(&self) -> Result<Guest, VmError> {
        let snapshot = Snapshot::of(&self.image, CPUS, MEMORY_MIB, self.accelerator)?;
        if !snapshot.exists() {
            snapshot.make(PATIENCE, Machine::isolated, |_| ()).await?;
        }
        let log = self.console_log();
        let adjust =
            |machine: Machine| machine.isolated().console(create(&log)).folder(self.dir().to_owned());
        let running = snapshot.start(adjust).await?;
        running.answers(PATIENCE).await?;
        Ok(Guest { api: Api::new(running.client()?, log), running, ready: None })
    }

    fn console_log(&self) -> PathBuf {
        let mut numbers = 1..;
        let path = |number: u32| self.dir().join(format!("console-{number}.log"));
        numbers.by_ref().map(path).find(|path| !path.exists()).expect("numbers do not end")
    }
}

fn create(path: &Path) -> std::fs::File {
    std::fs::File::create(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// An error with what led to it.
fn told(error: &dyn std::error::Error) -> String {
    let source = error.source().map(|source| format!("; {}", told(source))).unwrap_or_default();
    format!("{error}{source}")
}

impl Guest {
    /// The node's address, and where its certificate and token are: the options of `stratos`.
    ///
    /// # Panics
    /// When the machine has no identity.
    pub fn options(&self) -> [String; 6] {
        let identity = self.running.identity().expect("machines of tests have an identity");
        let path = |path: PathBuf| path.display().to_string();
        [
            "--node".into(),
            format!("https://127.0.0.1:{}", self.running.port()),
            "--ca".into(),
            path(identity.certificate_file()),
            "--token-file".into(),
            path(identity.token_file()),
        ]
    }

    /// Types until a shell answers: what is typed before it reads is lost.
    async fn wait_for_shell(&mut self) {
        let begun = std::time::Instant::now();
        loop {
            self.running.type_in("echo re''ady\n").unwrap_or_else(|e| panic!("{e}"));
            let here = |line: &stratos_vm::ConsoleLine| line.text.ends_with("ready").then_some(());
            match self.running.wait_for("a shell", 0, Duration::from_secs(3), here).await {
                Ok(()) => return,
                Err(VmError::TooLate { .. }) if begun.elapsed() < PATIENCE => {}
                Err(error) => panic!("{}", told(&error)),
            }
        }
    }

    /// Runs a command in the shell of the debug layer, and gives what it prints.
    ///
    /// # Panics
    /// When the shell does not answer.
    pub async fn shell(&mut self, command: &str) -> String {
        let from = self.running.console_len();
        // The echo of what is typed must not look like the answer.
        let typed = format!("echo be''gin; {command}; echo e''nd\n");
        self.running.type_in(&typed).unwrap_or_else(|e| panic!("{e}"));
        let (mut inside, mut said) = (false, String::new());
        let ended = self.running.wait_for("the shell's answer", from, SHELL_PATIENCE, |line| {
            match line.text.as_str() {
                "begin" => inside = true,
                "end" if inside => return Some(()),
                text if inside => said += &format!("{text}\n"),
                _ => {}
            }
            None
        });
        ended.await.unwrap_or_else(|error| panic!("{command}: {}", told(&error)));
        said
    }

    /// Switches the machine off in order.
    ///
    /// # Panics
    /// When it does not go off.
    pub async fn power_off(mut self) -> ExitStatus {
        self.running.power_off(PATIENCE).await.unwrap_or_else(|error| panic!("{}", told(&error)))
    }
}

impl Deref for Guest {
    type Target = Api;

    fn deref(&self) -> &Api {
        &self.api
    }
}
