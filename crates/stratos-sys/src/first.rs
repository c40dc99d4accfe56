//! What has to hold before Rust's runtime begins in the first process of a machine.
//!
//! The runtime makes sure that the descriptors 0 to 2 are open, and ends the process when it cannot. The kernel starts
//! PID 1 without them when it has no console, in a root without `/dev/null`; the end of PID 1 is the machine's.

/// Whether this process is the machine's first. A program that calls this gets, when it is, descriptors 0 to 2 before
/// its `main` begins.
pub fn is_first() -> bool {
    // The address keeps the object with the constructor below in the program.
    let constructor = std::hint::black_box(&raw const CONSTRUCTOR);
    !constructor.is_null() && std::process::id() == 1
}

#[used]
// SAFETY: the section is an array of functions of this signature, which the C library calls before `main`.
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = open_missing;

extern "C" fn open_missing() {
    // SAFETY: system calls on numbers and on texts that end with zero. At this moment the process has one thread, and
    // a descriptor made here takes the lowest free number, which is a missing one of 0 to 2.
    unsafe {
        if libc::getpid() != 1 {
            return;
        }
        for fd in 0..3 {
            if libc::fcntl(fd, libc::F_GETFD) >= 0 {
                continue;
            }
            let null = c"/dev/null";
            if libc::open(null.as_ptr(), libc::O_RDWR) < 0 {
                // The initial root has nothing but us, perhaps not even /dev.
                libc::mkdir(c"/dev".as_ptr(), 0o755);
                libc::mknod(null.as_ptr(), libc::S_IFCHR | 0o666, libc::makedev(1, 3));
                libc::open(null.as_ptr(), libc::O_RDWR);
            }
        }
    }
}
