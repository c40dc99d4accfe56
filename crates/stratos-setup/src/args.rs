//! Argument and environment vectors for execve, checked when they are made rather than when they are used.

use core::ffi::{CStr, c_char};
use core::marker::PhantomData;
use core::ptr;

/// A pointer to a C string that lives for `'a`, or null. Has the layout of `*const c_char`.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct CStrPtr<'a> {
    pointer: *const c_char,
    lifetime: PhantomData<&'a CStr>,
}

// SAFETY: this is a shared reference to bytes that never change while it lives, written in another way.
unsafe impl Send for CStrPtr<'_> {}
// SAFETY: as above.
unsafe impl Sync for CStrPtr<'_> {}

impl<'a> CStrPtr<'a> {
    /// The null pointer that ends a vector.
    pub const NULL: Self = Self { pointer: ptr::null(), lifetime: PhantomData };

    /// The string, unless this is the null pointer.
    pub fn get(self) -> Option<&'a CStr> {
        // SAFETY: a pointer that is not null was made from a `&'a CStr`, in the only constructor there is.
        (!self.pointer.is_null()).then(|| unsafe { CStr::from_ptr(self.pointer) })
    }
}

impl<'a> From<&'a CStr> for CStrPtr<'a> {
    fn from(text: &'a CStr) -> Self {
        Self { pointer: text.as_ptr(), lifetime: PhantomData }
    }
}

/// A vector of C strings that ends with null, as execve wants it.
#[derive(Clone, Copy, Debug)]
pub struct ArgList<'a>(&'a [CStrPtr<'a>]);

impl<'a> ArgList<'a> {
    /// Accepts `slots` when its last element is null and no other is, else `None`.
    pub fn new(slots: &'a [CStrPtr<'a>]) -> Option<Self> {
        let (last, rest) = slots.split_last()?;
        let well_formed = last.pointer.is_null() && rest.iter().all(|slot| !slot.pointer.is_null());
        well_formed.then_some(Self(slots))
    }

    pub(crate) fn as_ptr(&self) -> *const CStrPtr<'a> {
        self.0.as_ptr()
    }
}
