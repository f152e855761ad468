//! A connection that is given up when its client takes nothing.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// Writes fail when the other side has taken nothing for some time, while something waits to be taken. Holds what its
/// connection takes up, which is given back with it: also when it has become a WebSocket.
#[derive(Debug)]
pub(super) struct Impatient<S, P> {
    stream: S,
    patience: Duration,
    /// Until when to wait, where something waits to be taken.
    waiting: Option<Pin<Box<Sleep>>>,
    _place: P,
}

impl<S, P> Impatient<S, P> {
    /// Waits for so long.
    pub(super) fn new(stream: S, patience: Duration, place: P) -> Self {
        Self { stream, patience, waiting: None, _place: place }
    }

    /// Passes on what became of a write, and waits no longer than the patience lasts.
    fn unless_stalled<T>(
        &mut self,
        written: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let patience = self.patience;
        ready!(self.waiting.get_or_insert_with(|| Box::pin(sleep(patience))).as_mut().poll(cx));
        // Whoever asks again is refused again.
        let at_once = Instant::now();
        if let Some(waiting) = &mut self.waiting {
            waiting.as_mut().reset(at_once);
        }
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing")))
    }
}

impl<S: AsyncRead + Unpin, P: Unpin> AsyncRead for Impatient<S, P> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin, P: Unpin> AsyncWrite for Impatient<S, P> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.unless_stalled(written, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // That nothing is left to be flushed says nothing about what waits to be written.
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.unless_stalled(ended, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.unless_stalled(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_given_up_and_a_slow_one_is_not() {
        let (server, mut client) = tokio::io::duplex(10);
        let mut server = Impatient::new(server, PATIENCE, ());
        let begun = Instant::now();
        let (written, ()) = tokio::join!(server.write_all(&[1; 40]), async {
            for _ in 0..3 {
                sleep(PATIENCE - Duration::from_secs(1)).await;
                client.read_exact(&mut [0; 10]).await.expect("ten bytes");
            }
        });
        written.expect("slowly, but it was taken");
        assert_eq!(begun.elapsed(), 3 * (PATIENCE - Duration::from_secs(1)));
        // Silence with nothing to be taken is no stall.
        client.read_exact(&mut [0; 10]).await.expect("ten bytes");
        sleep(PATIENCE * 2).await;

        let begun = Instant::now();
        let error = server.write_all(&[1; 40]).await.expect_err("nobody reads");
        assert_eq!((error.kind(), begun.elapsed()), (io::ErrorKind::TimedOut, PATIENCE));
        assert_eq!(server.write_all(&[1]).await.expect_err("still").kind(), io::ErrorKind::TimedOut);
    }
}
