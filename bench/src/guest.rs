//! StratOS in a virtual machine. A disk is prepared once, with the functions deployed; every boot that counts has a
//! fresh copy of it, so that a boot only boots and serves.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use clap::Args;
use http::Method;
use serde::de::DeserializeOwned;
use stratos_api::client::{Call, Client, ClientError, Connection};
use stratos_api::{ApiError, FunctionDetail, header};
use stratos_tests::Package;
use stratos_types::{KernelChoice, NodeConfig};
use stratos_vm::{Accelerator, Boot, Identity, Image, Machine, MachineKind, Running};
use tempfile::TempDir;

use crate::timing::Phases;

/// How long a boot or a shutdown may take on a slow and busy machine without KVM.
pub(crate) const BOOT_LIMIT: Duration = Duration::from_secs(600);
/// How long an answer may take there.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(300);
/// In this time what a node does in the background after a boot or a first start comes to an end: reading ahead what is
/// remembered, looking at what was read.
pub(crate) const SETTLE: Duration = Duration::from_secs(20);
/// How long the first connection may take until it is given up for another; each later one twice as long.
const FIRST_PATIENCE: Duration = Duration::from_millis(500);
/// Pause after a connection that failed.
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// Settings of machines.
#[derive(Debug, Args)]
pub(crate) struct MachineOptions {
    /// CPUs of each machine.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    cpus: u32,

    /// Memory of each machine.
    #[arg(long, value_name = "MIB", default_value_t = 512, value_parser = clap::value_parser!(u64).range(128..))]
    memory: u64,
}

impl MachineOptions {
    /// What the machines are made of here.
    ///
    /// # Errors
    /// When QEMU is not installed, or no image was built.
    pub(crate) async fn hardware(&self) -> Result<Hardware> {
        hardware(self.cpus, self.memory).await
    }
}

/// What machines are made of here: with KVM where that boots a kernel in reasonable time.
///
/// # Errors
/// When QEMU is not installed, or no image was built.
pub(crate) async fn hardware(cpus: u32, memory_mib: u64) -> Result<Hardware> {
    let image = KernelChoice::ALL.into_iter().find_map(|kernel| image(kernel).ok());
    let image = image.context("no image; `stratos image build` makes one")?;
    let accelerator = stratos_vm::accelerator(image.cache(), &image.file("vmlinuz")?).await?;
    eprintln!("machines: {accelerator}, CPUs: {cpus}, memory: {memory_mib} MiB");
    Ok(Hardware { cpus, memory_mib, accelerator, parallel: false })
}

/// Shows what somebody has to know of a build, and no progress.
pub(crate) struct Notices;

impl stratos_image::Progress for Notices {
    fn step(&self, _: &str, _: stratos_image::Step) {}
    fn bytes(&self, _: &str, _: u64, _: u64) {}
    fn notice(&self, message: &str) {
        eprintln!("{message}");
    }
}

/// What machines are made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hardware {
    /// Number of CPUs.
    pub(crate) cpus: u32,
    /// Memory in MiB.
    pub(crate) memory_mib: u64,
    /// How instructions are run.
    pub(crate) accelerator: Accelerator,
    /// Whether CPUs must not wait for each other; see [`Machine::parallel`].
    pub(crate) parallel: bool,
}

impl Hardware {
    /// Gives it to a machine, whose temporary files are put into `folder`.
    pub(crate) fn of(self, machine: Machine, folder: &Path) -> Machine {
        let machine = if self.parallel { machine.parallel() } else { machine };
        machine
            .cpus(self.cpus)
            .memory_mib(self.memory_mib)
            .accelerator(self.accelerator)
            .isolated()
            .folder(folder.to_owned())
    }
}

/// The cache folder.
///
/// # Errors
/// When nothing tells where it is.
pub(crate) fn cache() -> Result<PathBuf> {
    stratos_image::default_cache_dir().context("neither STRATOS_CACHE nor HOME is set")
}

/// A folder for machines' disks, gone when dropped.
///
/// # Errors
/// When it cannot be made.
pub(crate) fn folder() -> Result<TempDir> {
    let machines = cache()?.join("machines");
    std::fs::create_dir_all(&machines).with_context(|| format!("create {}", machines.display()))?;
    Ok(tempfile::Builder::new().prefix("bench-").tempdir_in(&machines)?)
}

/// A built image.
///
/// # Errors
/// When it was not built.
pub(crate) fn image(kernel: KernelChoice) -> Result<Image> {
    Image::open(&cache()?, kernel).map_err(|error| {
        let hint = error.hint();
        let error = anyhow::Error::new(error);
        match hint {
            Some(hint) => error.context(format!("no image with the {kernel} kernel; {hint}")),
            None => error,
        }
    })
}

/// A disk that machines begin with, and what made it. Gone when dropped.
pub(crate) struct Prepared {
    image: Image,
    identity: Identity,
    folder: TempDir,
}

/// How a machine boots that disk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Loading {
    /// The kind of machine.
    pub(crate) kind: MachineKind,
    /// The kernel's file in the image.
    pub(crate) kernel: &'static str,
}

impl Loading {
    /// As any distribution's kernel is: compressed, in a PC.
    pub(crate) const COMMON: Self = Self { kind: MachineKind::Q35, kernel: "vmlinuz" };
    /// As fast as it goes: not compressed, in a machine with no more than it needs.
    pub(crate) const BEST: Self = Self { kind: MachineKind::Microvm, kernel: "vmlinux" };
}

impl Prepared {
    /// Boots an image for the first time, deploys `packages`, does what `also` does, and switches the machine off.
    ///
    /// # Errors
    /// When any of that fails.
    pub(crate) async fn new(
        kernel: KernelChoice,
        hardware: Hardware,
        config: &NodeConfig,
        packages: &[Package],
        also: impl AsyncFnOnce(&Guest) -> Result<()>,
    ) -> Result<Self> {
        let image = image(kernel)?;
        let folder = folder()?;
        let identity = Identity::create(&folder.path().join("identity"))?;
        let prepared = Self { image, identity, folder };
        let machine = prepared.machine(Loading::COMMON, hardware, config, &prepared.disk())?;
        let mut guest = Guest::start(machine).await?;
        guest.running.ready(BOOT_LIMIT).await?;
        for package in packages {
            guest.deploy(package).await?;
        }
        also(&guest).await?;
        let status = guest.running.power_off(BOOT_LIMIT).await?;
        ensure!(status.success(), "the machine to prepare ended with {status}; {}", guest.running.tail());
        Ok(prepared)
    }

    /// Starts a machine with a fresh copy of the disk, and gives it right then.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) async fn boot(
        &self,
        loading: Loading,
        hardware: Hardware,
        config: &NodeConfig,
    ) -> Result<Guest> {
        let disk = self.folder.path().join("fresh");
        std::fs::copy(self.disk(), &disk).context("copy the prepared disk")?;
        let guest = Guest::start(self.machine(loading, hardware, config, &disk)?).await;
        // QEMU has opened it.
        std::fs::remove_file(&disk).context("remove the copied disk's name")?;
        guest
    }

    fn disk(&self) -> PathBuf {
        self.folder.path().join("prepared")
    }

    fn machine(
        &self,
        loading: Loading,
        hardware: Hardware,
        config: &NodeConfig,
        disk: &Path,
    ) -> Result<Machine> {
        let boot = Boot::Direct {
            kernel: self.image.file(loading.kernel)?,
            initramfs: Some(self.image.file("initramfs.img")?),
            cmdline: self.image.manifest().cmdline.clone(),
        };
        let machine = Machine::new(boot)
            .kind(loading.kind)
            .disk(self.image.file("disk.img")?)
            .keep_disk(disk.to_owned())
            .config(config.clone())
            .identity(self.identity.clone());
        Ok(hardware.of(machine, self.folder.path()))
    }
}

/// A running node. It is switched off, as by a power cut, when dropped.
pub(crate) struct Guest {
    /// The machine.
    pub(crate) running: Running,
    client: Client,
}

/// Asks a node, beside whoever else does.
#[derive(Debug, Clone)]
pub(crate) struct Asker(Client);

/// The answer of a function.
#[derive(Debug)]
pub(crate) struct Answer {
    /// How long it took on the client's clock.
    pub(crate) took: Duration,
    /// What the node says of that.
    pub(crate) phases: Phases,
    /// Whether an instance was started for it.
    pub(crate) fresh: bool,
    /// Its body.
    pub(crate) body: Bytes,
}

impl Guest {
    async fn start(machine: Machine) -> Result<Self> {
        let running = machine.start().await?;
        let client = running.client()?;
        Ok(Self { running, client })
    }

    /// Deploys a function.
    ///
    /// # Errors
    /// When the node refuses it.
    pub(crate) async fn deploy(&self, package: &Package) -> Result<()> {
        let call = Call::new(Method::POST, stratos_api::path::DEPLOY, package.archive());
        let answered = async {
            let response = self.client.send(call).await?;
            self.client.collect(response).await
        };
        answered.await.map_err(said).context("deploy").map(drop)
    }

    /// For tasks of their own.
    pub(crate) fn asker(&self) -> Asker {
        Asker(self.client.clone())
    }

    /// Invokes a function, on a connection of its own.
    ///
    /// # Errors
    /// When the function or the node fails, or nobody answers within [`ANSWER_LIMIT`].
    pub(crate) async fn invoke(&self, function: &str, payload: &str) -> Result<Answer> {
        self.asker().ask(function, payload, ANSWER_LIMIT).await
    }

    /// Opens a connection to keep, for [`Guest::ask_on`].
    ///
    /// # Errors
    /// When the node cannot be reached.
    pub(crate) async fn connect(&self) -> Result<Connection> {
        Ok(self.client.connect().await?)
    }

    /// Invokes a function on a kept connection.
    ///
    /// # Errors
    /// As [`Guest::invoke`].
    pub(crate) async fn ask_on(
        &self,
        connection: &mut Connection,
        function: &str,
        payload: &str,
    ) -> Result<Answer> {
        let asked = ask(&self.client, connection, function, payload);
        let answer = tokio::time::timeout(ANSWER_LIMIT, asked).await;
        answer.with_context(|| format!("no answer of {function} within {ANSWER_LIMIT:?}"))?
    }

    /// Reads a resource of the API.
    ///
    /// # Errors
    /// When the node answers with something else.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let call = Call::new(Method::GET, path, Bytes::new());
        let answer = tokio::time::timeout(ANSWER_LIMIT, self.client.json(call)).await;
        answer.with_context(|| format!("no answer to GET {path}"))?.with_context(|| format!("GET {path}"))
    }

    /// How many of a function's instances work on a request.
    ///
    /// # Errors
    /// When the node does not tell.
    pub(crate) async fn busy(&self, function: &str) -> Result<usize> {
        let detail: FunctionDetail =
            self.get(&format!("{}/{function}", stratos_api::path::FUNCTIONS)).await?;
        Ok(detail.instances.iter().filter(|instance| instance.state == "busy").count())
    }

    /// The console's last lines, for an error.
    pub(crate) fn console(&self) -> String {
        self.running.tail().to_string()
    }
}

impl Asker {
    /// Invokes a function, on a connection of its own. A connection that fails before anything was asked is followed by
    /// another: the network before a machine that boots may take one and lose it.
    ///
    /// # Errors
    /// When the function or the node fails, or nobody answers within `limit`.
    pub(crate) async fn ask(&self, function: &str, payload: &str, limit: Duration) -> Result<Answer> {
        let (begun, mut patience) = (Instant::now(), FIRST_PATIENCE);
        let mut connection = loop {
            match tokio::time::timeout(patience, self.0.connect()).await {
                Ok(Ok(connection)) => break connection,
                Ok(Err(error)) if begun.elapsed() >= ANSWER_LIMIT => return Err(error.into()),
                Ok(Err(_)) => tokio::time::sleep(ASK_AGAIN).await,
                Err(_) if begun.elapsed() >= ANSWER_LIMIT => bail!("nobody takes a connection"),
                Err(_) => patience *= 2,
            }
        };
        let answer = tokio::time::timeout(limit, ask(&self.0, &mut connection, function, payload)).await;
        let answer = answer.with_context(|| format!("no answer of {function} within {limit:?}"))??;
        Ok(Answer { took: begun.elapsed(), ..answer })
    }
}

async fn ask(client: &Client, connection: &mut Connection, function: &str, payload: &str) -> Result<Answer> {
    let begun = Instant::now();
    let path = format!("{}/{function}/invoke", stratos_api::path::FUNCTIONS);
    let invoked = async {
        let response = connection.send(client, Call::new(Method::POST, path, payload.to_owned())).await?;
        let headers = response.headers().clone();
        Ok((headers, client.collect(response).await?.1))
    };
    let (headers, body) = invoked.await.map_err(said).with_context(|| format!("invoke {function}"))?;
    let took = begun.elapsed();
    let value = |name: &str| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.collect::<Vec<_>>().join(", ")
    };
    let phases = Phases::parse(&value(header::SERVER_TIMING))?;
    Ok(Answer { took, phases, fresh: value(header::START) == "fresh", body })
}

/// What a function or a node failed with, in full; an [`ApiError`] can be found in it.
fn said(error: ClientError) -> anyhow::Error {
    match error {
        ClientError::Api(error) => {
            let causes: String = error.causes.iter().map(|cause| format!(": {cause}")).collect();
            let text = format!("the node answered {}{causes}", error.code);
            anyhow::Error::new(*error).context(text)
        }
        error => error.into(),
    }
}

/// The node's own error in a chain of errors.
pub(crate) fn api_error(error: &anyhow::Error) -> Option<&ApiError> {
    error.chain().find_map(|cause| cause.downcast_ref())
}

#[cfg(test)]
mod tests {
    use stratos_api::ErrorCode;

    use super::*;

    #[test]
    fn the_nodes_own_error_is_found() {
        let own = ApiError::new(ErrorCode::FunctionOutOfMemory, "it took more than 64 MB");
        let error = said(ClientError::Api(Box::new(own))).context("invoke hold");
        assert_eq!(api_error(&error).unwrap().code, ErrorCode::FunctionOutOfMemory);
        assert_eq!(
            format!("{error:#}"),
            "invoke hold: the node answered function_out_of_memory: it took more than 64 MB"
        );
        assert!(api_error(&anyhow::anyhow!("x")).is_none());
    }
}
