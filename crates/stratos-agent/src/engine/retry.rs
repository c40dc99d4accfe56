//! Asynchronous invocations: taken from the store, run, tried again with back-off, buried in the dead-letter list.
//!
//! An invocation is in the store until its outcome is, so a killed agent repeats at most what it was running then.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt;
use stratos_api::{ApiError, ErrorCode};
use stratos_store::AsyncRecord;
use stratos_types::{InvocationId, TraceContext};

use super::{Answer, Engine, InvokeRequest, Outcome, Payload, Trigger, lock};
use crate::clock::now_ms;

/// Attempts before an invocation is given up; AWS Lambda makes as many by default.
const MAX_ATTEMPTS: u32 = 3;
/// Attempts begun, those counted that a killed node left without an outcome: kills alone must not lose an invocation
/// soon, and one that takes the node down with it must not do so for ever.
const MAX_BEGUN: u32 = 3 * MAX_ATTEMPTS;
/// Pause before the second attempt; each further one is four times as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Pause when the node had no room: the function is not to blame, so the attempt does not count.
const NO_ROOM_PAUSE: Duration = Duration::from_millis(500);
/// Asynchronous invocations run at the same time.
const PARALLEL: usize = 64;
/// Longest sleep between two looks at the store, whatever it says is due.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// What follows from an attempt.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Done,
    RetryAfter(Duration),
    /// The node had no room: tried again soon, and the attempt does not count.
    PutBack,
    Bury,
}

fn next_step(error: Option<&ApiError>, attempts: u32) -> Next {
    let Some(error) = error else { return Next::Done };
    match error.code {
        ErrorCode::QueueFull | ErrorCode::QueueTimeout | ErrorCode::Unavailable => Next::PutBack,
        // The function is gone: no attempt will find it.
        ErrorCode::NotFound => Next::Bury,
        _ if attempts >= MAX_ATTEMPTS => Next::Bury,
        _ => Next::RetryAfter(FIRST_PAUSE * 4u32.pow(attempts.saturating_sub(1).min(8))),
    }
}

impl Engine {
    pub(super) async fn run_async_queue(self) {
        let running = Arc::new(Mutex::new(HashSet::new()));
        if let Err(error) = self.blocking(stratos_store::Store::recover).await {
            tracing::error!(%error, "cannot read the asynchronous invocations of the last run");
        }
        loop {
            let sleep = self.start_due(&running).await;
            tokio::select! {
                () = self.0.async_work.notified() => {}
                () = tokio::time::sleep(sleep) => {}
            }
        }
    }

    /// Starts what is due and not running; gives the time until the next one is.
    async fn start_due(&self, running: &Arc<Mutex<HashSet<InvocationId>>>) -> Duration {
        let already = lock(running).len();
        if already >= PARALLEL {
            return LONGEST_SLEEP; // Each that ends wakes the loop.
        }
        let now = now_ms();
        // Those just taken may not be marked as running yet, so as many more are asked for.
        let due = self.blocking(move |store| store.due(now, PARALLEL + already)).await;
        let due = match due {
            Ok(due) => due,
            Err(error) => {
                tracing::error!(%error, "cannot read the asynchronous invocations");
                return Duration::from_secs(1);
            }
        };
        for record in due {
            if lock(running).len() >= PARALLEL {
                break;
            }
            if lock(running).insert(record.request.id) {
                let (engine, running) = (self.clone(), Arc::clone(running));
                tokio::spawn(async move {
                    let id = record.request.id;
                    engine.attempt(record).await;
                    lock(&running).remove(&id);
                    engine.0.async_work.notify_one();
                });
            }
        }
        match self.blocking(stratos_store::Store::next_due).await {
            Ok(Some(at)) if at > now => Duration::from_millis(at - now).min(LONGEST_SLEEP),
            _ => LONGEST_SLEEP,
        }
    }

    async fn attempt(&self, record: AsyncRecord) {
        let request = record.request;
        let id = request.id;
        let tenant = request.key.tenant.clone();
        if let Err(error) = self.blocking(move |store| store.begin_attempt(&tenant, id)).await {
            tracing::error!(invocation = %id, %error, "cannot begin an attempt");
            return tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let tenant = request.key.tenant.clone();
        let payload = match self.blocking(move |store| store.async_record(&tenant, id)).await {
            Ok(Some(record)) => record.request.payload,
            // Forgotten meanwhile.
            Ok(None) => return,
            Err(error) => {
                tracing::error!(invocation = %id, %error, "cannot read an invocation's payload");
                return tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        let trace = TraceContext::parse(&request.traceparent, request.tracestate.as_deref());
        let attempts = record.attempts + 1;
        if attempts > MAX_BEGUN {
            tracing::warn!(invocation = %id, attempts, "given up: the node ended in the middle of it too often");
            let error = ApiError::new(ErrorCode::Internal, "the node ended in the middle of it too often");
            let said = serde_json::to_string(&error).unwrap_or_default();
            let tenant = request.key.tenant.clone();
            if let Err(error) = self.blocking(move |store| store.bury(&tenant, id, said)).await {
                tracing::error!(invocation = %id, %error, "cannot store how an invocation ended");
            }
            return;
        }
        let outcome = self
            .invoke(InvokeRequest {
                key: request.key.clone(),
                version: request.version,
                id,
                payload: Payload::Event(Bytes::from(payload)),
                trace: trace.map_or_else(TraceContext::root, |t| t.child()),
                trigger: Trigger::Pubsub,
                began: Instant::now(),
                arrived: Instant::now(),
                client_context: request.client_context,
            })
            .await;
        let error = failure_of(outcome).await;
        let said = error.as_ref().map(|e| serde_json::to_string(e).unwrap_or_else(|_| e.to_string()));
        let said = said.unwrap_or_default();
        let tenant = request.key.tenant.clone();
        let written = match next_step(error.as_ref(), attempts) {
            Next::Done => self.blocking(move |store| store.succeed(&tenant, id)).await,
            Next::RetryAfter(pause) => {
                let when = now_ms() + pause.as_millis() as u64;
                self.blocking(move |store| store.retry_at(&tenant, id, when, said)).await
            }
            Next::PutBack => {
                let when = now_ms() + NO_ROOM_PAUSE.as_millis() as u64;
                self.blocking(move |store| store.put_back(&tenant, id, when)).await
            }
            Next::Bury => {
                tracing::warn!(function = %request.key, invocation = %id, attempts, "given up: now a dead letter");
                self.blocking(move |store| store.bury(&tenant, id, said)).await
            }
        };
        if let Err(error) = written {
            // It stays in the store as it was and is run again: at least once is the promise.
            tracing::error!(invocation = %id, %error, "cannot store how an invocation ended");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&stratos_store::Store) -> Result<T, stratos_store::StoreError> + Send + 'static,
    ) -> Result<T, stratos_store::StoreError> {
        let store = self.0.store.clone();
        match tokio::task::spawn_blocking(move || work(&store)).await {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
}

/// Why an attempt failed, if it did: nobody reads its answer, but a `$PORT` function's 5xx is a failure too.
async fn failure_of(outcome: Outcome) -> Option<ApiError> {
    match outcome.result {
        Err(error) => Some(error),
        Ok(Answer::Event(_)) => None,
        Ok(Answer::EventStream { body, .. }) => drain(body).await,
        Ok(Answer::Http(response)) => {
            let status = response.status();
            let broken = drain(response.into_body()).await;
            let message =
                || ApiError::new(ErrorCode::FunctionError, format!("the function answered {status}"));
            broken.or_else(|| status.is_server_error().then(message))
        }
    }
}

async fn drain(mut body: crate::body::BoxBody) -> Option<ApiError> {
    while let Some(frame) = body.frame().await {
        if let Err(error) = frame {
            let message = "the function's answer broke off";
            return Some(ApiError::new(ErrorCode::FunctionBadResponse, message).caused_by(&*error));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_tried_again_with_back_off_and_then_buried() {
        let error = |code| Some(ApiError::new(code, ""));
        let secs = |s| Next::RetryAfter(Duration::from_secs(s));
        for (error, attempts, next) in [
            (None, 1, Next::Done),
            (error(ErrorCode::FunctionError), 1, secs(1)),
            (error(ErrorCode::FunctionTimeout), 2, secs(4)),
            (error(ErrorCode::FunctionError), 3, Next::Bury),
            (error(ErrorCode::QueueFull), 9, Next::PutBack),
            (error(ErrorCode::NotFound), 1, Next::Bury),
        ] {
            assert_eq!(next_step(error.as_ref(), attempts), next);
        }
    }
}
