//! Fuzz targets: each takes any bytes, gives them to one parser of untrusted input, and asserts what must hold
//! whatever the bytes are: not only that nothing panics, but that what is accepted means the same when it is written
//! and read again, that limits hold, and that no path leads out.
//!
//! The programs in `fuzz_targets/` run a target under libFuzzer; `tests/tests/fuzz_smoke.rs` runs every target of
//! [`TARGETS`] over its corpus and some mutations of it, on the stable toolchain. A target reads and writes nothing
//! but a temporary folder of its own.

mod artifact;
mod boot;
mod checkpoint;
mod console;
mod deploy;
mod http;
mod layers;
mod machine;
pub mod mutate;
mod package;
mod sandbox;
mod spec;
mod telemetry;
mod text;
mod wire;

use std::path::{Path, PathBuf};

pub use artifact::artifact;
pub use boot::{boot_config, boot_dhcp, boot_gpt, boot_nocloud, boot_smbios, boot_sntp, boot_verity};
pub use checkpoint::{checkpoint, go_program};
pub use console::console;
pub use deploy::{elf, infer, requirements};
pub use http::{aws_name, prelude, sigv4, url_answer, url_event};
pub use layers::layers;
pub use machine::machine;
pub use package::{package_entry, unpack, unpack_entries};
pub use sandbox::{dns, seccomp};
pub use spec::function_spec;
pub use telemetry::{caller_trace, telemetry};
pub use text::{egress_rule, endpoint, identifiers, trace_context};
pub use wire::{error_report, wire};

/// A target: panics when a property does not hold.
pub type Target = fn(&[u8]);

/// Every target by its name, which is also that of its program in `fuzz_targets/` and of its folder in `corpus/`.
pub const TARGETS: &[(&str, Target)] = &[
    ("artifact", artifact),
    ("aws_name", aws_name),
    ("boot_config", boot_config),
    ("boot_dhcp", boot_dhcp),
    ("boot_gpt", boot_gpt),
    ("boot_nocloud", boot_nocloud),
    ("boot_smbios", boot_smbios),
    ("boot_sntp", boot_sntp),
    ("boot_verity", boot_verity),
    ("caller_trace", caller_trace),
    ("checkpoint", checkpoint),
    ("console", console),
    ("dns", dns),
    ("egress_rule", egress_rule),
    ("elf", elf),
    ("endpoint", endpoint),
    ("error_report", error_report),
    ("function_spec", function_spec),
    ("go_program", go_program),
    ("identifiers", identifiers),
    ("infer", infer),
    ("layers", layers),
    ("machine", machine),
    ("package_entry", package_entry),
    ("prelude", prelude),
    ("requirements", requirements),
    ("seccomp", seccomp),
    ("sigv4", sigv4),
    ("telemetry", telemetry),
    ("trace_context", trace_context),
    ("unpack", unpack),
    ("unpack_entries", unpack_entries),
    ("url_answer", url_answer),
    ("url_event", url_event),
    ("wire", wire),
];

/// This crate's folder.
pub fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The seeds of a target: each file of its folder in `corpus/`, sorted by name.
///
/// # Errors
/// When the folder or a file in it cannot be read.
pub fn corpus(target: &str) -> std::io::Result<Vec<Vec<u8>>> {
    let mut files = Vec::<PathBuf>::new();
    for entry in std::fs::read_dir(folder().join("corpus").join(target))? {
        files.push(entry?.path());
    }
    files.sort();
    files.iter().map(std::fs::read).collect()
}
