//! `stratos image kernel`: a kernel alone, in this machine's cache.

use serde_json::json;
use stratos_image::{BuildOptions, build_kernel};

use super::layer::{Reporter, options};
use crate::args::KernelArgs;
use crate::failure::{Failure, Result};
use crate::output::{Output, Table, size};

/// `stratos image kernel`.
pub(crate) fn run(args: KernelArgs, output: Output) -> Result<()> {
    let reporter = Reporter::new(output);
    let options = BuildOptions { locked: args.locked, ..options(args.layer, &reporter)? };
    let kernel = build_kernel(args.kernel, &options)?;
    drop(reporter);
    let image = std::fs::metadata(&kernel.image)
        .map_err(|e| Failure::new(format!("cannot read {}", kernel.image.display())).because(&e))?;
    if output.json {
        return output.document(&json!({
            "kernel": args.kernel,
            "version": kernel.version,
            "owner": kernel.owner,
            "image": kernel.image,
            "size": image.len(),
            "vmlinux": kernel.vmlinux,
            "modules": kernel.modules,
            "digest": kernel.digest,
        }));
    }
    let mut table = Table::new(&["KERNEL", "VERSION", "SIZE", "IMAGE"], &[2]);
    table.row([
        args.kernel.to_string(),
        kernel.version,
        size(image.len()),
        kernel.image.display().to_string(),
    ]);
    output.bytes(table.render().as_bytes())
}
