//! Paths of the node API, version 1. `{name}` stands for a function or a secret, `{id}` for an invocation.

/// Liveness and what the node lacks.
pub const HEALTH: &str = "/v1/health";
/// This API, as an OpenAPI 3.1 document.
pub const OPENAPI: &str = "/v1/openapi.json";
/// GET: all functions.
pub const FUNCTIONS: &str = "/v1/functions";
/// GET: one function. DELETE: remove it.
pub const FUNCTION: &str = "/v1/functions/{name}";
/// GET: versions. POST: deploy a new one (body: a tar archive, plain, gzip or zstd).
pub const VERSIONS: &str = "/v1/functions/{name}/versions";
/// POST: deploy, the name taken from the package's `stratos.toml`.
pub const DEPLOY: &str = "/v1/functions";
/// POST: make an earlier version the current one.
pub const ROLLBACK: &str = "/v1/functions/{name}/rollback";
/// POST: invoke; `?mode=async` stores the request and answers 202.
pub const INVOKE: &str = "/v1/functions/{name}/invoke";
/// GET: the last invocations' records; `?errors=true` for those that failed, `?limit=N`.
pub const INVOCATIONS: &str = "/v1/functions/{name}/invocations";
/// GET: log lines; `?tail=N`, `?follow=true` (newline-delimited JSON).
pub const LOGS: &str = "/v1/functions/{name}/logs";
/// POST: count and time every system call of its instances; `?for=30s`. GET: the last such window. DELETE: end the open
/// one now.
pub const TRACE: &str = "/v1/functions/{name}/trace";
/// GET: asynchronous invocations that failed for good.
pub const DEAD_LETTERS: &str = "/v1/functions/{name}/dead-letters";
/// POST: queue it again. DELETE: forget it.
pub const DEAD_LETTER: &str = "/v1/functions/{name}/dead-letters/{id}";
/// GET: state of one asynchronous invocation.
pub const INVOCATION: &str = "/v1/invocations/{id}";
/// GET: one invocation in full, where its trace was kept.
pub const INVOCATION_TRACE: &str = "/v1/invocations/{id}/trace";
/// GET: summaries of all functions' invocations by the minute; `?minutes=N`.
pub const TELEMETRY_FUNCTIONS: &str = "/v1/telemetry/functions";
/// GET: the node and its functions as Prometheus reads them, or as OpenMetrics when that is asked for.
pub const METRICS: &str = "/metrics";
/// GET: all secrets, without their values.
pub const SECRETS: &str = "/v1/secrets";
/// PUT: set it (body: the value). DELETE: remove it; `?force=true` also when functions use it.
pub const SECRET: &str = "/v1/secrets/{name}";
/// GET: the node as a machine.
pub const NODE: &str = "/v1/node";
/// GET: its processes.
pub const NODE_TREE: &str = "/v1/node/tree";
/// GET: what it can see and enforce, and what it lacks.
pub const NODE_FEATURES: &str = "/v1/node/features";
/// GET: its last boots, phase by phase.
pub const NODE_BOOTS: &str = "/v1/node/boots";
/// GET: one boot as a chart (SVG); `?boot=N`.
pub const NODE_BOOT_SVG: &str = "/v1/node/boot.svg";
/// GET: its own log lines; `?source=NAME`, `?tail=N`, `?follow=true` (newline-delimited JSON).
pub const NODE_LOGS: &str = "/v1/node/logs";
/// POST: shut down in order and start again.
pub const NODE_REBOOT: &str = "/v1/node/reboot";
/// POST: shut down in order and switch off.
pub const NODE_POWEROFF: &str = "/v1/node/poweroff";
/// POST: build an artifact of a package; `?name=NAME`, `?runtime=false`, `?checkpoint=false`.
pub const BUILDS: &str = "/v1/builds";
/// GET: a built artifact. DELETE: it was fetched.
pub const BUILD: &str = "/v1/builds/{id}";
/// GET: keys whose signatures are believed. POST: enroll one (body: PEM).
pub const KEYS: &str = "/v1/keys";
/// DELETE: believe it no more.
pub const KEY: &str = "/v1/keys/{id}";
/// AWS Lambda's Invoke.
pub const AWS_INVOKE: &str = "/2015-03-31/functions/{name}/invocations";
/// GET: the page for people.
pub const UI: &str = "/ui";
/// GET: what the page is made of.
pub const UI_FILE: &str = "/ui/{file}";
/// A function's own URL.
pub const FUNCTION_URL: &str = "/f/{name}/{*path}";
