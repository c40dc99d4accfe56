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
}

impl Fixture {
    /// Its name in rows.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hello => "hello",
            Self::HelloEsm => "hello-esm",
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
            (Self::Node24, Fixture::Hello) => "server.js",
            (Self::Node24, Fixture::HelloEsm) => "server.mjs",
            (Self::Python313, _) => "server.py",
        }
    }

    /// An HTTP server on `$PORT` that answers every request with [`ANSWER`].
    pub(crate) fn server(self, fixture: Fixture) -> &'static str {
        match (self, fixture) {
            (Self::Node24, Fixture::Hello) => include_str!("../fixtures/server.js"),
            (Self::Node24, Fixture::HelloEsm) => include_str!("../fixtures/server.mjs"),
            (Self::Python313, _) => include_str!("../fixtures/server.py"),
        }
    }

    /// The server as a function.
    pub(crate) fn server_package(self, fixture: Fixture) -> Package {
        let program = self.program().rsplit('/').next().unwrap_or_default();
        let file = self.server_file(fixture);
        let toml =
            format!("name = \"{SERVER}\"\nruntime = \"{}\"\nstart = \"{program} {file}\"\n", self.name());
        Package::new().file("stratos.toml", toml).setting(SETTINGS).file(file, self.server(fixture))
    }

    /// A handler that answers [`ANSWER`] as JSON.
    pub(crate) fn handler_package(self) -> Package {
        let package = match self {
            Self::Node24 => Package::node(HANDLER, include_str!("../fixtures/handler.mjs")),
            Self::Python313 => Package::python(HANDLER, include_str!("../fixtures/handler.py")),
        };
        package.setting(SETTINGS)
    }
}
