//! HTTP bodies as the agent passes them around, and reading them with limits.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};

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
/// announced, else at the first byte too many; what follows is discarded in the background.
///
/// # Errors
/// When it is too long, too slow, or breaks off.
pub async fn read<B>(mut body: B, limit: usize, within: Duration) -> Result<Bytes, ReadError>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    if body.size_hint().lower() > limit as u64 {
        discard(body);
        return Err(ReadError::TooLarge { limit });
    }
    match tokio::time::timeout(within, collect(&mut body, limit)).await {
        Ok(Err(error @ ReadError::TooLarge { .. })) => {
            discard(body);
            Err(error)
        }
        Ok(result) => result,
        Err(_) => Err(ReadError::TimedOut { within }),
    }
}

async fn collect<B>(body: &mut B, limit: usize) -> Result<Bytes, ReadError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| ReadError::Broken { source: e.into() })?;
        let Ok(data) = frame.into_data() else { continue };
        if data.len() > limit - all.len().max(first.len()) {
            return Err(ReadError::TooLarge { limit });
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
}
