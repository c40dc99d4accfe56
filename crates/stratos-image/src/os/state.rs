//! The state partition: an empty ext4 file system that a node grows to its disk's end at boot.

use std::path::Path;

use super::error::ImageError;
use super::seed::Seed;
use crate::run;

/// Where the program and its configuration are in their tree.
const MKE2FS: &str = "usr/sbin/mke2fs";
const CONFIGURATION: &str = "etc/mke2fs.conf";

/// Options of the file system, each with its reason.
const OPTIONS: &[(&str, &str, &str)] = &[
    ("-t", "ext4", "survives a power cut, and grows while it is mounted"),
    (
        "-b",
        "4096",
        "the size of a page; small file systems would get smaller blocks, and keep them when they grow",
    ),
    ("-I", "256", "room for times in nanoseconds; small file systems would get less"),
    ("-i", "16384", "inodes as a large file system has them, not as one of 64 MiB"),
    ("-m", "0", "nobody but root writes here, so nothing need be kept back for root"),
    ("-J", "size=8", "a journal that is large enough for the disk it will be on"),
    ("-L", "stratos-state", "what a person sees"),
    // Growing beyond what resize_inode has kept back makes the kernel go over to meta_bg by itself.
    ("-O", "resize_inode,64bit,metadata_csum,extent,flex_bg", "growth without unmounting; checked metadata"),
];

/// Makes the file system in a part of `disk`. `tools` holds `mke2fs`.
pub(crate) fn write(
    disk: &Path,
    (start, size): (u64, u64),
    seed: Seed,
    tools: &Path,
) -> Result<(), ImageError> {
    let fail = |source| ImageError::Run { step: "making the state partition's file system", source };
    let mut command = run::tree_command(tools, MKE2FS).map_err(fail)?;
    let extended = format!(
        "offset={start},hash_seed={},lazy_itable_init=1,nodiscard,root_owner=0:0",
        seed.uuid("hash seed")
    );
    command.args(["-q", "-F"]).args(OPTIONS.iter().flat_map(|(option, value, _)| [option, value]));
    command.args(["-U", &seed.uuid("state file system").to_string(), "-E", &extended]);
    command.arg(disk).arg((size / 4096).to_string());
    // The host's configuration and clock must not show.
    command.env("MKE2FS_CONFIG", tools.join(CONFIGURATION));
    command.env("E2FSPROGS_FAKE_TIME", "1").env("SOURCE_DATE_EPOCH", "1");
    run::output(&mut command).map_err(fail)?;
    Ok(())
}
