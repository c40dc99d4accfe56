//! What the processor says of itself.

/// Parts of the extended state that a process only has after it has asked for them: AMX tile data.
pub const EXTENDED_ON_REQUEST: u64 = 1 << 18;

/// Bytes of the extended state in the standard format of XSAVE with these parts, bit by bit as in XCR0 (Intel SDM, volume 1,
/// 13.4.3: offset and size of each part are in CPUID leaf 0x0d).
#[cfg(target_arch = "x86_64")]
#[allow(unused_unsafe, reason = "CPUID is a safe call only in newer compilers")]
pub fn extended_state_bytes(parts: u64) -> usize {
    /// The legacy part and the header.
    const FIRST: u32 = 512 + 64;
    const LEAF: u32 = 0x0d;
    let end = |part: u32| {
        // SAFETY: every x86-64 processor has CPUID, and the leaf is there where the kernel has told of such parts.
        let about = unsafe { core::arch::x86_64::__cpuid_count(LEAF, part) };
        about.eax + about.ebx
    };
    (2..64).filter(|part| parts >> part & 1 == 1).map(end).fold(FIRST, u32::max) as usize
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn avx_comes_after_the_first_parts() {
        assert_eq!(extended_state_bytes(0b11), 576);
        if std::arch::is_x86_feature_detected!("avx") {
            assert_eq!(extended_state_bytes(0b111), 576 + 256);
        }
    }
}
