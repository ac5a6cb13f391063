//! Whether nodes reach each other: every agent has a door, and knocks at those of others when it is asked to.
//!
//! A knock is a TCP connection and nothing more: it comes about only if packets arrive both ways. Nothing is said, and whoever
//! comes is let go at once.

use crate::listen::{address, listen};
use std::io;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

/// Longest wait for a door to open: a packet that was lost once is sent again within it.
const PATIENCE: Duration = Duration::from_secs(2);
/// Pause after a connection could not be taken.
const PAUSE: Duration = Duration::from_millis(200);

/// Opens this node's door for as long as the runtime lives; returns where it is.
///
/// # Errors
/// When the node's host cannot be listened on.
pub(super) fn open(host: &str) -> io::Result<String> {
    let listener = listen(host)?;
    let port = listener.local_addr()?.port();
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    tokio::spawn(async move {
        loop {
            if let Err(e) = listener.accept().await {
                tracing::debug!("a knock of another agent was not heard: {e}");
                sleep(PAUSE).await;
            }
        }
    });
    Ok(address(host, port))
}

/// Whether a door opens.
pub(super) async fn knock(address: &str) -> bool {
    matches!(timeout(PATIENCE, TcpStream::connect(address)).await, Ok(Ok(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_door_opens_to_everyone_again_and_again_and_no_door_to_nobody() {
        let door = open("127.0.0.1").unwrap();
        assert!(knock(&door).await);
        assert!(knock(&door).await);
        let gone = listen("127.0.0.1").unwrap().local_addr().unwrap().to_string();
        assert!(!knock(&gone).await);
    }
}
