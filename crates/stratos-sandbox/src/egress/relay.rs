//! Copying between the two sides of a connection.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;

/// Copies both ways until both sides have finished; returns the bytes sent and received by the instance. When one side
/// breaks, the other is reset, so that a cut answer is never taken for a whole one.
///
/// There is no limit on idle time: a pooled database connection may rest for hours. A far side that has vanished
/// is found by keepalive within two minutes; the near side cannot vanish without its gateway.
pub(super) async fn relay(mut near: TcpStream, mut far: TcpStream) -> io::Result<(u64, u64)> {
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    sockopt::set_socket_keepalive(&far, true)?;
    sockopt::set_tcp_keepidle(&far, Duration::from_secs(60))?;
    sockopt::set_tcp_keepintvl(&far, Duration::from_secs(15))?;
    sockopt::set_tcp_keepcnt(&far, 4)?;
    let copied = copy_bidirectional(&mut near, &mut far).await;
    if copied.is_err() {
        reset(near);
        reset(far);
    }
    copied
}

/// Closes a connection with a reset instead of an orderly end.
pub(super) fn reset(stream: TcpStream) {
    if let Err(errno) = sockopt::set_socket_linger(stream.as_fd(), Some(Duration::ZERO)) {
        // The close that follows is then an orderly one; the other side still learns that it is over.
        tracing::debug!(%errno, "cannot make a close a reset");
    }
}
