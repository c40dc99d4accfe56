//! Names of the machine's architecture.

/// Debian's name, such as `amd64`.
pub fn debian() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The folder of shared libraries, such as `x86_64-linux-gnu`.
pub(crate) fn triplet() -> String {
    format!("{}-linux-gnu", std::env::consts::ARCH)
}
