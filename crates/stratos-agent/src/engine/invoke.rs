//! One request from the edge to code and back, under one deadline.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body::Body;
use http_body_util::BodyExt;
use stratos_api::{ApiError, Blame, ErrorCode, InvocationRecord, LogLine, Phases};
use stratos_telemetry::{Ended, Late};
use stratos_types::{InvocationId, Timeout, TraceContext};
use tokio::sync::{mpsc, oneshot};

use super::deployed::Deployed;
use super::failure::{self, During, EndReason};
use super::instance::{StartTimes, WayIn};
use super::observe::Begin;
use super::pool::{Lease, Place, Pool};
use super::port::{Port, PortError};
use super::runtime_api::{Job, Reply};
use super::streamed::{ChunkBody, Finish, Source, StreamedBody, Tracked};
use super::{Answer, Engine, FunctionState, InvokeRequest, Meta, Outcome, Payload, Trigger, lock};
use crate::body::{BoxBody, BoxError};
use crate::telemetry::Recorder;

/// How long a broken connection waits for the news that the process died.
pub(super) const DEATH_NEWS: Duration = Duration::from_millis(100);

impl Engine {
    /// Runs a request to its answer. The request goes on when the caller goes away: what was delivered to code is
    /// finished, counted and recorded.
    pub async fn invoke(&self, request: InvokeRequest) -> Outcome {
        let meta = Meta::new(request.id, request.version, request.trace.clone());
        match tokio::spawn(self.clone().run(request)).await {
            Ok(outcome) => outcome,
            Err(error) => {
                let message = "the node failed while it ran this request";
                let error = ApiError::new(ErrorCode::Internal, message).caused_by(&error);
                Outcome { meta, result: Err(error) }
            }
        }
    }

    async fn run(self, request: InvokeRequest) -> Outcome {
        let mut run = Run {
            began: request.began,
            received: Instant::now(),
            begun_at: SystemTime::now() - request.began.elapsed(),
            trigger: request.trigger,
            latency_aim: None,
            key: request.key.clone(),
            request_bytes: match &request.payload {
                Payload::Event(bytes) => bytes.len() as u64,
                Payload::Http(request) => request.body().size_hint().lower(),
            },
            // The version is told once it is known to exist.
            meta: Meta::new(request.id, None, request.trace.clone()),
            failed_start: None,
            delivered: None,
            taken: Arc::default(),
            late: Arc::default(),
            start: None,
            recorder: Arc::clone(self.recorder()),
            state: None,
            kernel: None,
        };
        let deployed = match self.resolve(&request.key, request.version).await {
            Ok(deployed) => deployed,
            // Unknown names are not recorded: a caller could fill the node's memory with them.
            Err(error) => return run.outcome(Err(error.for_invocation(request.id))),
        };
        run.meta.version = Some(deployed.version);
        run.latency_aim = deployed.spec.slo.latency.map(Timeout::duration);
        run.state = Some(self.function_state(&request.key));
        let deadline = request.arrived + deployed.spec.timeout.duration();
        if Instant::now() >= deadline {
            // Not the function's time: it would be ended for what a slow client used up.
            let message =
                format!("the request took longer than the timeout of {} to arrive", deployed.spec.timeout);
            return run.failed(ApiError::new(ErrorCode::RequestTimeout, message), None);
        }
        let pool = self.pool(&deployed);
        let lease = match self.lease(&pool, deadline).await {
            Ok(lease) => lease,
            Err(error) => {
                run.failed_start = pool.start_begun().filter(|_| is_of_start(error.code));
                return run.failed(error, None);
            }
        };
        drop(pool);
        run.given(&lease);
        let instance = Arc::clone(&lease.instance);
        let outcome = match &instance.way_in {
            WayIn::Handler(jobs) => {
                let Payload::Event(payload) = request.payload else {
                    let message = "this function takes events, not HTTP requests";
                    return run.failed(ApiError::new(ErrorCode::BadRequest, message), Some(lease));
                };
                let job = NewJob { payload, deadline, client_context: request.client_context };
                run.ask_handler(&deployed, lease, jobs, job).await
            }
            WayIn::Http(port) => run.ask_port(&deployed, lease, port, request.payload, deadline).await,
        };
        match &outcome.result {
            _ if !outcome.meta.restored => {}
            Ok(_) => self.learn(&deployed, &instance),
            Err(error) => {
                let crashed = matches!(
                    error.code,
                    ErrorCode::FunctionCrashed
                        | ErrorCode::FunctionSyscallDenied
                        | ErrorCode::FunctionLibraryMissing
                        | ErrorCode::FunctionTimeout
                );
                if let Some(checkpoint) = instance.restored_from().filter(|_| crashed) {
                    self.restored_crashed(&deployed, checkpoint, error);
                }
            }
        }
        outcome
    }

    /// Waits for an instance, starting some when needed.
    async fn lease(&self, pool: &Arc<Pool>, deadline: Instant) -> Result<Lease, ApiError> {
        if self.0.stopping.load(Ordering::Acquire) {
            return Err(ApiError::new(ErrorCode::Unavailable, "the node is stopping"));
        }
        let granted = match pool.acquire()? {
            Place::Now(lease) => return Ok(lease),
            Place::InLine(granted) => granted,
        };
        self.start_where_needed(pool);
        match tokio::time::timeout_at(deadline.into(), granted).await {
            Ok(Ok(lease)) => lease,
            Ok(Err(_)) => Err(ApiError::new(ErrorCode::Unavailable, "the node is stopping")),
            Err(_) if pool.is_initializing() => Err(failure::timed_out(&pool.deployed.spec, During::Init)),
            Err(_) => Err(failure::queue_timed_out(&pool.deployed.spec)),
        }
    }
}

struct NewJob {
    payload: Bytes,
    deadline: Instant,
    client_context: Option<String>,
}

/// One request while it is run: collects what its record will say.
pub(super) struct Run {
    recorder: Arc<Recorder>,
    /// What is kept about the function, once it is known to exist.
    state: Option<Arc<FunctionState>>,
    key: stratos_types::FunctionKey,
    /// When the request began to arrive.
    began: Instant,
    /// When it was there, and let in.
    received: Instant,
    begun_at: SystemTime,
    trigger: Trigger,
    /// How long it should take at most.
    latency_aim: Option<Duration>,
    pub(super) meta: Meta,
    request_bytes: u64,
    start: Option<StartTimes>,
    /// When the start began that failed, where no instance was given for that.
    failed_start: Option<Instant>,
    /// When an instance was given.
    delivered: Option<Instant>,
    /// When its runtime took the request.
    taken: Arc<OnceLock<Instant>>,
    late: Arc<Late>,
    /// What the kernel had counted in the instance when it was given.
    kernel: Option<Begin>,
}

impl Run {
    fn given(&mut self, lease: &Lease) {
        self.meta.instance = Some(lease.instance.id);
        self.meta.cold = lease.start.is_some();
        self.meta.restored = lease.start.is_some_and(|start| start.restored);
        self.start = lease.start;
        self.kernel = self.state.as_ref().and_then(|state| lease.instance.observed.begin(&state.windows));
        self.delivered = Some(Instant::now());
        lease.instance.begin_work(self.meta.id);
    }

    async fn ask_handler(
        mut self,
        deployed: &Deployed,
        lease: Lease,
        jobs: &mpsc::UnboundedSender<Job>,
        new: NewJob,
    ) -> Outcome {
        let (reply, replied) = oneshot::channel();
        let job = Job {
            id: self.meta.id,
            payload: new.payload,
            deadline: new.deadline,
            trace: self.meta.trace.clone(),
            client_context: new.client_context,
            taken: Arc::clone(&self.taken),
            late: Arc::clone(&self.late),
            reply,
        };
        if jobs.send(job).is_err() {
            let error = self.died(deployed, &lease).await;
            return self.failed(error, Some(lease));
        }
        let replied = tokio::select! {
            // An answer that is there counts, even when the process died right after it.
            biased;
            reply = replied => reply.ok(),
            _ = lease.instance.death() => None,
            () = tokio::time::sleep_until(new.deadline.into()) => {
                lease.instance.end(EndReason::Timeout);
                return self.failed(failure::timed_out(&deployed.spec, During::Request), Some(lease));
            }
        };
        match replied {
            Some(Reply::Event(body)) => {
                let bytes = body.len() as u64;
                self.answered(Answer::Event(body), bytes, lease)
            }
            Some(Reply::Failed(error)) => self.failed(deployed.explain(error), Some(lease)),
            Some(Reply::Stream { content_type, chunks, ended }) => {
                self.meta.phases = self.phases(Instant::now());
                let meta = self.meta.clone();
                let source = Source::Handler(ended);
                let body = self.stream(deployed, lease, ChunkBody(chunks), new.deadline, source);
                Outcome { meta, result: Ok(Answer::EventStream { content_type, body }) }
            }
            None => {
                let error = self.died(deployed, &lease).await;
                self.failed(error, Some(lease))
            }
        }
    }

    async fn ask_port(
        mut self,
        deployed: &Deployed,
        lease: Lease,
        port: &Port,
        payload: Payload,
        deadline: Instant,
    ) -> Outcome {
        let (request, sent_whole) = http_request(payload, &self.meta.trace, self.meta.id);
        let instance = Arc::clone(&lease.instance);
        let sent = tokio::select! {
            sent = port.send(&instance, request) => sent,
            () = tokio::time::sleep_until(deadline.into()) => {
                if !sent_whole.load(Ordering::Acquire) {
                    // The function waits for a client that is too slow: only its connection ends.
                    let message = "the request did not arrive whole within the function's timeout";
                    return self.failed(ApiError::new(ErrorCode::RequestTimeout, message), Some(lease));
                }
                lease.instance.end(EndReason::Timeout);
                return self.failed(failure::timed_out(&deployed.spec, During::Request), Some(lease));
            }
        };
        match sent {
            Ok((response, sender)) => {
                self.meta.phases = self.phases(Instant::now());
                let meta = self.meta.clone();
                let (mut head, body) = response.into_parts();
                remove_hop_by_hop(&mut head.headers);
                let body = self.stream(deployed, lease, body, deadline, Source::Port(sender));
                let response = Box::new(Response::from_parts(head, body));
                Outcome { meta, result: Ok(Answer::Http(response)) }
            }
            Err(error) => {
                // A process that dies takes its connections with it; the news of its death comes a moment later.
                let error = match tokio::time::timeout(DEATH_NEWS, instance.death()).await {
                    Ok(death) => deployed.explain(death.error(During::Request, deployed.spec.memory)),
                    Err(_) => bad_answer(&error),
                };
                self.failed(error, Some(lease))
            }
        }
    }

    async fn died(&self, deployed: &Deployed, lease: &Lease) -> ApiError {
        deployed.explain(lease.instance.death().await.error(During::Request, deployed.spec.memory))
    }

    /// Passes a body on while keeping place and deadline; the record is made when it ends.
    fn stream<B>(
        self,
        deployed: &Deployed,
        lease: Lease,
        body: B,
        deadline: Instant,
        source: Source,
    ) -> BoxBody
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let finish = Finish::new(self, lease, source, deadline, Arc::clone(&deployed.spec));
        StreamedBody::new(body, finish).boxed_unsync()
    }

    fn answered(mut self, answer: Answer, bytes: u64, lease: Lease) -> Outcome {
        let now = Instant::now();
        self.meta.phases = self.phases(now);
        let meta = Meta { answered: Some((now, Arc::clone(&self.late))), ..self.meta.clone() };
        self.finish(bytes, None, Some(lease));
        Outcome { meta, result: Ok(answer) }
    }

    fn failed(mut self, error: ApiError, lease: Option<Lease>) -> Outcome {
        let now = Instant::now();
        self.meta.phases = self.phases(now);
        let error = error.for_invocation(self.meta.id);
        let meta = Meta { answered: Some((now, Arc::clone(&self.late))), ..self.meta.clone() };
        self.finish(0, Some(&error), lease);
        Outcome { meta, result: Err(error) }
    }

    fn outcome(mut self, result: Result<Answer, ApiError>) -> Outcome {
        self.meta.phases = self.phases(Instant::now());
        Outcome { meta: self.meta, result }
    }

    /// The phases up to `now`: what lies between the moments of this request, each of which ends one phase and begins the
    /// next. A start that began before this request arrived counts from there only.
    pub(super) fn phases(&self, now: Instant) -> Phases {
        let mut last = self.began;
        let mut until = |moment: Instant| {
            let moment = moment.clamp(last, now.max(last));
            let us = micros(self.began, moment) - micros(self.began, last);
            last = moment;
            us
        };
        let mut phases = Phases { receive_us: until(self.received), ..Phases::default() };
        match (&self.start, self.delivered) {
            (_, None) => {
                phases.queue_us = until(self.failed_start.unwrap_or(now));
                phases.init_us = until(now);
            }
            (None, Some(delivered)) => phases.queue_us = until(delivered),
            (Some(start), Some(_)) => {
                phases.queue_us = until(start.began);
                phases.sandbox_us = until(start.executed);
                phases.runtime_us = until(start.running);
                phases.init_us = until(start.ready);
            }
        }
        if let Some(delivered) = self.delivered {
            phases.dispatch_us = until(*self.taken.get().unwrap_or(&delivered));
            phases.handler_us = until(now);
        }
        phases.total_us = micros(self.began, last);
        phases
    }

    /// Gives the place back and writes the record, off the path of the answer.
    pub(super) fn finish(self, response_bytes: u64, error: Option<&ApiError>, lease: Option<Lease>) {
        let (mut cpu_us, mut memory_peak_kb, mut kernel) = (None, None, None);
        if let Some(lease) = lease {
            lease.instance.end_work(self.meta.id);
            // Before the place is given back: the next request's use is not this one's.
            (cpu_us, memory_peak_kb) = lease.instance.usage();
            let begin = self.kernel.zip(self.state.as_ref());
            kernel = begin.and_then(|(begin, state)| lease.instance.observed.end(begin, &state.windows));
            drop(lease);
        }
        let phases = self.meta.phases;
        let served = Duration::from_micros(phases.total_us.saturating_sub(phases.receive_us));
        let restored = self.start.filter(|start| start.restored);
        let record = InvocationRecord {
            id: self.meta.id.to_string(),
            function: self.key.name.to_string(),
            version: self.meta.version.unwrap_or_default(),
            instance: self.meta.instance.map(|id| id.to_string()),
            started_at: crate::clock::rfc3339(self.begun_at),
            cold: self.meta.cold,
            restored: self.meta.restored,
            phases,
            request_bytes: self.request_bytes,
            response_bytes,
            memory_peak_kb,
            cpu_us,
            outcome: error.map_or("ok", |e| e.code.as_str()).to_owned(),
            blame: error.map(|e| e.blame),
            trace_id: self.meta.trace.trace_id(),
            span_id: self.meta.trace.span_id(),
            trigger: self.trigger.as_str().to_owned(),
            slo_breached: self.latency_aim.is_some_and(|aim| served > aim),
            pre_hook_us: restored.map(|start| micros(start.executed, start.ready)),
            post_hook_us: None,
            kernel,
        };
        let Some(state) = self.state else { return };
        if record.slo_breached || error.is_some_and(|error| error.blame == Blame::Function) {
            state.windows.failed(&record.function, &state.observer);
        }
        let instance = record.instance.clone().unwrap_or_else(|| "-".into());
        platform_line(&state.log, &instance, Some(self.meta.id), report(&record, error));
        lock(&state.records).add(&record);
        let said = error.map(|error| error.message.as_str());
        let ended = Ended::new(record, self.meta.trace.parent_span_id(), said, self.late);
        self.recorder.ended(ended, self.meta.trace.is_sampled_above());
    }
}

/// Whether an error is told of a start that failed, rather than of waiting for one.
fn is_of_start(code: ErrorCode) -> bool {
    use ErrorCode::{
        EnvironmentTooLarge, FunctionCrashed, FunctionInitFailed, FunctionLibraryMissing,
        FunctionOutOfMemory, FunctionSyscallDenied, FunctionTimeout, Internal, SecretMissing,
    };
    matches!(
        code,
        FunctionInitFailed
            | FunctionCrashed
            | FunctionLibraryMissing
            | FunctionOutOfMemory
            | FunctionSyscallDenied
            | FunctionTimeout
            | SecretMissing
            | EnvironmentTooLarge
            | Internal
    )
}

fn micros(from: Instant, to: Instant) -> u64 {
    to.saturating_duration_since(from).as_micros() as u64
}

/// The line of the log that ends an invocation.
fn report(record: &InvocationRecord, error: Option<&ApiError>) -> String {
    let ms = |us: u64| us as f64 / 1000.0;
    let p = &record.phases;
    let mut line = format!(
        "REPORT {} {} total={:.2}ms handler={:.2}ms",
        record.outcome,
        record.start(),
        ms(p.total_us),
        ms(p.handler_us)
    );
    let others = |(name, us): &(&str, u64)| *us > 0 && *name != "handler";
    for (name, us) in p.named().into_iter().filter(others) {
        line += &format!(" {name}={:.2}ms", ms(us));
    }
    if let Some(kb) = record.memory_peak_kb {
        line += &format!(" memory={}MB", kb.div_ceil(1024));
    }
    match error {
        Some(error) => line + &format!(" blame={} error={:?}", error.blame, error.message),
        None => line,
    }
}

pub(super) fn platform_line(
    log: &super::FunctionLog,
    instance: &str,
    id: Option<InvocationId>,
    message: String,
) {
    log.add(LogLine {
        at: crate::clock::rfc3339(SystemTime::now()),
        stream: "platform".into(),
        instance: instance.into(),
        invocation: id.map(|id| id.to_string()),
        message,
    });
}

fn bad_answer(error: &PortError) -> ApiError {
    ApiError::new(ErrorCode::FunctionBadResponse, "the function's server gave no proper answer")
        .caused_by(error)
}

/// Headers that belong to one connection (RFC 9110, section 7.6.1), beside those that `Connection` names.
const HOP_BY_HOP: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<String> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    for name in HOP_BY_HOP.into_iter().map(str::to_owned).chain(named) {
        headers.remove(name.as_str());
    }
}

/// The request as the function's server gets it, and whether all of it was there to send.
fn http_request(
    payload: Payload,
    trace: &TraceContext,
    id: InvocationId,
) -> (Request<BoxBody>, Arc<AtomicBool>) {
    let (mut request, whole) = match payload {
        Payload::Http(request) => {
            let (head, body) = request.into_parts();
            let (body, whole) = Tracked::new(body);
            (Request::from_parts(head, body.boxed_unsync()), whole)
        }
        Payload::Event(event) => {
            let mut request = Request::new(crate::body::full(event));
            *request.method_mut() = Method::POST;
            request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            (request, Arc::new(AtomicBool::new(true)))
        }
    };
    let headers = request.headers_mut();
    remove_hop_by_hop(headers);
    if !headers.contains_key(header::HOST) {
        headers.insert(header::HOST, HeaderValue::from_static("localhost"));
    }
    let mut set = |name: &'static str, value: &str| match HeaderValue::from_str(value) {
        Ok(value) => drop(headers.insert(name, value)),
        Err(_) => drop(headers.remove(name)),
    };
    set("traceparent", &trace.traceparent());
    set("tracestate", trace.tracestate().unwrap_or("\n"));
    set(stratos_api::header::INVOCATION, &id.to_string());
    set("x-amzn-trace-id", &trace.xray());
    (request, whole)
}
