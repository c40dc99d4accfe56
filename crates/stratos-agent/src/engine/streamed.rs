//! Bodies on their way: answers that keep their place in an instance until they end, and requests whose end is known.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::client::conn::http1::SendRequest;
use stratos_api::{ApiError, ErrorCode};
use stratos_types::FunctionSpec;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use super::failure::{self, During, EndReason};
use super::instance::WayIn;
use super::invoke::{DEATH_NEWS, Run};
use super::pool::Lease;
use super::runtime_api::StreamError;
use crate::body::{BoxBody, BoxError};

/// A handler's streaming answer as a body.
pub(super) struct ChunkBody(pub(super) mpsc::Receiver<Result<Bytes, StreamError>>);

impl Body for ChunkBody {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        self.0.poll_recv(context).map(|item| item.map(|chunk| chunk.map(Frame::data)))
    }
}

/// Where an answer comes from, and so when its place in the instance is free again.
pub(super) enum Source {
    /// A handler: when this resolves. It goes on sending when the caller has gone, and takes no request meanwhile.
    Handler(oneshot::Receiver<()>),
    /// A server: with the answer's end; the connection is used again.
    Port(SendRequest<BoxBody>),
}

/// What is to be done at the end of a streamed answer.
pub(super) struct Finish {
    run: Run,
    lease: Lease,
    source: Source,
    deadline: Instant,
    spec: Arc<FunctionSpec>,
    /// Ends the instance at the deadline even when nobody polls the body: a client that stops reading does that.
    watchdog: AbortHandle,
}

impl Finish {
    pub(super) fn new(
        run: Run,
        lease: Lease,
        source: Source,
        deadline: Instant,
        spec: Arc<FunctionSpec>,
    ) -> Self {
        let instance = Arc::clone(&lease.instance);
        let watchdog = tokio::spawn(async move {
            tokio::time::sleep_until(deadline.into()).await;
            instance.end(EndReason::Timeout);
        });
        Self { run, lease, source, deadline, spec, watchdog: watchdog.abort_handle() }
    }

    fn done(mut self, sent: Sent, error: Option<ApiError>) {
        self.watchdog.abort();
        self.run.meta.phases = self.run.phases(Instant::now() - sent.waited);
        if let (WayIn::Http(port), Source::Port(sender), None) =
            (&self.lease.instance.way_in, self.source, &error)
        {
            port.keep(sender);
        }
        let error = error.map(|e| e.for_invocation(self.run.meta.id));
        self.run.finish(sent.bytes, error.as_ref(), Some(self.lease));
    }

    /// The answer broke off: for want of time, because the process died, or for the function's own reasons.
    async fn broke_off(self, sent: Sent, broken: ApiError) {
        let error = if Instant::now() >= self.deadline {
            failure::timed_out(&self.spec, During::Request)
        } else {
            match tokio::time::timeout(DEATH_NEWS, self.lease.instance.death()).await {
                Ok(death) => death.error(During::Request, self.spec.memory),
                Err(_) => broken,
            }
        };
        self.done(sent, Some(error));
    }

    /// The caller went away. A handler keeps its place until it has sent all, or its time is over.
    async fn abandoned(mut self, sent: Sent) {
        let message = "the caller went away before the end of the answer";
        let error = ApiError::new(ErrorCode::BadRequest, message);
        if let Source::Handler(ended) = &mut self.source {
            // An instance that dies drops its end, which is an end as well; the watchdog sees to it that one comes.
            ended.await.unwrap_or_default();
        }
        self.done(sent, Some(error));
    }
}

/// What of a body has gone out.
#[derive(Debug, Default, Clone, Copy)]
struct Sent {
    bytes: u64,
    /// How long it lay here for a caller that was not ready for it: not the function's time.
    waited: Duration,
    /// When the last of it was given out, until more is asked for.
    given: Option<Instant>,
}

impl Sent {
    fn gives(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.given = Some(Instant::now());
    }

    fn is_asked(&mut self) {
        self.waited += self.given.take().map_or(Duration::ZERO, |given| given.elapsed());
    }
}

/// A body on its way to the caller. It holds the place in the instance until it ends.
pub(super) struct StreamedBody<B> {
    body: B,
    sent: Sent,
    finish: Option<Finish>,
}

impl<B: Body> StreamedBody<B> {
    pub(super) fn new(body: B, finish: Finish) -> Self {
        let mut streamed = Self { body, sent: Sent::default(), finish: Some(finish) };
        streamed.finish_at_end();
        streamed
    }

    /// A body whose length is known is not asked again once all of it was given.
    fn finish_at_end(&mut self) {
        if self.body.is_end_stream()
            && let Some(finish) = self.finish.take()
        {
            finish.done(self.sent, None);
        }
    }
}

impl<B> Body for StreamedBody<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        this.sent.is_asked();
        match Pin::new(&mut this.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                this.sent.gives(frame.data_ref().map_or(0, |data| data.len() as u64));
                this.finish_at_end();
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                let error = error.into();
                if let Some(finish) = this.finish.take() {
                    let broken = ApiError::new(ErrorCode::FunctionBadResponse, "the answer broke off");
                    tokio::spawn(finish.broke_off(this.sent, broken.caused_by(&*error)));
                }
                Poll::Ready(Some(Err(error)))
            }
            Poll::Ready(None) => {
                if let Some(finish) = this.finish.take() {
                    finish.done(this.sent, None);
                }
                Poll::Ready(None)
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        // Only once the end was seen here, so that `finish` is never skipped.
        self.finish.is_none()
    }
}

impl<B> Drop for StreamedBody<B> {
    fn drop(&mut self) {
        let Some(finish) = self.finish.take() else { return };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(finish.abandoned(self.sent))),
            // The node has stopped: nothing is left to be recorded in.
            Err(_) => drop(finish),
        }
    }
}

/// A request's body that tells when all of it was there.
pub(super) struct Tracked {
    body: BoxBody,
    whole: Arc<AtomicBool>,
}

impl Tracked {
    pub(super) fn new(body: BoxBody) -> (Self, Arc<AtomicBool>) {
        let whole = Arc::new(AtomicBool::new(body.is_end_stream()));
        (Self { body, whole: Arc::clone(&whole) }, whole)
    }
}

impl Body for Tracked {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if matches!(frame, Poll::Ready(None)) || frame.is_ready() && self.body.is_end_stream() {
            self.whole.store(true, Ordering::Release);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
