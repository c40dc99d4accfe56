//! `stratos image build`, `ls`: operating system images in this machine's cache.

use std::fs::{File, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use stratos_image::{BuildOptions, build_debug_image, build_image};
use stratos_types::{ImageManifest, KernelChoice};

use super::layer::{Reporter, cache, options};
use crate::args::ImageBuildArgs;
use crate::failure::{Failure, Result};
use crate::output::{Output, Table, note, size};

/// `stratos image build`.
pub(crate) fn build(args: ImageBuildArgs, output: Output) -> Result<()> {
    let reporter = Reporter::new(output);
    let options = BuildOptions { locked: args.locked, ..options(args.layer, &reporter)? };
    let build = if args.debug { build_debug_image } else { build_image };
    let mut manifest = build(args.kernel, &options)?;
    if !args.debug {
        // An earlier build of the same inputs may have left it beside the image.
        manifest.files.retain(|file| file.name != "debug.img");
        manifest.debug_root_hash = None;
    }
    let folder = options.cache.join("images").join(&manifest.folder);
    drop(reporter);
    if let Some(to) = &args.output {
        copy(&manifest, &folder, to)?;
    }
    if output.json {
        return output.document(&manifest);
    }
    output.bytes(report(&manifest).as_bytes())?;
    output.line(&format!("folder     {}", args.output.as_deref().unwrap_or(&folder).display()))
}

/// `stratos image ls`.
pub(crate) fn list(output: Output) -> Result<()> {
    let folder = cache()?.join("images");
    let mut manifests = Vec::new();
    for kernel in KernelChoice::ALL {
        let file = folder.join(format!("{kernel}.json"));
        let failed =
            |e: &dyn std::error::Error| Failure::new(format!("cannot read {}", file.display())).because(e);
        match std::fs::read(&file) {
            Ok(bytes) => manifests.push(serde_json::from_slice::<ImageManifest>(&bytes).map_err(|e| {
                failed(&e).hint(format!("build it again with `stratos image build --kernel {kernel}`"))
            })?),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed(&e)),
        }
    }
    if output.json {
        return output.document(&manifests);
    }
    if manifests.is_empty() {
        note("no images yet; build one with `stratos image build`");
        return Ok(());
    }
    let mut table = Table::new(&["KERNEL", "KERNEL VERSION", "STRATOS", "SHIPPED", "ROOT HASH"], &[3]);
    for m in manifests {
        let shipped = m.files.iter().find(|file| file.name == "disk.img").map_or(0, |disk| disk.compressed);
        table.row([m.kernel.to_string(), m.kernel_version, m.version, size(shipped), m.root_hash.hex()]);
    }
    output.bytes(table.render().as_bytes())
}

/// The files with their sizes, and what identifies the image.
fn report(manifest: &ImageManifest) -> String {
    let mut table = Table::new(&["FILE", "SIZE", "COMPRESSED"], &[1, 2]);
    let mut row = |name: &str, bytes: u64, compressed: u64| {
        table.row([name.to_owned(), size(bytes), size(compressed)]);
    };
    let sum = |part: &dyn Fn(&str) -> bool| {
        let files = manifest.files.iter().filter(|file| part(&file.name));
        files.fold((0, 0), |sum, file| (sum.0 + file.size, sum.1 + file.compressed))
    };
    for file in manifest.files.iter().filter(|file| !file.name.contains('/')) {
        row(&file.name, file.size, file.compressed);
    }
    let oci = sum(&|name| name.starts_with("oci/"));
    row("oci/", oci.0, oci.1);
    let core = sum(&|name| ["vmlinuz", "initramfs.img", "root.erofs"].contains(&name));
    row("kernel, initramfs and root", core.0, core.1);
    let mut text = table.render();
    text += &format!("\nkernel     {}\nroot hash  {}\n", manifest.kernel_version, manifest.root_hash.hex());
    if let Some(debug) = manifest.debug_root_hash {
        text += &format!("debug hash {}\n", debug.hex());
    }
    text
}

/// Copies the image's files to a folder. A disk is mostly zeros: those are left out.
fn copy(manifest: &ImageManifest, from: &Path, to: &Path) -> Result<()> {
    for file in &manifest.files {
        let place = to.join(&file.name);
        let copied = (|| {
            let folder = place.parent().unwrap_or(to);
            std::fs::create_dir_all(folder)?;
            // Whole or not at all: half a disk begins as a whole one does.
            let mut new = tempfile::NamedTempFile::new_in(folder)?;
            copy_sparse(&from.join(&file.name), new.as_file_mut())?;
            new.as_file().set_permissions(Permissions::from_mode(0o644))?;
            new.as_file().sync_all()?;
            new.persist(&place).map(drop).map_err(|error| error.error)
        })();
        copied.map_err(|e| Failure::new(format!("cannot copy to {}", place.display())).because(&e))?;
    }
    Ok(())
}

fn copy_sparse(from: &Path, out: &mut File) -> io::Result<()> {
    let mut from = File::open(from)?;
    let mut chunk = vec![0; 1 << 20];
    let mut length = 0;
    loop {
        let n = from.read(&mut chunk)?;
        if n == 0 {
            return out.set_len(length);
        }
        if chunk[..n].iter().any(|byte| *byte != 0) {
            out.seek(SeekFrom::Start(length))?;
            out.write_all(&chunk[..n])?;
        }
        length += n as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stratos_types::{Digest, ImageFile};

    fn manifest() -> ImageManifest {
        let file = |name: &str, size, compressed| ImageFile {
            name: name.to_owned(),
            size,
            compressed,
            digest: Digest::of(name.as_bytes()),
        };
        ImageManifest {
            version: "0.1.0".to_owned(),
            arch: "amd64".to_owned(),
            kernel: KernelChoice::Debian,
            kernel_version: "6.12".to_owned(),
            inputs_digest: Digest::of(b""),
            folder: "debian-0".to_owned(),
            root_hash: Digest::from_bytes([0xAB; 32]),
            debug_root_hash: None,
            cmdline: "quiet".to_owned(),
            files: vec![
                file("disk.img", 1 << 30, 90 << 20),
                file("initramfs.img", 1 << 20, 1 << 20),
                file("oci/index.json", 100, 90),
                file("oci/oci-layout", 30, 40),
                file("root.erofs", 6 << 20, 5 << 20),
                file("vmlinuz", 11 << 20, 11 << 20),
            ],
        }
    }

    #[test]
    fn a_report_sums_what_belongs_together() {
        let expected = format!("{TABLE}\nkernel     6.12\nroot hash  {}\n", "ab".repeat(32));
        assert_eq!(report(&manifest()), expected);
    }

    const TABLE: &str = "\
FILE                           SIZE  COMPRESSED
disk.img                    1.0 GiB      90 MiB
initramfs.img               1.0 MiB     1.0 MiB
root.erofs                  6.0 MiB     5.0 MiB
vmlinuz                      11 MiB      11 MiB
oci/                          130 B       130 B
kernel, initramfs and root   18 MiB      17 MiB
";

    #[test]
    fn copies_are_whole_and_sparse() {
        use std::os::unix::fs::MetadataExt as _;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        let mut content = vec![0; (8 << 20) + 5];
        content[3 << 20] = 1;
        std::fs::write(&from, &content).expect("it is written");
        copy_sparse(&from, &mut File::create(&to).expect("a file")).expect("it is copied");
        assert!(std::fs::read(&to).expect("it is there") == content);
        let blocks = std::fs::metadata(&to).expect("it is there").blocks();
        assert!(blocks * 512 < 4 << 20, "{blocks} blocks");
    }
}
