//! The functions that are measured: the same code for every subject.

use clap::ValueEnum;
use stratos_tests::Package;

/// A runtime to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Runtime {
    /// Node.js 24.
    #[value(name = "node24")]
    Node24,
    /// Python 3.13.
    #[value(name = "python3.13")]
    Python313,
}

/// How a Node.js server is written. It decides much: `import 'node:http'` evaluates what `require` leaves for later
/// (undici among it) and takes Node.js 24 about twice as long to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fixture {
    /// CommonJS, as in examples/http-node. For Python: the only one.
    #[value(name = "hello")]
    Hello,
    /// An ECMAScript module.
    #[value(name = "hello-esm")]
    HelloEsm,
    /// With much to load: Express and the TypeScript compiler, or pandas.
    #[value(name = "heavy")]
    Heavy,
}

impl Fixture {
    /// Its name in rows.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hello => "hello",
            Self::HelloEsm => "hello-esm",
            Self::Heavy => "heavy",
        }
    }
}

/// How an instance of StratOS comes to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Started like the peers' processes.
    Fresh,
    /// A clone of a template that is in memory.
    Checkpoint,
    /// Cloned before, released for the request.
    Held,
    /// The template is built from its image first.
    ColdTemplate,
}

impl Mode {
    /// Each, in the order of rows.
    pub(crate) const ALL: [Self; 4] = [Self::Fresh, Self::Checkpoint, Self::Held, Self::ColdTemplate];

    /// Its name in rows.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Checkpoint => "checkpoint",
            Self::Held => "held",
            Self::ColdTemplate => "cold-template",
        }
    }

    /// The name that a function has for it.
    pub(crate) fn function(self, base: &str) -> String {
        format!("{base}-{}", self.name())
    }

    /// Its lines of `stratos.toml`.
    const fn settings(self) -> &'static str {
        match self {
            Self::Fresh => "checkpoint = \"off\"",
            Self::Checkpoint | Self::ColdTemplate => "checkpoint = \"required\"",
            Self::Held => "checkpoint = \"required\"\nheld = 1",
        }
    }

    /// What the node calls such a start.
    pub(crate) const fn start(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Checkpoint | Self::Held | Self::ColdTemplate => "restored",
        }
    }
}

/// Name of the server as a function.
pub(crate) const SERVER: &str = "hello";
/// Name of the handler as a function.
pub(crate) const HANDLER: &str = "hello-handler";
/// What each of them answers.
pub(crate) const ANSWER: &str = "hello";
/// Memory limit of both, which is what cold starts of Node.js are compared at.
const SETTINGS: &str = "memory = \"128MB\"";
/// That of the server with much to load.
const HEAVY: &str = "memory = \"512MB\"";

impl Runtime {
    /// Name of its layer.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Node24 => "node24",
            Self::Python313 => "python3.13",
        }
    }

    /// Its program in the layer.
    pub(crate) fn program(self) -> &'static str {
        match self {
            Self::Node24 => "/usr/bin/node",
            Self::Python313 => "/usr/bin/python3.13",
        }
    }

    /// File name of the server.
    pub(crate) fn server_file(self, fixture: Fixture) -> &'static str {
        match (self, fixture) {
            (Self::Node24, Fixture::Hello | Fixture::Heavy) => "server.js",
            (Self::Node24, Fixture::HelloEsm) => "server.mjs",
            (Self::Python313, _) => "server.py",
        }
    }

    /// An HTTP server on `$PORT` that answers every request with [`ANSWER`].
    pub(crate) fn server(self, fixture: Fixture) -> &'static str {
        match (self, fixture) {
            (Self::Node24, Fixture::Hello) => include_str!("../fixtures/server.js"),
            (Self::Node24, Fixture::HelloEsm) => include_str!("../fixtures/server.mjs"),
            (Self::Node24, Fixture::Heavy) => include_str!("../fixtures/heavy/server.js"),
            (Self::Python313, Fixture::Heavy) => include_str!("../fixtures/heavy/server.py"),
            (Self::Python313, _) => include_str!("../fixtures/server.py"),
        }
    }

    /// The server as a function of this name.
    pub(crate) fn server_package(self, fixture: Fixture, name: &str, mode: Mode) -> Package {
        let program = self.program().rsplit('/').next().unwrap_or_default();
        let file = self.server_file(fixture);
        let toml =
            format!("name = \"{name}\"\nruntime = \"{}\"\nstart = \"{program} {file}\"\n", self.name());
        let package = Package::new().file("stratos.toml", toml).setting(mode.settings());
        let package = package.file(file, self.server(fixture));
        match (fixture, self) {
            (Fixture::Hello | Fixture::HelloEsm, _) => package.setting(SETTINGS),
            (Fixture::Heavy, Self::Node24) => {
                package.setting(HEAVY).file("package.json", include_str!("../fixtures/heavy/package.json"))
            }
            (Fixture::Heavy, Self::Python313) => package
                .setting(HEAVY)
                .file("requirements.txt", include_str!("../fixtures/heavy/requirements.txt")),
        }
    }

    /// A handler of this name that answers [`ANSWER`] as JSON.
    pub(crate) fn handler_package(self, name: &str, mode: Mode) -> Package {
        let package = match self {
            Self::Node24 => Package::node(name, include_str!("../fixtures/handler.mjs")),
            Self::Python313 => Package::python(name, include_str!("../fixtures/handler.py")),
        };
        package.setting(SETTINGS).setting(mode.settings())
    }
}
