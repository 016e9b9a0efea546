//! Loopback ports that stay ours while nobody listens on them, also in an outage.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context as _;
use tokio::net::TcpSocket;

/// A port of 127.0.0.1 that is bound here and not listened on. The kernel gives it to nobody else that
/// asks for a free port or connects from one; a process that asks for this very port with SO_REUSEADDR,
/// as Go's listeners do, may listen on it.
pub struct Port {
    number: u16,
    _held: TcpSocket,
}

impl Port {
    /// Take a free one.
    ///
    /// # Errors
    /// When there is none.
    pub fn take() -> anyhow::Result<Port> {
        let socket = TcpSocket::new_v4().context("a socket")?;
        socket
            .set_reuseaddr(true)
            .context("share the port with who listens on it")?;
        socket
            .bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
            .context("a free loopback port")?;
        let number = socket.local_addr().context("the port's number")?.port();
        Ok(Port {
            number,
            _held: socket,
        })
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use std::net::TcpStream;

    #[tokio::test]
    async fn a_held_port_can_be_listened_on_again_and_again_and_refuses_in_between() {
        let port = Port::take().unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.number()));
        for _ in 0..2 {
            TcpStream::connect(address).unwrap_err();
            let listener = TcpSocket::new_v4().unwrap();
            listener.set_reuseaddr(true).unwrap();
            listener.bind(address).unwrap();
            let listener = listener.listen(8).unwrap();
            TcpStream::connect(address).unwrap();
            drop(listener);
        }
    }
}
