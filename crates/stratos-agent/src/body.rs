//! HTTP bodies as the agent passes them around, and reading them with limits.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Any error, as bodies carry it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A body of any origin: collected, streamed by a client, or streamed by a function.
pub type BoxBody = UnsyncBoxBody<Bytes, BoxError>;

/// Largest payload of an invocation, and largest answer of a handler, in bytes: AWS Lambda's limit.
pub const MAX_PAYLOAD: usize = 6 << 20;

/// What of a refused body is still read, in bytes and time, so that a client that sends all before it reads gets its
/// answer rather than a connection reset.
const DISCARD_LIMIT: usize = 64 << 20;
const DISCARD_TIME: Duration = Duration::from_secs(10);

/// What of every body is read without a share of a budget. So clients that only announce large bodies take nothing, and
/// small payloads never wait for large ones.
const FREE: usize = 64 << 10;

/// What all bodies on their way into memory may take together.
static READING: Budget = Budget::new(256 << 20);

/// A bound on the memory of bodies that are being read at the same time. Who finds nothing left waits, in order.
#[derive(Debug)]
pub struct Budget {
    kib: Semaphore,
    total: usize,
}

impl Budget {
    /// A budget of so many bytes, counted in whole KiB. A body larger than all of it takes all of it.
    pub const fn new(bytes: usize) -> Self {
        let total = bytes >> 10;
        Self { kib: Semaphore::const_new(total), total }
    }

    async fn share(&self, bytes: usize) -> SemaphorePermit<'_> {
        let kib = bytes.div_ceil(1 << 10).min(self.total);
        let kib = u32::try_from(kib).unwrap_or(u32::MAX);
        self.kib.acquire_many(kib).await.expect("a budget is never closed")
    }
}

/// Why a body could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is larger than allowed; found out as early as possible.
    #[error("the body is over its limit of {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// It did not arrive in time.
    #[error("the body did not arrive within {} s", within.as_secs())]
    TimedOut {
        /// The time allowed.
        within: Duration,
    },
    /// It broke off.
    #[error("the body broke off")]
    Broken {
        /// Why.
        source: BoxError,
    },
}

/// A body of some bytes.
pub fn full(bytes: impl Into<Bytes>) -> BoxBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body of nothing.
pub fn empty() -> BoxBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// Any body as a [`BoxBody`].
pub fn boxed<B>(body: B) -> BoxBody
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    body.map_err(Into::into).boxed_unsync()
}

/// Reads a whole body of at most `limit` bytes. A longer one is refused without reading it when its length is
/// announced, else at the first byte too many; what follows is discarded in the background. All bodies read so share a
/// [`Budget`] of 256 MiB; waiting for it counts as reading.
///
/// # Errors
/// When it is too long, too slow, or breaks off.
pub async fn read<B>(body: B, limit: usize, within: Duration) -> Result<Bytes, ReadError>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    read_with(&READING, body, limit, within).await
}

/// As [`read`], with a budget of its own.
///
/// # Errors
/// When it is too long, too slow, or breaks off.
pub async fn read_with<B>(
    budget: &Budget,
    mut body: B,
    limit: usize,
    within: Duration,
) -> Result<Bytes, ReadError>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    if body.size_hint().lower() > limit as u64 {
        discard(body);
        return Err(ReadError::TooLarge { limit });
    }
    match tokio::time::timeout(within, collect(budget, &mut body, limit)).await {
        Ok(Err(error @ ReadError::TooLarge { .. })) => {
            discard(body);
            Err(error)
        }
        Ok(result) => result,
        Err(_) => Err(ReadError::TimedOut { within }),
    }
}

async fn collect<B>(budget: &Budget, body: &mut B, limit: usize) -> Result<Bytes, ReadError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    let announced = body.size_hint().upper().and_then(|most| usize::try_from(most).ok());
    let most = announced.map_or(limit, |most| most.min(limit));
    let mut share = None;
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| ReadError::Broken { source: e.into() })?;
        let Ok(data) = frame.into_data() else { continue };
        let got = all.len().max(first.len());
        if data.len() > limit - got {
            return Err(ReadError::TooLarge { limit });
        }
        // Taken at once for all that may come: bodies that each held a part of the budget could wait for each other. What
        // ends here is in memory already.
        if share.is_none() && got + data.len() > FREE && !body.is_end_stream() {
            share = Some(budget.share(most).await);
        }
        // Most bodies come in one piece, which then is not copied.
        match (first.is_empty(), all.is_empty()) {
            (true, true) => first = data,
            (false, true) => {
                all.reserve(first.len() + data.len());
                all.extend_from_slice(&first);
                all.extend_from_slice(&data);
            }
            (_, false) => all.extend_from_slice(&data),
        }
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}

/// Reads on and throws away, in the background and within limits.
pub fn discard<B>(mut body: B)
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    tokio::spawn(async move {
        let drain = async {
            let mut left = DISCARD_LIMIT;
            while let Some(Ok(frame)) = body.frame().await {
                let size = frame.data_ref().map_or(0, Bytes::len);
                if size > left {
                    break;
                }
                left -= size;
            }
        };
        // Whether the client got to the end or ran out of time, its connection is closed or reused by hyper.
        tokio::time::timeout(DISCARD_TIME, drain).await.unwrap_or_default();
    });
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http_body::Frame;
    use http_body_util::StreamBody;
    use tokio::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn chunks(parts: &[&'static str]) -> BoxBody {
        let frames: Vec<_> =
            parts.iter().map(|p| Ok::<_, BoxError>(Frame::data(Bytes::from_static(p.as_bytes())))).collect();
        boxed(StreamBody::new(stream::iter(frames)))
    }

    #[tokio::test]
    async fn bodies_are_read_up_to_their_limit() {
        for (parts, limit, want) in [
            (&[][..], 0, Some("")),
            (&["abc"], 3, Some("abc")),
            (&["a", "b", "c"], 3, Some("abc")),
            (&["", "ab", "", "c"], 3, Some("abc")),
            (&["abcd"], 3, None),
            (&["ab", "cd"], 3, None),
            (&["a", "b", "c", "d"], 3, None),
        ] {
            let got = read(chunks(parts), limit, LONG).await;
            match want {
                Some(text) => assert_eq!(got.unwrap(), text.as_bytes(), "{parts:?}"),
                None => assert!(matches!(got, Err(ReadError::TooLarge { limit: 3 })), "{parts:?}"),
            }
        }
    }

    #[tokio::test]
    async fn an_announced_length_is_refused_unread() {
        let error = read(full(vec![0; 11]), 10, LONG).await.unwrap_err();
        assert!(matches!(error, ReadError::TooLarge { limit: 10 }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_body_times_out() {
        let never = boxed(StreamBody::new(stream::pending::<Result<Frame<Bytes>, BoxError>>()));
        let error = read(never, 10, Duration::from_secs(3)).await.unwrap_err();
        assert_eq!(error.to_string(), "the body did not arrive within 3 s");
    }
    /// A body that goes on as the test sends its pieces.
    fn fed() -> (mpsc::UnboundedSender<usize>, BoxBody) {
        let (feed, mut pieces) = mpsc::unbounded_channel();
        let frames = stream::poll_fn(move |context| {
            pieces.poll_recv(context).map(|size: Option<usize>| {
                size.map(|size| Ok::<_, BoxError>(Frame::data(Bytes::from(vec![b'a'; size]))))
            })
        });
        (feed, boxed(StreamBody::new(frames)))
    }

    #[tokio::test(start_paused = true)]
    async fn large_bodies_wait_for_their_share() {
        static BUDGET: Budget = Budget::new(128 << 10);
        const LIMIT: usize = 100 << 10;
        let short = Duration::from_secs(3);
        let left = || BUDGET.kib.available_permits();

        // A body that only promises to be large takes nothing.
        let (idle, body) = fed();
        idle.send(1000).unwrap();
        read_with(&BUDGET, body, LIMIT, short).await.unwrap_err();
        assert_eq!(left(), 128);

        let (feed, body) = fed();
        feed.send(FREE).unwrap();
        feed.send(1).unwrap();
        let holder = tokio::spawn(read_with(&BUDGET, body, LIMIT, LONG));
        while left() == 128 {
            tokio::task::yield_now().await;
        }
        assert_eq!(left(), 28);
        // Small ones and such as are here as a whole pass; a large one waits no longer than it may.
        let small = chunks(&["a", "b"]);
        assert_eq!(read_with(&BUDGET, small, LIMIT, short).await.unwrap(), "ab");
        assert_eq!(read_with(&BUDGET, full(vec![0; LIMIT]), LIMIT, short).await.unwrap().len(), LIMIT);
        let large = || {
            let (feed, body) = fed();
            feed.send(FREE).unwrap();
            feed.send(FREE / 2).unwrap();
            body
        };
        let error = read_with(&BUDGET, large(), LIMIT, short).await.unwrap_err();
        assert!(matches!(error, ReadError::TimedOut { .. }));
        assert_eq!(left(), 28);

        let waiter = tokio::spawn(read_with(&BUDGET, large(), LIMIT, LONG));
        drop(feed);
        assert_eq!(holder.await.unwrap().unwrap().len(), FREE + 1);
        assert_eq!(waiter.await.unwrap().unwrap().len(), FREE + FREE / 2);
        // One larger than the whole budget gets all of it.
        let (feed, body) = fed();
        for _ in 0..4 {
            feed.send(FREE).unwrap();
        }
        drop(feed);
        assert_eq!(read_with(&BUDGET, body, FREE * 4, LONG).await.unwrap().len(), FREE * 4);
        assert_eq!(left(), 128);
    }
}
