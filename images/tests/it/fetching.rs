//! Servers that fail, trickle, never end, or send elsewhere. Every server here is the test's own, on
//! a port that the system chose.

mod mirrors;
mod proxy;
mod ranges;
mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use drydock_images::{FetchError, Repository, TrustError};
use futures::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use url::Url;

use crate::support::{Fixture, now};

type Answer = Arc<dyn Fn(&str, u32) -> Option<Response> + Send + Sync>;

#[derive(Clone)]
struct Server {
    dir: std::path::PathBuf,
    requests: Arc<AtomicU32>,
    answer: Answer,
}

/// Serves the fixture's repository, but lets `answer` (path, number of the request) come first.
async fn serve(
    fixture: &Fixture,
    answer: impl Fn(&str, u32) -> Option<Response> + Send + Sync + 'static,
) -> (Url, Arc<AtomicU32>) {
    let requests = Arc::new(AtomicU32::new(0));
    let state = Server {
        dir: fixture.repo(),
        requests: Arc::clone(&requests),
        answer: Arc::new(answer),
    };
    let router = Router::new().fallback(handle).with_state(state);
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (url, requests)
}

async fn handle(State(server): State<Server>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let number = server.requests.fetch_add(1, Ordering::SeqCst);
    if let Some(response) = (server.answer)(&path, number) {
        return response;
    }
    match std::fs::read(server.dir.join(path.trim_start_matches('/'))) {
        Ok(bytes) => bytes.into_response(),
        Err(_) => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn load(fixture: &Fixture, url: Url) -> Result<Repository, TrustError> {
    Repository::load(&fixture.config_at(url), now()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_web_server_is_enough() {
    let fixture = Fixture::new().await;
    let digest = fixture.release("1.0", 1).await;
    let (url, _) = serve(&fixture, |_, _| None).await;
    let repository = load(&fixture, url).await.unwrap();
    let silent = drydock_images::Progress::none();
    let verified = crate::support::verify_release(&repository, &digest, &[], now(), &silent).await;
    assert!(verified.unwrap().artifacts[0].fetched_bytes > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_that_pass_are_tried_again_and_the_last_one_says_where_and_how_often() {
    let fixture = Fixture::new().await;
    fixture.release("1.0", 1).await;
    let flaky = |_: &str, number: u32| {
        number
            .is_multiple_of(2)
            .then(|| StatusCode::SERVICE_UNAVAILABLE.into_response())
    };
    let (url, _) = serve(&fixture, flaky).await;
    load(&fixture, url).await.unwrap();

    let (url, requests) = serve(&fixture, |_, _| Some(StatusCode::BAD_GATEWAY.into_response())).await;
    let error = load(&fixture, url.clone()).await.unwrap_err();
    assert_eq!(error.code(), "Unreachable");
    assert!(error.may_pass());
    let text = error.to_string();
    assert!(
        text.contains(url.as_str()) && text.contains("3 tries") && text.contains("502"),
        "{text}"
    );
    // The next root could not be asked for: that is no "there is none".
    assert!(text.contains("2.root.json"), "{text}");
    assert_eq!(requests.load(Ordering::SeqCst), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_unreachable() {
    let fixture = Fixture::new().await;
    fixture.release("1.0", 1).await;
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
    drop(listener);
    assert_eq!(load(&fixture, url).await.unwrap_err().code(), "Unreachable");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_exist_is_not_tried_again() {
    let fixture = Fixture::new().await;
    fixture.release("1.0", 1).await;
    std::fs::remove_file(fixture.metadata("timestamp.json")).unwrap();
    let (url, requests) = serve(&fixture, |_, _| None).await;
    assert_eq!(load(&fixture, url).await.unwrap_err().code(), "NotFound");
    assert_eq!(requests.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn data_without_an_end_is_read_to_its_bound_and_no_further() {
    let fixture = Fixture::new().await;
    fixture.release("1.0", 1).await;
    let endless = |path: &str, _: u32| {
        path.ends_with("timestamp.json").then(|| {
            let piece = bytes::Bytes::from(vec![b' '; 64 * 1024]);
            let stream = futures::stream::repeat(piece).map(Ok::<_, std::io::Error>);
            Body::from_stream(stream).into_response()
        })
    };
    let (url, _) = serve(&fixture, endless).await;
    assert_eq!(load(&fixture, url).await.unwrap_err().code(), "TooLong");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_says_nothing_or_trickles_ends_by_the_timeouts() {
    let fixture = Fixture::new().await;
    fixture.release("1.0", 1).await;
    for trickle in [false, true] {
        let slow = move |path: &str, _: u32| {
            path.ends_with("timestamp.json").then(|| {
                let stream = futures::stream::unfold((), move |()| async move {
                    if !trickle {
                        std::future::pending::<()>().await;
                    }
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    Some((Ok::<_, std::io::Error>(bytes::Bytes::from_static(b" ")), ()))
                });
                Body::from_stream(stream).into_response()
            })
        };
        let (url, _) = serve(&fixture, slow).await;
        assert_eq!(load(&fixture, url).await.unwrap_err().code(), "Unreachable");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_few_redirects_are_followed_and_a_loop_is_refused() {
    let fixture = Fixture::new().await;
    fixture.release("1.0", 1).await;
    let (behind, _) = serve(&fixture, |_, _| None).await;
    let to = behind.clone();
    let redirect = move |path: &str, _: u32| {
        let location = to.join(path.trim_start_matches('/')).unwrap().to_string();
        Some((StatusCode::FOUND, [(header::LOCATION, location)]).into_response())
    };
    let (url, _) = serve(&fixture, redirect).await;
    load(&fixture, url).await.unwrap();

    let circle =
        |path: &str, _: u32| Some((StatusCode::FOUND, [(header::LOCATION, path.to_owned())]).into_response());
    let (url, requests) = serve(&fixture, circle).await;
    let error = load(&fixture, url).await.unwrap_err();
    assert!(
        matches!(&error, TrustError::Unreachable(FetchError::Refused { .. })),
        "{error}"
    );
    assert!(requests.load(Ordering::SeqCst) <= 5, "a loop is not tried again");

    let elsewhere = |_: &str, _: u32| {
        Some((StatusCode::FOUND, [(header::LOCATION, "file:///etc/passwd")]).into_response())
    };
    let (url, _) = serve(&fixture, elsewhere).await;
    let error = load(&fixture, url).await.unwrap_err();
    assert_eq!(error.code(), "Unreachable", "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_schemes_that_are_meant_are_fetched() {
    let fixture = Fixture::new().await;
    fixture.release("1.0", 1).await;
    for url in [
        "ftp://example.org/",
        "data:text/plain,x",
        "https://example.org/?token=1",
    ] {
        assert_eq!(
            load(&fixture, Url::parse(url).unwrap()).await.unwrap_err().code(),
            "BadConfiguration"
        );
    }
}

/// Serves the fixture's repository over TLS with a certificate of its own making, one request per
/// connection; `redirect` sends every request there instead. Gives the URL and the certificate.
async fn serve_tls(fixture: &Fixture, redirect: Option<Url>) -> (Url, Vec<u8>) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind(("localhost", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let dir = fixture.repo();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // A client that does not trust the certificate hangs up here.
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else { break };
                request.push(byte);
            }
            let request = String::from_utf8(request).unwrap();
            let path = request
                .split(' ')
                .nth(1)
                .unwrap_or("/")
                .trim_start_matches('/')
                .to_owned();
            let (head, body) = match (&redirect, std::fs::read(dir.join(&path))) {
                (Some(to), _) => (
                    format!("302 Found\r\nLocation: {}", to.join(&path).unwrap()),
                    vec![],
                ),
                (None, Ok(body)) => ("200 OK".to_owned(), body),
                (None, Err(_)) => ("404 Not Found".to_owned(), vec![]),
            };
            let head = format!(
                "HTTP/1.1 {head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(&body).await.unwrap();
            let _ = stream.shutdown().await;
        }
    });
    (
        Url::parse(&format!("https://localhost:{port}/")).unwrap(),
        made.cert.pem().into_bytes(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn https_needs_a_certificate_that_is_trusted_and_never_falls_back_to_http() {
    let fixture = Fixture::new().await;
    fixture.release("1.0", 1).await;
    let (url, certificate) = serve_tls(&fixture, None).await;
    let mut cfg = fixture.config_at(url);
    assert_eq!(
        Repository::load(&cfg, now()).await.unwrap_err().code(),
        "Unreachable"
    );
    cfg.ca_certificates_pem = certificate;
    Repository::load(&cfg, now()).await.unwrap();

    let (plain, requests) = serve(&fixture, |_, _| None).await;
    let (url, certificate) = serve_tls(&fixture, Some(plain)).await;
    let mut cfg = fixture.config_at(url);
    cfg.ca_certificates_pem = certificate;
    let error = Repository::load(&cfg, now()).await.unwrap_err();
    assert!(
        matches!(&error, TrustError::Unreachable(FetchError::Refused { .. })),
        "{error}"
    );
    assert_eq!(
        requests.load(Ordering::SeqCst),
        0,
        "nothing was asked for in the clear"
    );
}

/// What `verify` says on a machine whose system has no certificate authorities.
async fn verify_without_authorities(fixture: &Fixture, url: &Url, ca: Option<&[u8]>) -> (bool, String) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_drydock-images"));
    command
        .args(["verify", "--repo", url.as_str(), "--root"])
        .arg(fixture.keys().join("1.root.json"))
        .env("SSL_CERT_FILE", fixture.path("there-is-none.pem"))
        .env("SSL_CERT_DIR", fixture.path("there-are-none"));
    if let Some(pem) = ca {
        let path = fixture.path("ca.pem");
        std::fs::write(&path, pem).unwrap();
        command.arg("--ca-file").arg(path);
    }
    let output = command.output().await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_system_without_authorities_fetches_in_the_clear_and_from_whom_it_is_told_to_trust() {
    let fixture = Fixture::new().await;
    let built = fixture.build("1.0", 1).await;
    let mut request = fixture.publish_request(&built.path);
    // The program reads the machine's clock.
    request.signing.now = jiff::Timestamp::now();
    drydock_images::publish::publish(request).await.unwrap();
    let (plain, _) = serve(&fixture, |_, _| None).await;
    let (ok, said) = verify_without_authorities(&fixture, &plain, None).await;
    assert!(ok, "{said}");
    let (url, certificate) = serve_tls(&fixture, None).await;
    let (ok, said) = verify_without_authorities(&fixture, &url, Some(&certificate)).await;
    assert!(ok, "{said}");
    let (ok, said) = verify_without_authorities(&fixture, &url, None).await;
    assert!(!ok && said.contains("certificate"), "{said}");
}
