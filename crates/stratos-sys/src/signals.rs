//! Signals as something to read, for a program whose loop waits for descriptors.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// The signals of a set that came, to be read. They are blocked in the calling thread and in threads it starts later:
/// make it before any other thread.
#[derive(Debug)]
pub struct SignalQueue(OwnedFd);

impl SignalQueue {
    /// Blocks the signals with these numbers and queues them.
    ///
    /// # Errors
    /// `EINVAL` for a number that is no signal; when no descriptors are left.
    pub fn new(signals: &[i32]) -> io::Result<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset initialises the set.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        for signal in signals {
            // SAFETY: the set was initialised above.
            if unsafe { libc::sigaddset(set.as_mut_ptr(), *signal) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        // SAFETY: the set is initialised and only read; no place for the old one is asked for.
        let refused = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) };
        if refused != 0 {
            return Err(io::Error::from_raw_os_error(refused));
        }
        // SAFETY: the set is initialised and only read.
        let fd = unsafe { libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just made this descriptor for us.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The next signal that came, if any. Does not wait.
    pub fn next(&self) -> Option<i32> {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::zeroed();
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: the buffer has `size` bytes, all zero before, and any bytes are a `signalfd_siginfo`.
        let (got, info) =
            unsafe { (libc::read(self.0.as_raw_fd(), info.as_mut_ptr().cast(), size), info.assume_init()) };
        (got == size as isize).then_some(info.ssi_signo as i32)
    }
}

impl AsFd for SignalQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_read_once() {
        std::thread::spawn(|| {
            let queue = SignalQueue::new(&[libc::SIGUSR2]).unwrap();
            assert_eq!(queue.next(), None);
            // SAFETY: the signal is blocked in this thread, which it is sent to.
            assert_eq!(unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGUSR2) }, 0);
            assert_eq!(queue.next(), Some(libc::SIGUSR2));
            assert_eq!(queue.next(), None);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_number_that_is_no_signal_is_refused() {
        assert!(SignalQueue::new(&[1000]).is_err());
    }
}
