use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use crate::body::Pace;
use crate::framing::Inspector;

/// rustls asks for 4 KiB at a time; a whole TLS record a read saves most of the system calls of a large body.
const READ_BUFFER_BYTES: usize = 16 << 10;
/// What a closing side still takes in, so that the other side gets to read the answer instead of a reset.
const LINGER: Duration = Duration::from_secs(5);
const LINGER_BYTES_MAX: usize = 128 << 20;

/// TCP below TLS.
pub(crate) type Socket = BufReader<TcpStream>;

/// A TCP stream ready for TLS: small writes leave at once, reads are gathered.
pub(crate) fn socket(stream: TcpStream) -> io::Result<Socket> {
    stream.set_nodelay(true)?;
    Ok(BufReader::with_capacity(READ_BUFFER_BYTES, stream))
}

/// The server's side of a connection, between TLS and HTTP: refuses ambiguous framing, gives up on a peer that does
/// not read, and closes without cutting off the last answer.
pub(crate) struct Guarded {
    stream: tokio_rustls::server::TlsStream<Socket>,
    inspector: Option<Inspector>,
    spoiled: bool,
    undelivered: &'static [u8],
    pace: Pace,
    linger: Option<(Pin<Box<Sleep>>, usize)>,
}

/// Given to the parser in place of what is ambiguous: invalid wherever it lands, so the parser itself refuses, with a
/// 400 of its own in a head and an error in a body, and in the right order behind earlier answers. A chunk extension,
/// whose start it may have seen already, may hold the NUL but no bare LF.
const INVALID: &[u8] = b"\0\n\r\n\r\n";

impl Guarded {
    pub(crate) fn new(
        stream: tokio_rustls::server::TlsStream<Socket>,
        inspector: Option<Inspector>,
        write_wait_max: Duration,
    ) -> Self {
        Self {
            stream,
            inspector,
            spoiled: false,
            undelivered: &[],
            pace: Pace::new(write_wait_max),
            linger: None,
        }
    }

    /// Notes progress or its lack.
    fn wrote(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Ready(Ok(bytes)) => self.pace.received(u64::try_from(*bytes).unwrap_or(u64::MAX)),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                if self.pace.exhausted(context) {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
            }
        }
        written
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.spoiled {
            let (now, later) = this.undelivered.split_at(this.undelivered.len().min(buffer.remaining()));
            buffer.put_slice(now);
            this.undelivered = later;
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
        let Some(inspector) = &mut this.inspector else { return Poll::Ready(Ok(())) };
        let new = buffer.filled().get(before..).unwrap_or_default();
        if let Err(ambiguous) = inspector.inspect(new) {
            buffer.set_filled(before + ambiguous.offset);
            this.spoiled = true;
            let (now, later) = INVALID.split_at(INVALID.len().min(buffer.remaining()));
            buffer.put_slice(now);
            this.undelivered = later;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.wrote(context, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(context, slices);
        this.wrote(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(context).map_ok(|()| 0);
        this.wrote(context, flushed).map_ok(|_| ())
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.linger.is_none() {
            let closed = Pin::new(&mut this.stream).poll_shutdown(context).map_ok(|()| 0);
            ready!(this.wrote(context, closed))?;
        }
        let (deadline, bytes) =
            this.linger.get_or_insert_with(|| (Box::pin(tokio::time::sleep(LINGER)), LINGER_BYTES_MAX));
        let mut scratch = [0; 8 << 10];
        loop {
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut *this.stream.get_mut().0).poll_read(context, &mut buffer) {
                Poll::Pending => return deadline.as_mut().poll(context).map(Ok),
                Poll::Ready(Err(_)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(())) => match bytes.checked_sub(buffer.filled().len()) {
                    Some(remaining) if !buffer.filled().is_empty() => *bytes = remaining,
                    _ => return Poll::Ready(Ok(())),
                },
            }
        }
    }
}
