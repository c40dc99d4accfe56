//! A file as the body of a request or an answer, read as it is sent.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::fs::File;
use tokio::io::{AsyncRead as _, ReadBuf};

const PIECE: u64 = 256 << 10;

/// So many bytes of a file, from where it stands.
#[derive(Debug)]
pub struct FileBody {
    file: File,
    left: u64,
}

impl FileBody {
    /// All of a file that was opened just now.
    ///
    /// # Errors
    /// When its size cannot be told.
    pub fn new(file: std::fs::File) -> io::Result<Self> {
        let left = file.metadata()?.len();
        Ok(Self { file: File::from_std(file), left })
    }
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        if this.left == 0 {
            return Poll::Ready(None);
        }
        let mut piece = vec![0; usize::try_from(this.left.min(PIECE)).expect("a piece is small")];
        let mut buffer = ReadBuf::new(&mut piece);
        if let Err(error) = ready!(Pin::new(&mut this.file).poll_read(context, &mut buffer)) {
            return Poll::Ready(Some(Err(error)));
        }
        let count = buffer.filled().len();
        if count == 0 {
            return Poll::Ready(Some(Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file has become shorter",
            ))));
        }
        this.left -= count as u64;
        piece.truncate(count);
        Poll::Ready(Some(Ok(Frame::data(piece.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn a_file_is_sent_whole_and_its_end_is_noticed() {
        let path = std::env::temp_dir().join(format!("stratos-file-body-{}", std::process::id()));
        let bytes: Vec<u8> = (0..600_000_u32).map(|n| n as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let open = || std::fs::File::open(&path).unwrap();
        let body = FileBody::new(open()).unwrap();
        assert_eq!(body.size_hint().exact(), Some(600_000));
        assert_eq!(body.collect().await.unwrap().to_bytes(), bytes);
        let body = FileBody::new(open()).unwrap();
        std::fs::write(&path, &bytes[..300_000]).unwrap();
        let error = body.collect().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        std::fs::remove_file(&path).unwrap();
    }
}
