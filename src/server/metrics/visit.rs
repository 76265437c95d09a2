//! Connections to the metrics endpoint: so many at once, each for so long and no longer. Whoever
//! says nothing, or does not read, keeps nobody out for long.

use crate::server::log;
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

/// Most connections at once; more wait in the kernel's queue.
const VISITS_MAX: usize = 16;

/// How long a connection may last, answers and silence together. Prometheus connects again.
const VISIT_MAX: Duration = Duration::from_secs(10);

/// How long to wait after the kernel would not give us a connection.
const ACCEPT_RETRY: Duration = Duration::from_millis(200);

enum Listener {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Where visitors come in.
pub struct Door {
    listener: Listener,
    room: Arc<Semaphore>,
}

impl Door {
    /// A listening socket, of one family or the other.
    pub fn open(fd: OwnedFd, is_unix: bool) -> io::Result<Door> {
        let listener = if is_unix {
            let listener = UnixListener::from(fd);
            listener.set_nonblocking(true)?;
            Listener::Unix(tokio::net::UnixListener::from_std(listener)?)
        } else {
            let listener = TcpListener::from(fd);
            listener.set_nonblocking(true)?;
            Listener::Tcp(tokio::net::TcpListener::from_std(listener)?)
        };
        let room = Arc::new(Semaphore::new(VISITS_MAX));
        Ok(Door { listener, room })
    }

    async fn next(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match &self.listener {
            Listener::Tcp(listener) => Box::new(listener.accept().await?.0),
            Listener::Unix(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

impl axum::serve::Listener for Door {
    type Io = Visit;
    type Addr = ();

    async fn accept(&mut self) -> (Visit, ()) {
        let permit = self.room.clone().acquire_owned().await;
        let permit = permit.expect("the semaphore is never closed");
        loop {
            match self.next().await {
                Ok(stream) => {
                    let visit = Visit {
                        stream,
                        end: Box::pin(tokio::time::sleep(VISIT_MAX)),
                        _permit: permit,
                    };
                    return (visit, ());
                }
                Err(error) => {
                    log::warning(&format!("the metrics endpoint cannot accept: {error}"));
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

/// One connection.
pub struct Visit {
    stream: Box<dyn Stream>,
    end: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
}

impl Visit {
    /// Fails once its time is over; else the task is woken then.
    fn check_time(&mut self, context: &mut Context) -> io::Result<()> {
        match self.end.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Visit {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context,
        buffer: &mut ReadBuf,
    ) -> Poll<io::Result<()>> {
        self.check_time(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Visit {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check_time(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<io::Result<()>> {
        self.check_time(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
