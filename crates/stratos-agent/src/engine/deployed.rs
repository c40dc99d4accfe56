//! One deployed version, ready to be started: its images mounted, its command and environment made.

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use sha2::{Digest as _, Sha256};
use stratos_api::{ApiError, ErrorCode};
use stratos_sandbox::egress::EgressPolicy;
use stratos_sandbox::seccomp::SeccompFilter;
use stratos_sandbox::{Features, Image, InstancePlan, ReservedCpus};
use stratos_types::spec::Inferred;
use stratos_types::{
    CpuClass, CpuShare, Digest, Entry, FunctionKey, FunctionSpec, InstanceId, Runtime, Version,
};

use super::checkpointable::{ParkPoint, park_point};
use super::{Engine, EngineError, failure, read, release, write};
use crate::layers::Layer;
use crate::warm::Source;
use crate::warm::recording::Owner;

/// The port that a `$PORT` function listens on (Knative's default).
pub(super) const HTTP_PORT: u16 = 8080;
/// Size of an instance's /tmp as a share of its memory limit: tmpfs pages count against that limit.
const TMP_SHARE: u64 = 2;
/// Processes and threads of one instance.
const PIDS_MAX: u32 = 256;
/// Share of the memory limit that V8's old space may take: the rest is for young space, buffers and code.
const NODE_OLD_SPACE_PERCENT: u32 = 75;

/// One deployed version.
pub(super) struct Deployed {
    pub(super) key: FunctionKey,
    pub(super) version: Version,
    pub(super) spec: Arc<FunctionSpec>,
    layer: Arc<Layer>,
    function: Arc<Image>,
    function_digest: Digest,
    seccomp: Arc<SeccompFilter>,
    egress: Option<Arc<EgressPolicy>>,
    argv: Vec<CString>,
    env: Vec<CString>,
    /// Its instances are given secrets, or variables of the node.
    pub(super) is_given: bool,
    /// What of the environment depends on the version's number, which another node counts differently.
    numbered: Vec<CString>,
}

/// What a version consists of.
pub(super) struct Parts {
    pub(super) spec: FunctionSpec,
    pub(super) layer: Arc<Layer>,
    pub(super) function: Arc<Image>,
    pub(super) function_digest: Digest,
}

/// The system call profile of each runtime.
pub(super) struct Profiles(HashMap<Runtime, Arc<SeccompFilter>>);

impl Profiles {
    pub(super) fn load() -> Result<Self, EngineError> {
        let load = |runtime: Runtime| {
            let filter = SeccompFilter::for_runtime(runtime.as_str());
            let filter =
                filter.map_err(|source| EngineError::Profile { runtime: runtime.as_str(), source })?;
            Ok((runtime, Arc::new(filter)))
        };
        Runtime::ALL.into_iter().map(load).collect::<Result<_, _>>().map(Self)
    }
}

impl Engine {
    /// Finds a version, the current one when none is named, and makes it ready to be started.
    pub(super) async fn resolve(
        &self,
        key: &FunctionKey,
        version: Option<Version>,
    ) -> Result<Arc<Deployed>, ApiError> {
        let cached = read(&self.0.current).get(key).cloned();
        if let Some(deployed) = cached
            && version.is_none_or(|v| v == deployed.version)
        {
            return Ok(deployed);
        }
        let (engine, key) = (self.clone(), key.clone());
        let loading = tokio::task::spawn_blocking(move || engine.load(&key, version));
        loading.await.map_err(|error| {
            ApiError::new(ErrorCode::Internal, "loading the function failed").caused_by(&error)
        })?
    }

    fn load(&self, key: &FunctionKey, version: Option<Version>) -> Result<Arc<Deployed>, ApiError> {
        let seen = self.0.changes.load(Ordering::Acquire);
        let record = self.0.store.function(key).map_err(|e| failure::storage(&e))?;
        let record = record.ok_or_else(|| failure::unknown_function(key, None))?;
        let wanted = version.unwrap_or(record.current);
        if let Some(pool) = super::lock(&self.0.pools).get(&(key.clone(), wanted)) {
            return Ok(Arc::clone(&pool.deployed));
        }
        let found = record.versions.into_iter().find(|v| v.version == wanted);
        let found = found.ok_or_else(|| failure::unknown_function(key, version))?;
        let spec = FunctionSpec::parse(&found.spec_toml, &Inferred::default()).map_err(|error| {
            ApiError::new(ErrorCode::Internal, "the stored specification does not parse").caused_by(&error)
        })?;
        let layer = self.0.layers.get(&found.layer_name).map_err(|error| {
            let what = format!("the function's runtime layer `{}` is not usable", found.layer_name);
            internal(&what, &error).hint(error.hint())
        })?;
        let image = self.0.store.blobs().path(&found.image);
        let function = self.0.sandbox.mount_image(&image);
        let function =
            function.map_err(|error| internal("the function's image cannot be mounted", &error))?;
        let parts = Parts { spec, layer, function, function_digest: found.image };
        let deployed = Arc::new(self.assemble(key, Some(wanted), parts)?);
        let mut current = write(&self.0.current);
        if wanted == record.current && self.0.changes.load(Ordering::Acquire) == seen {
            current.insert(key.clone(), Arc::clone(&deployed));
        }
        drop(current);
        Ok(deployed)
    }

    /// Makes a version ready to be started; one without a number is being built for somewhere else.
    pub(super) fn assemble(
        &self,
        key: &FunctionKey,
        version: Option<Version>,
        parts: Parts,
    ) -> Result<Deployed, ApiError> {
        let Parts { spec, layer, function, function_digest } = parts;
        let egress = (!spec.egress.is_empty())
            .then(|| EgressPolicy::new(spec.egress.clone(), self.0.config.egress_denied.clone()))
            .transpose()
            .map_err(|error| internal("the function's egress rules cannot be used", &error))?;
        Ok(Deployed {
            argv: argv(&spec),
            env: env(&spec, key),
            numbered: numbered(&spec, key, version),
            is_given: release::is_given(&self.0.config.environment, &spec),
            seccomp: Arc::clone(&self.0.profiles.0[&spec.runtime]),
            egress: egress.map(Arc::new),
            key: key.clone(),
            version: version.unwrap_or_default(),
            spec: Arc::new(spec),
            layer,
            function,
            function_digest,
        })
    }
}

fn internal(what: &str, error: &(dyn std::error::Error + 'static)) -> ApiError {
    ApiError::new(ErrorCode::Internal, what.to_owned()).caused_by(error)
}

/// What decides whether a checkpoint is of a version: its code, what it runs on, and how it is started. Not its number,
/// nor anything of the node: the same function has the same subject everywhere.
///
/// `is_given`: whether its instances are given secrets, or variables of the node.
pub(crate) fn subject(
    spec: &FunctionSpec,
    key: &FunctionKey,
    layer: Digest,
    function: Digest,
    is_given: bool,
) -> String {
    let mut digest = Sha256::new();
    for text in argv(spec).iter().chain(&env(spec, key)) {
        digest.update(text.as_bytes_with_nul());
    }
    digest.update(spec.prime.join("\0"));
    let start = digest.finalize();
    let start: String = start.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    // A server that does not wait for its release may have one as long as there is nothing to give it.
    let given = match park_point(spec) {
        Ok(ParkPoint::Listening) if is_given => ", with variables to be given",
        _ => "",
    };
    format!("{key} of {function} on {layer} by {start}{given}")
}

impl Deployed {
    /// What the sandbox needs to start one instance.
    pub(super) fn plan(&self, id: InstanceId) -> InstancePlan {
        self.plan_with(id, variable("AWS_LAMBDA_LOG_STREAM_NAME", &id.to_string()))
    }

    /// The same for an instance that is started to be checkpointed: its runtime parks when it could serve.
    pub(super) fn plan_for_checkpoint(&self, id: InstanceId) -> InstancePlan {
        let mut plan = self.plan_with(id, variable("STRATOS_CHECKPOINT", "1"));
        if park_point(&self.spec) == Ok(ParkPoint::RestoreNext) {
            // Its client runs hooks and asks for `restore/next`, where it is dumped.
            plan.env.retain(|variable| !variable.as_bytes().starts_with(INITIALIZATION_TYPE.as_bytes()));
            plan.env.push(variable(INITIALIZATION_TYPE, "snap-start"));
        }
        if !self.spec.prime.is_empty() {
            let prime = serde_json::to_string(&self.spec.prime).expect("texts are JSON");
            plan.env.push(variable("STRATOS_PRIME", &prime));
        }
        plan
    }

    /// What of a version decides whether a checkpoint is of it.
    pub(super) fn subject(&self) -> String {
        let (layer, function) = (self.layer.manifest.image_digest, self.function_digest);
        subject(&self.spec, &self.key, layer, function, self.is_given)
    }

    /// The environment that an instance is given at its release, when it goes on from a checkpoint: its own part, in
    /// place of what was there when the checkpoint was made. Each variable ends with a NUL byte.
    pub(super) fn released(&self, id: InstanceId) -> Vec<u8> {
        let stream = variable("AWS_LAMBDA_LOG_STREAM_NAME", &id.to_string());
        let all = self.numbered.iter().chain([&stream]);
        all.flat_map(|variable| variable.as_bytes_with_nul().iter().copied()).collect()
    }

    fn plan_with(&self, id: InstanceId, variable: CString) -> InstancePlan {
        let mut env = self.env.clone();
        env.extend(self.numbered.iter().cloned());
        env.push(variable);
        InstancePlan {
            id: id.to_string(),
            layer: Arc::clone(&self.layer.image),
            function: Arc::clone(&self.function),
            argv: self.argv.clone(),
            env,
            memory_bytes: self.spec.memory.bytes(),
            cpu_millis: self.spec.cpu.map(CpuShare::millis),
            reserved_cpus: self.spec.cpu_class == CpuClass::Reserved,
            pids_max: PIDS_MAX,
            tmp_bytes: self.spec.memory.bytes() / TMP_SHARE,
            seccomp: Arc::clone(&self.seccomp),
            egress: self.egress.clone(),
            hostname: self.key.name.to_string(),
        }
    }

    /// An error of an instance as it is told. What looks like the function's failure is the node's when the kernel
    /// could not read the layer: the code never ran, or died of it.
    pub(super) fn explain(&self, error: ApiError) -> ApiError {
        if failure::may_be_unreadable_layer(&error) && self.layer.is_damaged() {
            return failure::damaged_layer(&self.layer.manifest.name, error);
        }
        // The first thing to look for: other platforms have them in the environment by then.
        if error.code == ErrorCode::FunctionInitFailed && self.loads_without_secrets() {
            return error.hint(
                "secrets are not there yet when the handler is loaded: read them in the handler or in a restore \
                 hook, or write checkpoint = \"off\" in stratos.toml",
            );
        }
        error
    }

    /// Whether there are secrets that a handler does not see while it is loaded.
    pub(super) fn loads_without_secrets(&self) -> bool {
        !self.spec.secrets.is_empty() && !release::is_given_at_start(&self.spec)
    }

    /// The program that an instance executes, for messages.
    pub(super) fn program(&self) -> String {
        self.argv[0].to_string_lossy().into_owned()
    }

    /// Its own image.
    pub(super) fn function_source(&self) -> Source {
        let of = Owner::Function(self.key.name.to_string());
        Source { of, digest: self.function_digest, image: Arc::clone(&self.function) }
    }

    /// The layer's image.
    pub(super) fn layer_source(&self) -> Source {
        self.layer.source()
    }

    /// The layer it runs on.
    pub(super) fn layer_name(&self) -> &str {
        &self.layer.manifest.name
    }

    /// The name that AWS clients know a function by.
    pub(super) fn arn(&self) -> String {
        format!("arn:aws:lambda:local:000000000000:function:{}", self.key.name)
    }
}

/// What of a specification a machine cannot do, and why.
pub(super) fn notes(spec: &FunctionSpec, machine: &Features) -> Vec<String> {
    let mut notes = Vec::new();
    if let (CpuClass::Reserved, ReservedCpus::None(reason)) = (spec.cpu_class, &machine.reserved_cpus) {
        notes.push(format!("cpu_class: instances run on the CPUs that all functions share: {reason}"));
    }
    if spec.cpu.is_some() && !machine.cpu {
        notes.push("cpu: not enforced, for this machine lacks the cgroup v2 controller `cpu`".to_owned());
    }
    notes
}

/// A C string from text that was checked to hold no NUL when it came in.
fn c_string(text: impl Into<Vec<u8>>) -> CString {
    CString::new(text).expect("specifications hold no NUL")
}

fn variable(name: &str, value: &str) -> CString {
    c_string(format!("{name}={value}"))
}

const NODE: &str = "/usr/bin/node";
const PYTHON: &str = "/usr/bin/python3.13";
/// Without `site` (it costs some milliseconds and does nothing for a handler) and without writing bytecode.
const PYTHON_HANDLER: [&str; 4] = [PYTHON, "-S", "-B", "/opt/stratos/bootstrap.py"];

/// Memory in MiB up to which a heap is collected by one thread beside the first as fast as by four, which is Node's own
/// choice; each takes memory and has to be restored.
const SMALL_HEAP_MIB: u32 = 256;

/// What suits Node.js to the function's limits.
fn node_flags(spec: &FunctionSpec) -> Vec<String> {
    let one_worker = spec.memory.mib() <= SMALL_HEAP_MIB || spec.cpu.is_some_and(|cpu| cpu.millis() <= 1000);
    let heap = format!("--max-old-space-size={}", spec.memory.mib() * NODE_OLD_SPACE_PERCENT / 100);
    std::iter::once(heap).chain(one_worker.then(|| "--v8-pool-size=1".to_owned())).collect()
}

/// The command of an instance. execve(2) searches no PATH, so the program is found here.
fn argv(spec: &FunctionSpec) -> Vec<CString> {
    let words: Vec<String> = match (&spec.entry, spec.runtime) {
        (Entry::Handler(_), Runtime::Node24) => {
            let bootstrap = ["/opt/stratos/bootstrap.mjs".to_owned()];
            std::iter::once(NODE.to_owned()).chain(node_flags(spec)).chain(bootstrap).collect()
        }
        (Entry::Handler(_), Runtime::Python313) => PYTHON_HANDLER.map(str::to_owned).to_vec(),
        (Entry::Handler(path), Runtime::Native) => vec![in_task(path)],
        (Entry::Start(argv) | Entry::Client { argv, .. }, runtime) => start_command(argv, runtime),
    };
    words.into_iter().map(c_string).collect()
}

fn start_command(argv: &[String], runtime: Runtime) -> Vec<String> {
    let (program, rest) = argv.split_first().expect("a start command has a program");
    let head = match (program.as_str(), runtime) {
        ("node", Runtime::Node24) => vec![NODE.into()],
        ("python" | "python3" | "python3.13", Runtime::Python313) => vec![PYTHON.into()],
        (path, _) if path.starts_with('/') => vec![path.into()],
        (path, _) if path.contains('/') => vec![in_task(path)],
        // A command of a dependency is a script, and no `env` is in the layer to find its interpreter.
        (name, Runtime::Node24) => vec![NODE.into(), format!("/var/task/node_modules/.bin/{name}")],
        (name, Runtime::Python313) => vec![PYTHON.into(), format!("/var/task/.stratos/python/bin/{name}")],
        (name, Runtime::Native) => vec![in_task(name)],
    };
    head.into_iter().chain(rest.iter().cloned()).collect()
}

fn in_task(path: &str) -> String {
    format!("/var/task/{}", path.trim_start_matches("./"))
}

/// The variables that hold the version's number. What is built for somewhere else has none yet: AWS Lambda's word for that.
fn numbered(spec: &FunctionSpec, key: &FunctionKey, version: Option<Version>) -> Vec<CString> {
    let (number, revision) = match version {
        Some(version) => (version.to_string(), format!("{}-{version:05}", key.name)),
        None => ("$LATEST".to_owned(), key.name.to_string()),
    };
    let mut all = vec![variable("AWS_LAMBDA_FUNCTION_VERSION", &number)];
    if spec.entry.is_http() {
        all.push(variable("K_REVISION", &revision));
    }
    all
}

/// The environment that is the same for every instance on every node.
fn env(spec: &FunctionSpec, key: &FunctionKey) -> Vec<CString> {
    let (name, memory) = (key.name.as_str(), spec.memory.mib().to_string());
    let log_group = format!("/stratos/{key}");
    let mut pairs = vec![
        ("PATH", "/usr/bin".to_owned()),
        ("HOME", "/tmp".to_owned()),
        ("LANG", "C.UTF-8".to_owned()),
        ("TZ", ":UTC".to_owned()),
        ("LAMBDA_TASK_ROOT", "/var/task".to_owned()),
        ("LAMBDA_RUNTIME_DIR", "/opt/stratos".to_owned()),
        ("AWS_LAMBDA_FUNCTION_NAME", name.to_owned()),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", memory),
        ("AWS_LAMBDA_LOG_GROUP_NAME", log_group),
        ("AWS_EXECUTION_ENV", format!("StratOS_{}", spec.runtime)),
        (INITIALIZATION_TYPE, "on-demand".to_owned()),
        ("AWS_REGION", "local".to_owned()),
        ("AWS_DEFAULT_REGION", "local".to_owned()),
    ];
    match &spec.entry {
        Entry::Handler(handler) | Entry::Client { handler, .. } => {
            pairs.push(("_HANDLER", handler.clone()));
            pairs.push(("AWS_LAMBDA_RUNTIME_API", RUNTIME_API.to_owned()));
            if spec.concurrency > 1 {
                pairs.push(("AWS_LAMBDA_MAX_CONCURRENCY", spec.concurrency.to_string()));
            }
        }
        Entry::Start(_) => {
            pairs.push(("PORT", HTTP_PORT.to_string()));
            pairs.push(("K_SERVICE", name.to_owned()));
            pairs.push(("K_CONFIGURATION", name.to_owned()));
        }
    }
    if !matches!(spec.entry, Entry::Handler(_)) {
        // Not our bootstrap: the runtime itself is made to report its start and to take the release frame.
        match spec.runtime {
            Runtime::Node24 => pairs.push((
                "NODE_OPTIONS",
                format!("--require=/opt/stratos/preload.cjs {}", node_flags(spec).join(" ")),
            )),
            Runtime::Python313 => pairs.push(("STRATOS_STATUS_FD", "4".to_owned())),
            Runtime::Native => {}
        }
    }
    if spec.runtime == Runtime::Python313 {
        pairs.push(("PYTHONPATH", "/var/task:/var/task/.stratos/python:/opt/stratos".to_owned()));
        pairs.push(("PYTHONUNBUFFERED", "1".to_owned()));
    }
    // The author's own come last and win over the defaults; names of the contract were refused on reading.
    let own = spec.env.iter().map(|(k, v)| (k.as_str(), v.clone()));
    let mut merged: Vec<(&str, String)> = pairs;
    for (name, value) in own {
        merged.retain(|(n, _)| *n != name);
        merged.push((name, value));
    }
    merged.iter().map(|(name, value)| variable(name, value)).collect()
}

/// How an instance is started, as clients of the Runtime API are told.
const INITIALIZATION_TYPE: &str = "AWS_LAMBDA_INITIALIZATION_TYPE";
/// Where the Runtime API listens in every instance's network namespace.
const RUNTIME_API: &str = "127.0.0.1:9001";

#[cfg(test)]
mod tests {
    use super::*;

    fn started(toml: &str) -> (Vec<String>, HashMap<String, String>) {
        let spec = FunctionSpec::parse(&format!("name = \"f\"\n{toml}"), &Inferred::default()).unwrap();
        let key = FunctionKey::of_default_tenant("f".parse().unwrap());
        let text = |c: CString| c.into_string().unwrap();
        let variable = |c: CString| {
            let (name, value) = c.to_str().unwrap().split_once('=').unwrap();
            (name.to_owned(), value.to_owned())
        };
        let all = env(&spec, &key).into_iter().chain(numbered(&spec, &key, Some(3)));
        (argv(&spec).into_iter().map(text).collect(), all.map(variable).collect())
    }

    /// Each way to enter a function has its own command and its own variables.
    #[test]
    fn entries_become_commands_and_variables() {
        const PYTHON_RIC: &str = "start = \"python3 -m awslambdaric app.handler\"\nhandler = \"app.handler\"";
        for (runtime, entry, command, handler, port, status) in [
            (
                "node24",
                "handler = \"i.h\"",
                "/usr/bin/node --max-old-space-size=96 --v8-pool-size=1 /opt/stratos/bootstrap.mjs",
                Some("i.h"),
                false,
                false,
            ),
            ("node24", "start = \"node s.js\"", "/usr/bin/node s.js", None, true, true),
            (
                "node24",
                "handler = \"i.h\"\nmemory = \"1GB\"",
                "/usr/bin/node --max-old-space-size=768 /opt/stratos/bootstrap.mjs",
                Some("i.h"),
                false,
                false,
            ),
            ("native", "handler = \"./b\"", "/var/task/b", Some("./b"), false, false),
            ("native", "start = \"b\"\nhandler = \"x\"", "/var/task/b", Some("x"), false, false),
            (
                "python3.13",
                PYTHON_RIC,
                "/usr/bin/python3.13 -m awslambdaric app.handler",
                Some("app.handler"),
                false,
                true,
            ),
        ] {
            let (argv, env) = started(&format!("runtime = \"{runtime}\"\n{entry}"));
            assert_eq!(argv.join(" "), command);
            assert_eq!(env.get("_HANDLER").map(String::as_str), handler, "{command}");
            let api = env.get("AWS_LAMBDA_RUNTIME_API").map(String::as_str);
            assert_eq!(api, handler.map(|_| RUNTIME_API), "{command}");
            assert_eq!(env.contains_key("PORT"), port, "{command}");
            assert_eq!(env["AWS_LAMBDA_FUNCTION_VERSION"], "3");
            assert_eq!(env.get("K_REVISION").map(String::as_str), port.then_some("f-00003"), "{command}");
            let reports = env.contains_key("STRATOS_STATUS_FD") || env.contains_key("NODE_OPTIONS");
            assert_eq!(reports, status, "{command}");
        }
    }

    /// What another node counts or names differently is no part of it; what the code sees while it initialises is.
    #[test]
    fn a_subject_is_of_the_function_and_not_of_the_node() {
        let of = |name: &str, toml: &str, image: &[u8]| {
            let toml = format!("name = \"{name}\"\nruntime = \"node24\"\nhandler = \"i.h\"\n{toml}");
            let spec = FunctionSpec::parse(&toml, &Inferred::default()).unwrap();
            let key = FunctionKey::of_default_tenant(name.parse().unwrap());
            subject(&spec, &key, Digest::of(b"layer"), Digest::of(image), false)
        };
        let plain = of("f", "", b"code");
        assert_eq!(of("f", "max_instances = 3", b"code"), plain);
        for other in [
            of("g", "", b"code"),
            of("f", "", b"other"),
            of("f", "memory = \"256MB\"", b"code"),
            of("f", "prime = [\"{}\"]", b"code"),
            of("f", "[env]\nA = \"1\"", b"code"),
        ] {
            assert_ne!(other, plain);
        }
    }

    #[test]
    fn own_variables_win_over_defaults() {
        let toml = "runtime = \"native\"\nhandler = \"b\"\n[env]\nTZ = \"Europe/Berlin\"\nA = \"b=c\"";
        let (_, env) = started(toml);
        assert_eq!(
            (env["TZ"].as_str(), env["A"].as_str(), env["HOME"].as_str()),
            ("Europe/Berlin", "b=c", "/tmp")
        );
    }
}
