//! A connection that knows when a request began to arrive and when its answer was written, for the phases of invocations.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use stratos_telemetry::Late;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// When a request began to arrive: with the last bytes that were read before it was given to its handler. A head comes in
/// one read, unless its client is slow, whose time is its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Began(pub(super) Instant);

/// The answer to an invocation, which was there at this time: who is to be told once it is written.
#[derive(Debug, Clone)]
pub(super) struct Answered(pub(super) Instant, pub(super) Arc<Late>);

/// The times of a connection, shared by what reads and writes and what answers.
#[derive(Debug)]
pub(super) struct Times {
    opened: Instant,
    /// When bytes were read last, microseconds after the connection was opened.
    read_us: AtomicU64,
    writing: Mutex<Option<Writing>>,
}

/// An answer that is being written.
#[derive(Debug)]
struct Writing {
    answered: Answered,
    /// When the last of it was given to the kernel.
    written: Instant,
}

impl Times {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { opened: Instant::now(), read_us: AtomicU64::new(0), writing: Mutex::default() })
    }

    /// When the request that is to be answered now began to arrive.
    pub(super) fn began(&self) -> Began {
        Began(self.opened + Duration::from_micros(self.read_us.load(Ordering::Relaxed)))
    }

    /// An answer is about to be written.
    pub(super) fn writes(&self, answered: Answered) {
        let writing = Writing { written: answered.0, answered };
        *self.writing() = Some(writing);
    }

    fn writing(&self) -> MutexGuard<'_, Option<Writing>> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_read(&self, at: Instant) {
        let us = at.saturating_duration_since(self.opened).as_micros() as u64;
        self.read_us.store(us, Ordering::Relaxed);
    }

    /// The moment before: once some is written, whoever waits for it may run in place of this thread, and what passes then
    /// is no part of the answer's way.
    fn writes_some(&self) {
        if let Some(writing) = self.writing().as_mut() {
            writing.written = Instant::now();
        }
    }

    fn has_written_all(&self) {
        if let Some(Writing { answered: Answered(at, late), written }) = self.writing().take() {
            late.responded(written.saturating_duration_since(at).as_micros() as u64);
        }
    }
}

/// A stream whose times are noted.
pub(super) struct Timed<S> {
    inner: S,
    times: Arc<Times>,
}

impl<S> Timed<S> {
    pub(super) fn new(inner: S, times: Arc<Times>) -> Self {
        Self { inner, times }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (before, at) = (buffer.filled().len(), Instant::now());
        let read = Pin::new(&mut self.inner).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.times.has_read(at);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.times.writes_some();
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(context);
        if flushed.is_ready() {
            // HTTP flushes once all that it has of an answer is written.
            self.times.has_written_all();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.times.writes_some();
        Pin::new(&mut self.inner).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use stratos_api::InvocationRecord;
    use stratos_telemetry::Ended;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn an_answer_is_written_with_its_last_piece_and_once() {
        let (mut client, server) = tokio::io::duplex(8);
        let times = Times::new();
        let mut server = Timed::new(server, Arc::clone(&times));
        let opened = times.began().0;
        client.write_all(b"ask").await.unwrap();
        server.read_exact(&mut [0; 3]).await.unwrap();
        let began = times.began().0;
        assert!(began >= opened && began <= Instant::now());

        let late = Arc::new(Late::default());
        let ended = Ended::new(InvocationRecord::default(), None, None, Arc::clone(&late));
        let long_ago = Instant::now() - Duration::from_secs(1);
        times.writes(Answered(long_ago, late));
        server.write_all(b"answer").await.unwrap();
        assert_eq!(ended.record_now().phases.respond_us, 0, "there may be more of it");
        server.flush().await.unwrap();
        let told = ended.record_now().phases.respond_us;
        assert!(told >= 1_000_000, "{told}");
        client.read_exact(&mut [0; 6]).await.unwrap();
        // What is written for others later is none of this answer.
        server.write_all(b"another").await.unwrap();
        server.flush().await.unwrap();
        assert_eq!(ended.record_now().phases.respond_us, told);
    }
}
