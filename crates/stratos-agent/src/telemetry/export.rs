//! Traces and metrics on their way to an OpenTelemetry collector (OTLP over HTTP, protobuf).
//!
//! Requests are never kept waiting: what is to be sent is put into a bounded queue, and what finds no place in it, or is
//! refused for too long, is counted. A collector that is away is asked again with longer and longer pauses.

mod backlog;

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use stratos_api::Blame;
use stratos_api::client::{Call, Client, ClientError, Endpoint};
use stratos_telemetry::otlp::{Sender, metrics, rejected, traces};
use stratos_telemetry::{Ended, Kept, Limiter, StoredTrace};
use tokio::sync::watch;

use self::backlog::Backlog;
use super::{Recorder, lock};
use crate::clock::{now_ms, unix_ns};
use crate::engine::chain;

/// Most traces in one request.
const BATCH: usize = 256;
/// How often traces are sent. One is sent the second time, so that what comes late of it is there.
const PERIOD: Duration = Duration::from_secs(1);
/// Traces a second that are sent because their callers have said that they are sampled, in the long run and at once.
const SAMPLED: (u64, u64) = (100, 200);
/// And of those that failed for what clients sent.
const CLIENTS: (u64, u64) = (10, 100);
/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Tries of one request, and the pause after the first; each further one is twice as long.
const TRIES: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// How long the last traces may take when the node stops.
const LAST: Duration = Duration::from_secs(2);
/// What of an answer is read.
const MAX_ANSWER: usize = 64 << 10;
/// Certificates that Debian trusts.
const SYSTEM_CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Where a collector is: `http://HOST:PORT` or `https://HOST:PORT`, and a path that those of OTLP follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collector {
    endpoint: Endpoint,
    base: String,
}

/// Why a text is not a collector's address.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a collector's address (http://HOST:PORT or https://HOST:PORT)")]
pub struct CollectorError(String);

impl FromStr for Collector {
    type Err = CollectorError;

    fn from_str(text: &str) -> Result<Self, CollectorError> {
        let wrong = || CollectorError(text.chars().take(200).collect());
        let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let endpoint = format!("{scheme}://{authority}").parse().map_err(|_| wrong())?;
        let plain = path.bytes().all(|b| b.is_ascii_graphic() && !b"?#\"<>".contains(&b));
        match endpoint {
            Endpoint::Http(_) | Endpoint::Https(_) if plain => {
                Ok(Self { endpoint, base: path.trim_end_matches('/').to_owned() })
            }
            _ => Err(wrong()),
        }
    }
}

/// Headers that a collector asks for, such as a key: `name=value`, with commas between them, values percent-encoded.
#[derive(Clone, Default)]
pub struct CollectorHeaders(Vec<(HeaderName, HeaderValue)>);

impl std::fmt::Debug for CollectorHeaders {
    /// Without the values, which may be secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl FromStr for CollectorHeaders {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
        let pair = |pair: &str| {
            let wrong = || "headers are name=value, with commas between them".to_owned();
            let (name, value) = pair.split_once('=').ok_or_else(wrong)?;
            let value = percent_decoded(value.trim()).ok_or_else(wrong)?;
            let name = HeaderName::from_str(name.trim()).map_err(|_| wrong())?;
            let mut value = HeaderValue::from_bytes(&value).map_err(|_| wrong())?;
            value.set_sensitive(true);
            Ok((name, value))
        };
        pairs.map(pair).collect::<Result<_, String>>().map(Self)
    }
}

fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'%' => {
                let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
                rest = &rest[2..];
            }
            other => bytes.push(*other),
        }
    }
    Some(bytes)
}

/// Where traces and metrics go.
#[derive(Debug, Clone)]
pub struct ExportConfig {
    /// The collector.
    pub collector: Collector,
    /// What it asks for besides.
    pub headers: CollectorHeaders,
    /// Certificates to trust for https; those of the system without.
    pub ca: Option<PathBuf>,
    /// How often metrics are sent.
    pub metrics_period: Duration,
    /// What the node calls itself.
    pub host: String,
}

/// Why nothing can be exported.
#[derive(Debug, thiserror::Error)]
#[error("cannot export to the collector")]
pub struct ExportError(#[from] ClientError);

/// Sends traces and metrics.
#[derive(Debug)]
pub struct Exporter {
    client: Client,
    config: ExportConfig,
    sender: Sender,
    started_ms: u64,
    backlog: Mutex<Backlog>,
    sampled: Mutex<Limiter>,
    clients: Mutex<Limiter>,
    dropped: AtomicU64,
    stop: watch::Sender<bool>,
}

/// Why a request was not taken.
enum Refused {
    /// It may be taken later.
    Now(String),
    /// It never will be.
    Always(String),
}

impl Exporter {
    /// Makes ready to send.
    ///
    /// # Errors
    /// When the certificates for https cannot be used.
    pub fn new(config: ExportConfig) -> Result<Self, ExportError> {
        let client = Client::new(config.collector.endpoint.clone(), None)?;
        let client = match &config.collector.endpoint {
            Endpoint::Https(_) => {
                client.trust(config.ca.as_deref().unwrap_or(Path::new(SYSTEM_CERTIFICATES)))?
            }
            _ => client,
        };
        let sender = Sender { host: config.host.clone(), version: env!("CARGO_PKG_VERSION").to_owned() };
        Ok(Self {
            client,
            config,
            sender,
            started_ms: now_ms(),
            backlog: Mutex::default(),
            sampled: Mutex::new(Limiter::new(SAMPLED.0, SAMPLED.1)),
            clients: Mutex::new(Limiter::new(CLIENTS.0, CLIENTS.1)),
            dropped: AtomicU64::new(0),
            stop: watch::Sender::new(false),
        })
    }

    /// Puts an invocation in line when it failed or was too slow, or when its caller has said that it is `sampled`, and not
    /// too many of its kind or of its function were sent lately.
    pub(super) fn offer(&self, ended: &Arc<Ended>, sampled: bool) {
        let limiter = match Kept::of(&ended.record) {
            Kept::Recent if !sampled => return,
            Kept::Recent => Some(&self.sampled),
            _ if ended.record.blame == Some(Blame::Client) => Some(&self.clients),
            _ => None,
        };
        let passes = limiter.is_none_or(|limiter| lock(limiter).pass(now_ms()));
        if !passes || !lock(&self.backlog).push(Arc::clone(ended)) {
            self.drop_some(1);
        }
    }

    /// Memory of traces that wait or are being sent, bytes.
    pub(super) fn bytes(&self) -> u64 {
        lock(&self.backlog).bytes() as u64
    }

    /// Traces and points that were to be sent and were not.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn drop_some(&self, count: u64) {
        self.dropped.fetch_add(count, Ordering::Relaxed);
    }

    /// Sends until [`Exporter::stop`], then what is left.
    pub(super) async fn run(self: Arc<Self>, recorder: Arc<Recorder>) {
        let (mut stop, mut ripe) = (self.stop.subscribe(), Vec::new());
        // Traces that are asked for again and again do not keep the metrics waiting.
        let both = async { tokio::join!(self.send_all_traces(&mut ripe), self.send_all_metrics(&recorder)) };
        tokio::select! {
            _ = stop.wait_for(|stopped| *stopped) => {}
            _ = both => {}
        }
        ripe.extend(lock(&self.backlog).take());
        let last = async {
            for batch in ripe.chunks(BATCH) {
                match self.send("traces", &self.traces(batch)).await {
                    Ok(refused) => self.drop_some(refused.min(batch.len() as u64)),
                    Err(_) => break,
                }
            }
            // Nobody is left to be told of what they miss.
            drop(self.send("metrics", &self.metrics(&recorder).0).await);
        };
        if tokio::time::timeout(LAST, last).await.is_err() {
            tracing::warn!("the collector did not take the last traces in time");
        }
    }

    /// Tells [`Exporter::run`] to end.
    pub(super) fn stop(&self) {
        self.stop.send_replace(true);
    }

    async fn send_all_metrics(&self, recorder: &Recorder) {
        let mut tick = tokio::time::interval(self.config.metrics_period);
        loop {
            tick.tick().await;
            // The numbers go on counting: what is not taken now is in the next ones.
            let (request, points) = self.metrics(recorder);
            match self.send("metrics", &request).await {
                Ok(refused) => self.drop_some(refused.min(points)),
                Err(Refused::Now(why) | Refused::Always(why)) => {
                    tracing::warn!(why, "metrics were not exported");
                    self.drop_some(points);
                }
            }
        }
    }

    /// Sends those of `ripe`, and fills it with what comes. Whenever it is left off, those that are not sent are in it.
    async fn send_all_traces(&self, ripe: &mut Vec<Arc<Ended>>) {
        let mut tick = tokio::time::interval(PERIOD);
        loop {
            tick.tick().await;
            let mut left = ripe.len();
            ripe.extend(lock(&self.backlog).take());
            while left > 0 {
                let batch = left.min(BATCH);
                self.send_traces(&ripe[..batch]).await;
                let sent: Vec<_> = ripe.drain(..batch).collect();
                lock(&self.backlog).done(&sent);
                left -= batch;
            }
        }
    }

    async fn send_traces(&self, batch: &[Arc<Ended>]) {
        let request = self.traces(batch);
        let mut pause = FIRST_PAUSE;
        for attempt in 1..=TRIES {
            match self.send("traces", &request).await {
                Ok(refused) => return self.drop_some(refused.min(batch.len() as u64)),
                Err(Refused::Now(why)) if attempt < TRIES => {
                    tracing::debug!(why, attempt, "the collector is asked again");
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                Err(Refused::Now(why) | Refused::Always(why)) => {
                    tracing::warn!(why, "{} traces were not exported", batch.len());
                    return self.drop_some(batch.len() as u64);
                }
            }
        }
    }

    fn traces(&self, batch: &[Arc<Ended>]) -> Bytes {
        let stored: Vec<_> = batch.iter().map(|ended| StoredTrace::of(ended)).collect();
        traces(&stored, &self.sender, |record| unix_ns(&record.started_at).unwrap_or_default()).into()
    }

    fn metrics(&self, recorder: &Recorder) -> (Bytes, u64) {
        let ns = |ms: u64| ms.saturating_mul(1_000_000);
        let (request, points) = metrics(&recorder.totals(), &self.sender, ns(self.started_ms), ns(now_ms()));
        (request.into(), points)
    }

    /// Sends a request; gives how many spans or points of it the collector did not want.
    async fn send(&self, what: &str, request: &Bytes) -> Result<u64, Refused> {
        let path = format!("{}/v1/{what}", self.config.collector.base);
        let mut call = Call::new(Method::POST, path, request.clone());
        call = call.header("content-type", "application/x-protobuf").header("user-agent", "stratosd");
        call.headers.extend(self.config.headers.0.iter().cloned());
        let sent = async {
            let response = self.client.send(call).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            Ok::<_, ClientError>((status, body.map(http_body_util::Collected::to_bytes).unwrap_or_default()))
        };
        match tokio::time::timeout(PATIENCE, sent).await {
            Ok(Ok((status, body))) if status.is_success() => {
                let (count, why) = rejected(&body);
                if count > 0 {
                    tracing::warn!(why, count, "the collector did not take all of the {what}");
                }
                Ok(count)
            }
            Ok(Ok((status, _))) => {
                let why = format!("it answered {status}");
                let later = [
                    StatusCode::TOO_MANY_REQUESTS,
                    StatusCode::BAD_GATEWAY,
                    StatusCode::SERVICE_UNAVAILABLE,
                    StatusCode::GATEWAY_TIMEOUT,
                ];
                Err(if later.contains(&status) { Refused::Now(why) } else { Refused::Always(why) })
            }
            Ok(Err(error)) => Err(Refused::Now(chain(&error))),
            Err(_) => Err(Refused::Now(format!("it did not answer within {} s", PATIENCE.as_secs()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collectors_have_an_address_and_a_path() {
        for (text, endpoint, base) in [
            ("http://localhost:4318", "http://localhost:4318", ""),
            ("http://localhost:4318/", "http://localhost:4318", ""),
            ("https://otlp.example.com/a/b/", "https://otlp.example.com:443", "/a/b"),
        ] {
            let collector: Collector = text.parse().unwrap();
            assert_eq!((collector.endpoint.to_string().as_str(), collector.base.as_str()), (endpoint, base));
        }
        for wrong in [
            "",
            "localhost:4318",
            "unix:///run/x",
            "grpc://a:1",
            "http://",
            "http://a:1/b?c",
            "http://a:1/ b",
        ] {
            assert!(wrong.parse::<Collector>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn headers_are_read_and_not_shown() {
        let headers: CollectorHeaders = "api-key=s%65cret%3D, x-b = c ,".parse().unwrap();
        let pairs: Vec<_> = headers.0.iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
        assert_eq!(pairs, [("api-key", "secret="), ("x-b", "c")]);
        assert!(!format!("{headers:?}").contains("secret"));
        for wrong in ["a", "a b=c", "a=%4", "a=%zz", "a=%0a", "=b"] {
            assert!(wrong.parse::<CollectorHeaders>().is_err(), "{wrong}");
        }
    }
}
