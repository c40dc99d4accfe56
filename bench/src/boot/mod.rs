//! `boot`: from QEMU's start to a node that has served, beside Debian with systemd in the same machine.

mod debian;
mod world;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use serde::Serialize;
use stratos_types::{ImageManifest, KernelChoice};

use self::world::{FUNCTION, Images, World};
use crate::guest::{self, Loading};
use crate::initramfs::init_bytes;
use crate::interrupt::Interrupt;
use crate::output::{JsonLines, Progress, Promise, promises, table};
use crate::stats::{Sample, seconds};

/// What is compressed and shipped of an image beside its runtimes.
const CORE: [&str; 4] = ["vmlinuz", "initramfs.img", "root.erofs", "root.verity"];

/// Settings of `boot`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Boots of each subject.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    n: u32,

    /// What to boot; all of it by default.
    #[arg(long, value_name = "NAME,..", value_enum, value_delimiter = ',')]
    subjects: Vec<Subject>,

    #[command(flatten)]
    machine: guest::MachineOptions,

    /// File for the rows, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Subject {
    /// StratOS with Debian's kernel.
    StratosDebianKernel,
    /// StratOS with its own kernel.
    StratosKernel,
    /// Debian with systemd.
    DebianSystemd,
    /// StratOS with its own kernel, in the machine it boots fastest in.
    StratosKernelMicrovm,
}

impl Subject {
    /// Its name in rows.
    const fn name(self) -> &'static str {
        match self {
            Self::StratosDebianKernel => "stratos-debian-kernel",
            Self::StratosKernel => "stratos-kernel",
            Self::DebianSystemd => "debian-systemd",
            Self::StratosKernelMicrovm => "stratos-kernel-microvm",
        }
    }

    /// Which of StratOS's images it boots; none if it is not StratOS.
    const fn kernel(self) -> Option<KernelChoice> {
        match self {
            Self::StratosDebianKernel => Some(KernelChoice::Debian),
            Self::StratosKernel | Self::StratosKernelMicrovm => Some(KernelChoice::Stratos),
            Self::DebianSystemd => None,
        }
    }

    const fn loading(self) -> Loading {
        match self {
            Self::StratosKernelMicrovm => Loading::BEST,
            _ => Loading::COMMON,
        }
    }
}

/// What was measured of one boot.
#[derive(Debug, Clone, Copy)]
struct Booted {
    /// Until the function's answer, or until systemd says that everything runs.
    total: Duration,
    /// CPU time of QEMU until then.
    cpu: Duration,
    /// Until PID 1 said that every service is ready; StratOS only.
    ready: Option<Duration>,
    /// Resident memory of PID 1 in KiB; StratOS only.
    init_rss_kb: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Row {
    bench: &'static str,
    subject: Subject,
    n: usize,
    min_s: f64,
    p50_s: f64,
    p95_s: f64,
    /// Median of QEMU's CPU time.
    cpu_s: f64,
    /// Kernel, initramfs and root, compressed.
    image_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ready_p50_s: Option<f64>,
    /// The most of all boots.
    #[serde(skip_serializing_if = "Option::is_none")]
    init_rss_kb: Option<u64>,
}

/// Boots everything in turns and tells what it took.
///
/// # Errors
/// When anything does not boot, serve or end as it should.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut rows = JsonLines::create(options.json.as_deref())?;
    let tokio = tokio::runtime::Runtime::new()?;
    let interrupt = Interrupt::listen(&tokio)?;
    let subjects =
        if options.subjects.is_empty() { Subject::value_variants() } else { options.subjects.as_slice() };
    let images = Images::find(subjects, &interrupt)?;
    let measured = tokio.block_on(interrupt.or(measure(options, subjects, &images)))?;
    report(&measured, &images, &mut rows)
}

async fn measure(
    options: &Options,
    subjects: &[Subject],
    images: &Images,
) -> Result<Vec<(Subject, Vec<Booted>)>> {
    let hardware = options.machine.hardware().await?;
    let world = World::prepare(images, hardware).await?;
    let mut measured: Vec<(Subject, Vec<Booted>)> =
        subjects.iter().map(|subject| (*subject, Vec::new())).collect();
    let progress = Progress::new("round", options.n as usize);
    for round in 0..options.n as usize {
        // Another subject is the first in every round, so that none always follows the same one.
        for turn in 0..measured.len() {
            let at = (round + turn) % measured.len();
            let (subject, booted) = &mut measured[at];
            let boot = world.boot(*subject, hardware).await;
            booted.push(boot.with_context(|| format!("round {}, {}", round + 1, subject.name()))?);
        }
        progress.done(round + 1);
    }
    Ok(measured)
}

fn report(measured: &[(Subject, Vec<Booted>)], images: &Images, json: &mut JsonLines) -> Result<()> {
    let head = ["subject", "n", "min", "p50", "p95", "cpu", "ready, p50", "PID 1, KiB", "image, MB"];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    let mut rows = Vec::new();
    for (subject, booted) in measured {
        let row = row(*subject, image_bytes(*subject, images)?, booted);
        json.add(&row)?;
        let mut line = vec![subject.name().to_owned(), row.n.to_string()];
        line.extend([row.min_s, row.p50_s, row.p95_s, row.cpu_s].map(|s| format!("{s:.2}")));
        line.push(row.ready_p50_s.map(|s| format!("{s:.2}")).unwrap_or_default());
        line.push(row.init_rss_kb.map(|kb| kb.to_string()).unwrap_or_default());
        line.push(format!("{:.1}", mb(row.image_bytes)));
        lines.push(line);
        rows.push(row);
    }
    println!("QEMU's start to the first answer of {FUNCTION}, or to systemd's `running`, s:\n");
    println!("{}", table(&lines));
    let init = KernelChoice::ALL.into_iter().rev().find_map(|kernel| images.stratos(kernel));
    let init = init.map(|image| init_bytes(&image.file("initramfs.img")?)).transpose()?;
    println!("{}", promises(&kept(&rows, init)));
    Ok(())
}

/// What is promised of the subjects that were measured.
fn kept(rows: &[Row], init_bytes: Option<u64>) -> Vec<Promise> {
    let row = |subject| rows.iter().find(|row| row.subject == subject);
    let mut promises = Vec::new();
    for (what, subject, limit) in [
        ("own kernel against systemd, p50", Subject::StratosKernel, 1.0 / 8.0),
        ("Debian's kernel against systemd, p50", Subject::StratosDebianKernel, 1.0 / 5.0),
    ] {
        if let (Some(row), Some(systemd)) = (row(subject), row(Subject::DebianSystemd)) {
            promises.push(Promise { what, measured: row.p50_s / systemd.p50_s, limit, unit: "" });
        }
    }
    if let Some(bytes) = init_bytes {
        promises.push(Promise { what: "PID 1's program", measured: mb(bytes), limit: 3.0, unit: "MB" });
    }
    if let Some(kib) = rows.iter().filter_map(|row| row.init_rss_kb).max() {
        let measured = mb(kib * 1024);
        promises.push(Promise { what: "PID 1's resident memory", measured, limit: 4.0, unit: "MB" });
    }
    for (what, subject) in [
        ("core image, own kernel, compressed", Subject::StratosKernel),
        ("core image, Debian's kernel, compressed", Subject::StratosDebianKernel),
    ] {
        let image = row(subject).map(|row| mb(row.image_bytes));
        promises.extend(image.map(|measured| Promise { what, measured, limit: 30.0, unit: "MB" }));
    }
    promises
}

fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn image_bytes(subject: Subject, images: &Images) -> Result<u64> {
    match subject.kernel() {
        Some(kernel) => core_bytes(images.stratos(kernel).context("its image is missing")?.manifest()),
        None => Ok(images.debian().context("its image is missing")?.described.compressed_bytes),
    }
}

/// Compressed bytes of what an image has beside the runtimes.
fn core_bytes(manifest: &ImageManifest) -> Result<u64> {
    let size = |name: &str| {
        let file = manifest.files.iter().find(|file| file.name == name);
        file.map(|file| file.compressed).with_context(|| format!("{} has no {name}", manifest.folder))
    };
    CORE.into_iter().map(size).sum()
}

fn row(subject: Subject, image_bytes: u64, booted: &[Booted]) -> Row {
    let sample = |time: fn(&Booted) -> Duration| Sample::new(booted.iter().map(time).collect());
    let totals = sample(|boot| boot.total);
    let ready: Option<Vec<Duration>> = booted.iter().map(|boot| boot.ready).collect();
    Row {
        bench: "boot",
        subject,
        n: totals.len(),
        min_s: seconds(totals.min()),
        p50_s: seconds(totals.quantile(50)),
        p95_s: seconds(totals.quantile(95)),
        cpu_s: seconds(sample(|boot| boot.cpu).quantile(50)),
        image_bytes,
        ready_p50_s: ready.map(|times| seconds(Sample::new(times).quantile(50))),
        init_rss_kb: booted.iter().filter_map(|boot| boot.init_rss_kb).max(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boots(ms: [u64; 3], stratos: bool) -> Vec<Booted> {
        let booted = |ms| Booted {
            total: Duration::from_millis(ms),
            cpu: Duration::from_millis(2 * ms),
            ready: stratos.then(|| Duration::from_millis(ms - 500)),
            init_rss_kb: stratos.then_some(ms),
        };
        ms.map(booted).to_vec()
    }

    #[test]
    fn rows_are_as_promised() {
        assert_eq!(
            serde_json::to_string(&row(Subject::DebianSystemd, 7, &boots([3000, 1000, 2000], false)))
                .unwrap(),
            r#"{"bench":"boot","subject":"debian-systemd","n":3,"min_s":1.0,"p50_s":2.0,"p95_s":3.0,"cpu_s":4.0,"image_bytes":7}"#
        );
        let row = serde_json::to_value(row(Subject::StratosKernel, 7, &boots([3000, 1000, 2000], true)));
        let row = row.unwrap();
        assert_eq!((&row["ready_p50_s"], &row["init_rss_kb"]), (&1.5.into(), &3000.into()));
        for subject in Subject::value_variants() {
            assert_eq!(serde_json::to_value(subject).unwrap(), subject.name());
        }
    }

    #[test]
    fn promises_are_of_what_was_measured() {
        let systemd = row(Subject::DebianSystemd, 0, &boots([40_000; 3], false));
        let own = row(Subject::StratosKernel, 20_000_000, &boots([4000; 3], true));
        let what = |rows: &[Row], init| {
            let kept = kept(rows, init);
            kept.iter().map(|p| format!("{} {:.2}", p.what, p.measured)).collect::<Vec<_>>().join(", ")
        };
        assert_eq!(what(std::slice::from_ref(&systemd), None), "");
        assert_eq!(
            what(&[systemd, own], Some(2_000_000)),
            "own kernel against systemd, p50 0.10, PID 1's program 2.00, PID 1's resident memory 4.10, \
             core image, own kernel, compressed 20.00"
        );
    }
}
