//! Where this node is reached by others: its ranks by their peers, its agent by other agents.

use std::io;
use std::net::TcpListener;

/// Listens on a node's own host, on a port of the system's choice; on every address where the host's name is one that only
/// others can use.
///
/// # Errors
/// When neither is possible.
pub fn listen(host: &str) -> io::Result<TcpListener> {
    TcpListener::bind((host, 0)).or_else(|_| TcpListener::bind(("0.0.0.0", 0)))
}

/// `host:port` for others.
pub fn address(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_kinds_can_be_connected_to() {
        assert_eq!(address("10.0.0.1", 5), "10.0.0.1:5");
        assert_eq!(address("::1", 5), "[::1]:5");
    }
}
