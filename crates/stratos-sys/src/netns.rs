//! Network namespaces: making them, and doing a thing inside one.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// A network namespace. It lives as long as this, a process in it, or a socket made in it.
#[derive(Debug)]
pub struct NetNs(OwnedFd);

impl NetNs {
    /// The namespace that the calling thread is in.
    ///
    /// # Errors
    /// When /proc is not mounted.
    pub fn current() -> io::Result<Self> {
        Ok(Self(File::open("/proc/thread-self/ns/net")?.into()))
    }

    /// Makes a namespace that holds nothing but a loopback interface, which is up. Takes about 2 ms.
    ///
    /// # Errors
    /// `EPERM` without CAP_SYS_ADMIN, `ENOSPC` at the kernel's limit of namespaces.
    pub fn create() -> io::Result<Self> {
        let home = Home::remember()?;
        // SAFETY: the hazard of unshare is CLONE_FILES; a network namespace only decides where new sockets live.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
        let made = Self::current();
        let up = loopback_up();
        home.enter();
        let made = made?;
        up?;
        Ok(made)
    }

    /// Runs `work` on the calling thread inside this namespace: sockets that it makes live there. Takes a few
    /// microseconds besides `work`, which must not wait for another task of the same thread.
    ///
    /// # Errors
    /// When the namespace cannot be entered; `work` has not run then.
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> io::Result<T> {
        let home = Home::remember()?;
        move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))?;
        let result = work();
        home.enter();
        Ok(result)
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The namespace to go back to. Goes back also when `work` panics.
struct Home(NetNs);

impl Home {
    fn remember() -> io::Result<Self> {
        Ok(Self(NetNs::current()?))
    }

    fn enter(self) {
        drop(self);
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Err(errno) = move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network)) {
            // A thread left in an instance's namespace would make the agent's next sockets there, within reach of a
            // tenant. There is no way to go on.
            eprintln!("fatal: cannot leave a network namespace: {errno}");
            std::process::abort();
        }
    }
}

/// Sets the flag "up" on the loopback interface of the calling thread's namespace.
fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: `ifreq` is a plain C structure for which all zeros is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one `ifreq`, whose name ends with zero and whose flags are set.
    let failed = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A TCP socket of the calling thread's namespace with a connect to `127.0.0.1:port` under way: not blocking, closed
/// on exec. It turns writable when the connect has succeeded or failed.
///
/// # Errors
/// `ECONNREFUSED` at once when nobody listens, or what the kernel says of the socket.
pub fn connect_loopback(port: u16) -> io::Result<std::net::TcpStream> {
    use rustix::net::{AddressFamily, SocketAddrV4, SocketFlags, SocketType, connect, socket_with};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    match connect(&socket, &SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, port)) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(socket.into()),
        Err(errno) => Err(errno.into()),
    }
}
