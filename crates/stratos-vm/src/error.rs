//! What goes wrong with a machine, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use stratos_types::KernelChoice;

use crate::console::ConsoleTail;

/// Why there is no machine, or none that works.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VmError {
    /// A program that machines need cannot be started.
    #[error("cannot start {program}")]
    NoProgram {
        /// Which.
        program: &'static str,
        /// The Debian package it is in.
        package: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// No image with this kernel was built.
    #[error("there is no image with the {kernel} kernel in {}", .folder.display())]
    NoImage {
        /// Which kernel.
        kernel: KernelChoice,
        /// Where images are.
        folder: PathBuf,
    },
    /// The image's description is not one.
    #[error("cannot understand {}", .path.display())]
    Manifest {
        /// The description.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The image lacks a file that this way of booting needs.
    #[error("the image with the {kernel} kernel has no {name}")]
    NoFile {
        /// The image's kernel.
        kernel: KernelChoice,
        /// The file.
        name: String,
    },
    /// The image was built without the debug layer.
    #[error("the image with the {kernel} kernel was built without the debug layer")]
    NoDebug {
        /// The image's kernel.
        kernel: KernelChoice,
    },
    /// The settings do not go together.
    #[error("{0}")]
    Settings(String),
    /// No UEFI firmware for virtual machines is installed.
    #[error("there is no UEFI firmware for virtual machines")]
    NoFirmware,
    /// A file could not be read or written.
    #[error("cannot {action} {}", .path.display())]
    File {
        /// What was tried, such as `write`.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The disk over the image could not be made or read.
    #[error("qemu-img cannot use {}: {output}", .path.display())]
    Disk {
        /// The disk.
        path: PathBuf,
        /// What it said.
        output: String,
    },
    /// The disk was begun with another image.
    #[error("{} goes on from {}, and not from {}", file.display(), base.display(), image.display())]
    OtherImage {
        /// The disk.
        file: PathBuf,
        /// Its image.
        base: PathBuf,
        /// The image that was to be booted.
        image: PathBuf,
    },
    /// The port on this machine is taken.
    #[error("port {port} of this machine is taken")]
    PortTaken {
        /// The port.
        port: u16,
    },
    /// QEMU ended before the machine could be spoken to.
    #[error("QEMU ended at once ({status}): {output}")]
    Refused {
        /// How.
        status: ExitStatus,
        /// What it said.
        output: String,
    },
    /// The machine ended while something was expected of it.
    #[error("the machine ended ({status}) before {awaited}")]
    Ended {
        /// How QEMU ended.
        status: ExitStatus,
        /// What was expected.
        awaited: String,
        /// The end of its console.
        source: ConsoleTail,
    },
    /// The guest's kernel gave up.
    #[error("the machine's kernel panicked before {awaited}")]
    Panicked {
        /// What was expected.
        awaited: String,
        /// The end of its console.
        source: ConsoleTail,
    },
    /// Something did not come in time.
    #[error("the machine took more than {} s without {awaited}", .limit.as_secs())]
    TooLate {
        /// How long it was waited for.
        limit: Duration,
        /// What was expected.
        awaited: String,
        /// The end of its console.
        source: ConsoleTail,
    },
    /// The monitor did not do what it was asked.
    #[error("QEMU's monitor failed at {command}: {problem}")]
    Monitor {
        /// What it was asked.
        command: String,
        /// What came back.
        problem: String,
    },
    /// The certificate could not be made.
    #[error("cannot make a certificate for the machine")]
    Certificate(#[from] rcgen::Error),
    /// The configuration cannot be written down.
    #[error("cannot write the node's configuration")]
    Config(#[from] toml::ser::Error),
    /// No snapshot of a machine like this.
    #[error("there is no snapshot of such a machine with the {kernel} kernel")]
    NoSnapshot {
        /// Which kernel.
        kernel: KernelChoice,
    },
    /// The client of the node's API could not be made.
    #[error("cannot make a client of the machine's API")]
    Client(#[from] stratos_api::client::ClientError),
}

impl VmError {
    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoProgram { package, .. } => Some(format!("install the package {package}")),
            Self::NoImage { kernel, .. } | Self::NoFile { kernel, .. } => {
                Some(format!("build it with `stratos image build --kernel {kernel}`"))
            }
            Self::NoDebug { kernel } => {
                Some(format!("build it with `stratos image build --kernel {kernel} --debug`"))
            }
            Self::Manifest { .. } => Some("build the image again with `stratos image build`".into()),
            Self::NoFirmware => Some("install the package ovmf".into()),
            Self::OtherImage { .. } => Some(
                "boot the image that it was begun with, by the version that built it, or begin another disk"
                    .into(),
            ),
            Self::PortTaken { .. } => Some("name another one, or none to have a free one chosen".into()),
            Self::NoSnapshot { kernel } => Some(format!(
                "make one with `stratos image snapshot --kernel {kernel}`, with the same CPUs and memory"
            )),
            _ => None,
        }
    }
}

/// Makes the error of a file, for `map_err`.
pub(crate) fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> VmError {
    move |source| VmError::File { action, path: path.to_owned(), source }
}
