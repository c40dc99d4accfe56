//! What the compiler expects of a C library.

use core::arch::asm;

/// Copies bytes between places that do not overlap.
///
/// # Safety
/// Both are valid for that many bytes.
pub unsafe fn copy(to: *mut u8, from: *const u8, bytes: usize) {
    // SAFETY: the caller's promise. The direction flag is clear, as the calling convention has it.
    unsafe {
        asm!("rep movsb", inout("rcx") bytes => _, inout("rdi") to => _, inout("rsi") from => _, options(nostack, preserves_flags));
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, bytes: usize) -> *mut u8 {
    // SAFETY: the contract of memcpy(3).
    unsafe { copy(to, from, bytes) };
    to
}

/// Makes bytes zero.
///
/// # Safety
/// They can be written.
pub unsafe fn clear(to: *mut u8, bytes: usize) {
    // SAFETY: the caller's promise.
    unsafe { set(to, 0, bytes) };
}

/// # Safety
/// The bytes can be written.
unsafe fn set(to: *mut u8, value: u8, bytes: usize) {
    // SAFETY: the caller's promise. The direction flag is clear, as the calling convention has it.
    unsafe {
        asm!("rep stosb", inout("rcx") bytes => _, inout("rdi") to => _, in("al") value, options(nostack, preserves_flags));
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, bytes: usize) -> *mut u8 {
    // SAFETY: the contract of memset(3).
    unsafe { set(to, value as u8, bytes) };
    to
}
