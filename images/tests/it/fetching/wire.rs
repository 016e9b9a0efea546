//! A server that writes its answers byte by byte as a test wants them, and remembers what was asked.
//! One request per connection, on a port that the system chose.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use drydock_images::{Fetcher, RetryPolicy, Timeouts};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use url::Url;

/// What was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// As it stood in the request's first line.
    pub target: String,
    pub host: String,
    pub range: Option<String>,
    pub if_range: Option<String>,
    pub encoding: Option<String>,
}

impl Seen {
    fn parse(head: &str) -> Self {
        let mut seen = Self {
            target: head.split(' ').nth(1).unwrap_or("/").to_owned(),
            ..Self::default()
        };
        for line in head.lines() {
            let Some((name, value)) = line.split_once(": ") else {
                continue;
            };
            match name.to_ascii_lowercase().as_str() {
                "host" => seen.host = value.to_owned(),
                "range" => seen.range = Some(value.to_owned()),
                "if-range" => seen.if_range = Some(value.to_owned()),
                "accept-encoding" => seen.encoding = Some(value.to_owned()),
                _ => {}
            }
        }
        seen
    }

    /// First byte and the one behind the last, in a file of `length`.
    fn span(&self, length: usize) -> Option<(usize, usize)> {
        let (first, last) = self.range.as_ref()?.strip_prefix("bytes=")?.split_once('-')?;
        let end = last.parse::<usize>().map_or(length, |last| last + 1);
        Some((first.parse().unwrap(), end.min(length)))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Close,
    /// Go on with zeros until the other side hangs up.
    Endless,
    /// A byte every 50 ms.
    Trickle,
    /// Say nothing more.
    Silence,
}

/// Status line and headers, and a body that need not be what they say.
#[derive(Debug, Clone)]
pub struct Reply {
    head: Vec<String>,
    body: Vec<u8>,
    then: Then,
}

impl Reply {
    pub fn status(status: &str) -> Self {
        Self {
            head: vec![format!("HTTP/1.1 {status}")],
            body: Vec::new(),
            then: Then::Close,
        }
        .header("Connection", "close")
    }

    pub fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.head.push(format!("{name}: {}", value.to_string()));
        self
    }

    /// A body without a stated length: it ends with the connection.
    pub fn body(mut self, body: &[u8]) -> Self {
        self.body = body.to_vec();
        self
    }

    /// A whole file, by a server that knows no ranges.
    pub fn whole(file: &[u8]) -> Self {
        Self::status("200 OK")
            .header("Content-Length", file.len())
            .body(file)
    }

    /// What a server with ranges answers.
    pub fn ranged(file: &[u8], seen: &Seen) -> Self {
        match seen.span(file.len()) {
            None => Self::whole(file),
            Some((first, end)) if first < end => Self::status("206 Partial Content")
                .header(
                    "Content-Range",
                    format!("bytes {first}-{}/{}", end - 1, file.len()),
                )
                .header("Content-Length", end - first)
                .body(&file[first..end]),
            Some(_) => Self::status("416 Range Not Satisfiable")
                .header("Content-Range", format!("bytes */{}", file.len()))
                .header("Content-Length", 0),
        }
    }

    /// Breaks off after so many bytes of the body, whatever the head said.
    pub fn broken_after(mut self, bytes: usize) -> Self {
        self.body.truncate(bytes);
        self
    }

    pub fn endless(mut self) -> Self {
        self.then = Then::Endless;
        self
    }

    pub fn trickling(mut self) -> Self {
        self.then = Then::Trickle;
        self
    }

    pub fn silent(mut self) -> Self {
        self.then = Then::Silence;
        self
    }

    async fn write(self, stream: &mut TcpStream) -> std::io::Result<()> {
        let head = format!("{}\r\n\r\n", self.head.join("\r\n"));
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&self.body).await?;
        loop {
            match self.then {
                Then::Close => return stream.shutdown().await,
                Then::Endless => stream.write_all(&[0; 16 * 1024]).await?,
                Then::Trickle => {
                    stream.write_all(&[0]).await?;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Then::Silence => std::future::pending::<()>().await,
            }
        }
    }
}

pub struct Wire {
    pub url: Url,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Wire {
    /// Answers each request with what `answer` makes of it and its number.
    pub async fn serve(answer: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (log, answer) = (Arc::clone(&seen), Arc::new(answer));
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = stream.read_u8().await else { return };
                        head.push(byte);
                    }
                    let asked = Seen::parse(&String::from_utf8(head).unwrap());
                    let number = {
                        let mut log = log.lock().unwrap();
                        log.push(asked.clone());
                        log.len() - 1
                    };
                    // A client that has enough hangs up.
                    let _ = answer(&asked, number).write(&mut stream).await;
                });
            }
        });
        Self { url, seen }
    }

    pub fn file(&self) -> Url {
        self.url.join("file").unwrap()
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The `Range` of every request so far; an empty text where there was none.
    pub fn ranges(&self) -> Vec<String> {
        let seen = self.seen();
        seen.into_iter()
            .map(|seen| seen.range.unwrap_or_default())
            .collect()
    }
}

/// Three tries with hardly a pause between them, and time enough on the slowest machine.
pub fn fetcher() -> Fetcher {
    hasty(Duration::from_secs(30), Duration::from_secs(30))
}

/// The same with little time.
pub fn hasty(idle: Duration, window: Duration) -> Fetcher {
    let timeouts = Timeouts {
        connect: Duration::from_secs(10),
        idle,
        window,
        least_bytes_per_second: 1024,
    };
    let retry = RetryPolicy {
        tries: 3,
        first_pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(2),
        total: Duration::from_secs(60),
    };
    Fetcher::new(timeouts, retry, 4, &[]).unwrap()
}

/// A URL where nobody listens.
pub fn nobody() -> Url {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap()
}
