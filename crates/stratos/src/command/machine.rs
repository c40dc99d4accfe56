//! `stratos image boot` and `snapshot`: a built image in a virtual machine on this computer.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::json;
use stratos_image::default_cache_dir;
use stratos_types::NodeConfig;
use stratos_vm::{
    Accelerator, Identity, Image, Machine, MachineKind, Running, Snapshot, VmError, accelerator,
};

use crate::args::{ImageBootArgs, ImageSnapshotArgs, MachineArgs};
use crate::command::keyboard::Keyboard;
use crate::command::signals::Signals;
use crate::failure::{Failure, Result};
use crate::output::{Output, note, size};
use crate::progress::Progress;

/// How long a machine may take to become ready, emulated on a slow and busy computer.
const BOOT_LIMIT: Duration = Duration::from_secs(600);
/// How long one may take to switch itself off.
const OFF_LIMIT: Duration = Duration::from_secs(120);
/// How long the debug layer's shell is there.
const DEBUG_TIME: Duration = Duration::from_secs(8 * 3600);
/// What PID 1's lines on the console begin with.
const INIT: &str = "stratos: ";

/// `stratos image boot`.
pub(crate) async fn boot(args: &ImageBootArgs, output: Output) -> Result<()> {
    // Listened to before anything is started: a Ctrl-C in between must not leave it behind.
    let mut signals = Signals::new()?;
    let progress = Progress::new(output.json);
    let setting = Setting::find(&args.machine, &progress).await?;
    let seat = Seat::take(setting.image.cache(), args.machine.kernel.as_str())?;
    let log = File::create(seat.console()).map_err(|e| failed("write", &seat.console(), &e))?;
    let started = tokio::select! {
        started = start(args, &setting, &seat, log) => started?,
        () = signals.any() => return Ok(()),
    };
    let (mut machine, keyboard) = started;
    progress.line(&format!("console log: {}", seat.console().display()));
    let quiet = if keyboard.is_some() { None } else { Some(&progress) };
    let begun = tokio::select! {
        begun = wait_until_ready(&machine, args.from_snapshot, quiet) => begun?,
        () = signals.any() => return Ok(()),
    };
    drop(progress);
    if keyboard.is_none() || output.json {
        tell(&machine, begun, &setting, &seat, output)?;
    }
    let ended = tokio::select! {
        ended = machine.ended(Duration::MAX) => Some(ended?),
        () = signals.any() => None,
        () = leave(keyboard.as_ref()) => None,
    };
    drop(keyboard);
    let status = match ended {
        Some(status) => status,
        None => {
            note("switching the machine off; a second Ctrl-C cuts its power");
            tokio::select! {
                status = machine.power_off(OFF_LIMIT) => status?,
                () = signals.any() => {
                    note("the machine's power is cut");
                    return Ok(());
                }
            }
        }
    };
    if !status.success() {
        return Err(Failure::new(format!("QEMU ended ({status})")));
    }
    note("the machine is off");
    Ok(())
}

/// `stratos image snapshot`.
pub(crate) async fn snapshot(args: &ImageSnapshotArgs, output: Output) -> Result<()> {
    let mut signals = Signals::new()?;
    let progress = Progress::new(output.json);
    let setting = Setting::find(&args.machine, &progress).await?;
    let snapshot = setting.snapshot()?;
    if !snapshot.exists() || args.again {
        progress.step("booting");
        let made = snapshot.make(BOOT_LIMIT, |machine| machine, |_| ());
        tokio::select! {
            made = made => made?,
            () = signals.any() => return Err(Failure::new("stopped before the snapshot was made")),
        }
    }
    drop(progress);
    let bytes = snapshot.size()?;
    if output.json {
        return output.document(&json!({ "folder": snapshot.folder(), "size": bytes }));
    }
    output.line(&format!("snapshot  {} ({})", snapshot.folder().display(), size(bytes)))?;
    output.line(&format!("next      stratos image boot --from-snapshot{}", setting.arguments()))
}

/// What a machine is made of.
struct Setting {
    image: Image,
    cpus: u32,
    memory_mib: u64,
    accelerator: Accelerator,
}

impl Setting {
    async fn find(args: &MachineArgs, progress: &Progress) -> Result<Self> {
        let cache = default_cache_dir().ok_or_else(|| {
            Failure::new("there is no folder for the cache").hint("set STRATOS_CACHE to a folder")
        })?;
        let image = Image::open(&cache, args.kernel)?;
        progress.step("looking whether KVM works here");
        let accelerator = accelerator(&cache, &image.file("vmlinuz")?).await?;
        Ok(Self { image, cpus: args.cpus, memory_mib: u64::from(args.memory.mib()), accelerator })
    }

    fn snapshot(&self) -> Result<Snapshot> {
        Ok(Snapshot::of(&self.image, self.cpus, self.memory_mib, self.accelerator)?)
    }

    fn fit(&self, machine: Machine) -> Machine {
        machine.cpus(self.cpus).memory_mib(self.memory_mib).accelerator(self.accelerator)
    }

    /// The arguments that name it, where they are not the usual ones.
    fn arguments(&self) -> String {
        let usual = MachineArgs::default();
        let mut text = String::new();
        if self.image.manifest().kernel != usual.kernel {
            text += &format!(" --kernel {}", self.image.manifest().kernel);
        }
        if self.cpus != usual.cpus {
            text += &format!(" --cpus {}", self.cpus);
        }
        if self.memory_mib != u64::from(usual.memory.mib()) {
            text += &format!(" --memory {}MB", self.memory_mib);
        }
        text
    }
}

/// Starts the machine; with a keyboard when the terminal is its console.
async fn start(
    args: &ImageBootArgs,
    setting: &Setting,
    seat: &Seat,
    log: File,
) -> Result<(Running, Option<Keyboard>)> {
    let on_terminal = args.console || args.debug;
    let finish = |machine: Machine| {
        let machine = machine.port(args.port.unwrap_or(0)).console(log);
        if on_terminal { machine.console(std::io::stdout()) } else { machine }
    };
    let mut running = if args.from_snapshot {
        setting.snapshot()?.start(finish).await?
    } else {
        finish(machine(args, setting, seat)?).start().await?
    };
    let keyboard = match running.take_input() {
        Some(input) if on_terminal => Some(Keyboard::give(input)?),
        _ => None,
    };
    Ok((running, keyboard))
}

fn machine(args: &ImageBootArgs, setting: &Setting, seat: &Seat) -> Result<Machine> {
    let image = &setting.image;
    let machine = if args.uefi { Machine::uefi(image)? } else { Machine::direct(image)? };
    let kind = args.kind.into();
    let machine = setting.fit(machine).kind(kind).config(NodeConfig::default());
    let machine = machine.identity(Identity::create(&seat.folder)?);
    // A microvm is switched off by telling it to restart.
    let machine = if kind == MachineKind::Q35 { machine.reboots() } else { machine };
    let machine = match &args.disk {
        Some(file) => machine.keep_disk(file.clone()),
        None => machine,
    };
    match args.debug {
        true => Ok(machine.debug(image, SystemTime::now() + DEBUG_TIME)?),
        false => Ok(machine),
    }
}

/// How a machine began.
struct Begun {
    /// When its API answered, since QEMU was started.
    answered: Duration,
    /// The kernel's share and all of it until every service was ready, by PID 1's clock.
    ready: Option<stratos_vm::Ready>,
}

async fn wait_until_ready(machine: &Running, restored: bool, progress: Option<&Progress>) -> Result<Begun> {
    let ready = async {
        match restored {
            true => Ok(None),
            false => machine.ready(BOOT_LIMIT).await.map(Some),
        }
    };
    let shown = async {
        let Some(progress) = progress else { return std::future::pending().await };
        progress.step(if restored { "restoring" } else { "booting" });
        show_phases(machine, progress).await
    };
    let ready = tokio::select! {
        ready = ready => ready?,
        failed = shown => return failed,
    };
    Ok(Begun { answered: machine.answers(BOOT_LIMIT).await?, ready })
}

/// Shows what PID 1 says until the machine ends.
async fn show_phases<T>(machine: &Running, progress: &Progress) -> Result<T> {
    let pick = |line: &stratos_vm::ConsoleLine| {
        if let Some((_, said)) = line.text.split_once(INIT) {
            progress.step(said);
        }
        None
    };
    Ok(machine.wait_for("it was ready", 0, BOOT_LIMIT, pick).await?)
}

fn tell(machine: &Running, begun: Begun, setting: &Setting, seat: &Seat, output: Output) -> Result<()> {
    let identity = machine
        .identity()
        .ok_or_else(|| Failure::new("the machine has no identity, so there is no way to reach it"))?;
    let (node, console) = (format!("https://127.0.0.1:{}", machine.port()), seat.console());
    let (ca, token) = (identity.certificate_file(), identity.token_file());
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if output.json {
        return output.item(&json!({
            "node": node, "ca": ca, "token_file": token, "console": console,
            "accelerator": setting.accelerator,
            "answered_ms": ms(begun.answered),
            "ready_ms": begun.ready.map(|ready| ms(ready.since_kernel)),
            "kernel_ms": begun.ready.map(|ready| ms(ready.kernel)),
        }));
    }
    let how = match begun.ready {
        Some(ready) => format!(
            "ready {:.1} s after power-on ({}; kernel {:.1} s, PID 1 and services {:.1} s)",
            ready.at.as_secs_f64(),
            setting.accelerator,
            ready.kernel.as_secs_f64(),
            ready.since_kernel.saturating_sub(ready.kernel).as_secs_f64(),
        ),
        None => format!("restored in {:.1} s ({})", begun.answered.as_secs_f64(), setting.accelerator),
    };
    let stratos = format!("stratos --node {node} --ca {} --token-file {}", ca.display(), token.display());
    output.bytes(
        format!(
            "machine  {how}\nconsole  {}\nnext     {stratos} node health\n         {stratos} deploy DIR\nstop     \
             Ctrl-C\n",
            console.display()
        )
        .as_bytes(),
    )
}

/// Waits until the person at the console wants to leave it.
async fn leave(keyboard: Option<&Keyboard>) {
    match keyboard {
        Some(keyboard) => keyboard.left().await,
        None => std::future::pending().await,
    }
}

/// A folder for one machine at a time: its console's log, and while it runs its identity.
struct Seat {
    folder: PathBuf,
    /// Locked as long as the machine runs.
    _lock: File,
}

impl Seat {
    /// The first folder that no running machine has.
    fn take(cache: &Path, kernel: &str) -> Result<Self> {
        for number in 1.. {
            let folder = cache.join("machines").join(format!("{kernel}-{number}"));
            // It holds the machine's token and key, and what a root shell printed.
            std::fs::create_dir_all(&folder)
                .and_then(|()| std::fs::set_permissions(&folder, Permissions::from_mode(0o700)))
                .map_err(|e| failed("create", &folder, &e))?;
            let file = folder.join("lock");
            let lock = File::create(&file).map_err(|e| failed("create", &file, &e))?;
            match lock.try_lock() {
                Ok(()) => return Ok(Self { folder, _lock: lock }),
                Err(std::fs::TryLockError::WouldBlock) => {}
                Err(std::fs::TryLockError::Error(e)) => return Err(failed("lock", &file, &e)),
            }
        }
        unreachable!("numbers do not end")
    }

    fn console(&self) -> PathBuf {
        self.folder.join("console.log")
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // Of no use to anybody without the machine; the next one has others.
        Identity::remove(&self.folder);
    }
}

fn failed(action: &str, path: &Path, error: &dyn std::error::Error) -> Failure {
    Failure::new(format!("cannot {action} {}", path.display())).because(error)
}

impl From<VmError> for Failure {
    fn from(error: VmError) -> Self {
        let failure = Self::from_chain(&error);
        match error.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}
