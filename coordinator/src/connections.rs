//! Connections of clients: not too many from one address, and none that stands still.
//!
//! Whoever reaches the port can open connections, without a token. Each takes a file descriptor, and an answer that nobody fetches
//! takes memory. So a connection on which no byte moves for a while, in either direction, is closed: one that never finishes its
//! request, one whose answer is not read, and one that is kept for later.

use axum::serve::Listener;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep, sleep};

/// What connections are allowed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// At a time from one address. An agent has two or three, and several may be behind one address.
    pub(crate) of_one: usize,
    /// Time without a byte. Clients give up connections that they keep earlier ([`medley_protocol::client::KEEP`]).
    pub(crate) still: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            of_one: 512,
            still: Duration::from_mins(1),
        }
    }
}

/// A listener whose connections keep to the limits.
#[derive(Debug)]
pub(crate) struct Door {
    listener: TcpListener,
    limits: Limits,
    inside: Arc<Inside>,
}

impl Door {
    pub(crate) fn new(listener: TcpListener, limits: Limits) -> Self {
        Self {
            listener,
            limits,
            inside: Arc::default(),
        }
    }
}

impl Listener for Door {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            let (stream, from) = Listener::accept(&mut self.listener).await;
            // Otherwise it is closed without a word.
            if let Some(place) = self.inside.enter(from.ip(), self.limits.of_one) {
                return (Connection::new(stream, place, self.limits.still), from);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// How many connections each address has.
#[derive(Debug, Default)]
struct Inside(Mutex<BTreeMap<IpAddr, usize>>);

impl Inside {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(self: &Arc<Self>, from: IpAddr, most: usize) -> Option<Place> {
        let mut all = self.lock();
        let count = all.entry(from).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        if *count == most {
            tracing::warn!("{from} has {most} connections at a time: it gets no more");
        }
        Some(Place {
            from,
            inside: Arc::clone(self),
        })
    }
}

/// A connection's place among those of its address.
#[derive(Debug)]
struct Place {
    from: IpAddr,
    inside: Arc<Inside>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.inside.lock();
        if let Some(count) = all.get_mut(&self.from) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.from);
            }
        }
    }
}

/// A connection that ends when it stands still.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    still: Duration,
    /// When a byte moved last.
    moved: Instant,
    /// Ends when the connection may stand still for too long.
    look: Pin<Box<Sleep>>,
    _place: Place,
}

impl Connection {
    fn new(stream: TcpStream, place: Place, still: Duration) -> Self {
        Self {
            stream,
            still,
            moved: Instant::now(),
            look: Box::pin(sleep(still)),
            _place: place,
        }
    }

    /// What an operation on the stream comes to.
    fn judge<T>(&mut self, outcome: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.moved = Instant::now();
            return outcome;
        }
        while self.look.as_mut().poll(cx).is_ready() {
            let until = self.moved + self.still;
            if until <= Instant::now() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.look.as_mut().reset(until);
        }
        Poll::Pending
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.judge(outcome, cx)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.judge(outcome, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.judge(outcome, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::body::{Body, Bytes};
    use axum::routing::get;
    use futures_util::stream;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A service with an answer that never ends.
    async fn serve(limits: Limits) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let endless = || async {
            let pieces = std::iter::repeat_with(|| Ok::<_, io::Error>(Bytes::from(vec![0; 1 << 16])));
            Body::from_stream(stream::iter(pieces))
        };
        let router = Router::new()
            .route("/", get(|| async { "here" }))
            .route("/endless", get(endless));
        let serving = axum::serve(Door::new(listener, limits), router);
        tokio::spawn(std::future::IntoFuture::into_future(serving));
        address
    }

    async fn end(stream: &mut TcpStream) {
        let mut rest = Vec::new();
        // It may be reset, since what was sent was not read.
        let _ = timeout(PATIENCE, stream.read_to_end(&mut rest))
            .await
            .expect("it is closed");
    }

    async fn is_served(stream: &mut TcpStream) -> bool {
        let mut answer = [0; 12];
        let asked = stream.write_all(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n").await;
        let answered = timeout(PATIENCE, stream.read_exact(&mut answer)).await;
        asked.is_ok() && matches!(answered, Ok(Ok(_))) && answer.ends_with(b"200")
    }

    #[tokio::test]
    async fn connections_that_stand_still_are_closed() {
        let address = serve(Limits {
            still: Duration::from_millis(200),
            ..Limits::default()
        })
        .await;
        for begin in ["", "GET / HTTP/1.1\r\nHost: h", "GET / HTTP/1.1\r\nHost: here\r\n\r\n"] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(begin.as_bytes()).await.unwrap();
            end(&mut stream).await;
        }
    }

    #[tokio::test]
    async fn an_answer_that_is_not_read_is_given_up() {
        let limits = Limits {
            of_one: 1,
            still: Duration::from_millis(200),
        };
        let address = serve(limits).await;
        let mut first = TcpStream::connect(address).await.unwrap();
        let asked = b"GET /endless HTTP/1.1\r\nHost: here\r\n\r\n";
        first.write_all(asked).await.unwrap();
        // Its place is free only once the service has given it up.
        let served = timeout(PATIENCE, async {
            while !is_served(&mut TcpStream::connect(address).await.unwrap()).await {
                sleep(Duration::from_millis(20)).await;
            }
        });
        served.await.expect("the place is free again");
    }

    #[tokio::test]
    async fn one_address_has_so_many_at_a_time() {
        let limits = Limits {
            of_one: 2,
            ..Limits::default()
        };
        let address = serve(limits).await;
        let mut inside = Vec::new();
        for _ in 0..2 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            assert!(is_served(&mut stream).await);
            inside.push(stream);
        }
        let mut third = TcpStream::connect(address).await.unwrap();
        end(&mut third).await;
        inside.pop();
        let again = timeout(PATIENCE, async {
            while !is_served(&mut TcpStream::connect(address).await.unwrap()).await {
                sleep(Duration::from_millis(20)).await;
            }
        });
        again.await.expect("the place is free again");
    }
}
