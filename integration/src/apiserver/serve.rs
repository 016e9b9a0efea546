//! Connections: TLS, HTTP/1.1, and the hooks that act on connections (outages, resets). It never looks
//! at what a request asks for.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::answer::Body;
use super::core::Core;
use super::routes;

/// One connection, as its requests see it.
#[derive(Default)]
pub struct Connection {
    users: Mutex<HashSet<Arc<str>>>,
    reset: CancellationToken,
}

impl Connection {
    /// Note that this user speaks over it.
    pub fn saw(&self, user: &Arc<str>) {
        self.users
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(user.clone());
    }

    /// Close it without another byte.
    pub fn reset(&self) {
        self.reset.cancel();
    }

    fn has_user(&self, is_meant: impl Fn(&str) -> bool) -> bool {
        self.users
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .any(|u| is_meant(u))
    }
}

/// Take connections until the server ends.
pub async fn accept(core: Arc<Core>, listener: TcpListener, tls: TlsAcceptor) {
    loop {
        let stream = tokio::select! {
            () = core.shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match stream {
            Ok((stream, _)) => {
                core.tasks.spawn(connection(core.clone(), stream, tls.clone()));
            }
            // Out of file descriptors and the like: let others finish first.
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

async fn connection(core: Arc<Core>, stream: TcpStream, tls: TlsAcceptor) {
    let mut reach = core.hooks.reach();
    if reach.borrow_and_update().is_everyone_cut_off() {
        return;
    }
    // Small answers must not wait for the other side's acknowledgement.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let handshake = tokio::select! {
        () = core.shutdown.cancelled() => return,
        handshake = tls.accept(stream) => handshake,
    };
    let Ok(stream) = handshake else { return };
    let connection = Arc::new(Connection::default());
    let service = service_fn(|request: Request<Incoming>| {
        let (core, connection) = (core.clone(), connection.clone());
        async move { Ok::<Response<Body>, Infallible>(routes::answer(core, connection, request).await) }
    });
    let builder = auto::Builder::new(TokioExecutor::new()).http1_only();
    let serving = builder.serve_connection(TokioIo::new(stream), service);
    let cut_off = async {
        loop {
            let is_cut = {
                let reach = reach.borrow_and_update();
                reach.is_everyone_cut_off() || connection.has_user(|user| reach.is_cut_off(user))
            };
            if is_cut || reach.changed().await.is_err() {
                return;
            }
        }
    };
    // Whichever ends first, the connection is dropped with it.
    tokio::select! {
        () = core.shutdown.cancelled() => {}
        () = connection.reset.cancelled() => {}
        () = cut_off => {}
        _ = serving => {}
    }
}
