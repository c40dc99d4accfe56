//! The real command line against a real node: what a person types and sees, compared whole.

mod json;
mod queue;
mod secrets;
mod sessions;
mod streams;

use std::time::Duration;

use stratos_tests::Session;

/// Longest wait for something that is on its way, on a slow and busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

const GREETER: &str = "export const handler = async (event) => {\n    console.log('greeting', event.name);\n    \
                       return { hello: event.name ?? 'nobody' };\n};\n";

const GREETER_TOML: &str = "name = \"greet\"\nruntime = \"node24\"\nhandler = \"index.handler\"\n";

fn write_greeter(session: &Session) {
    session.write("greet/stratos.toml", GREETER_TOML);
    session.write("greet/index.mjs", GREETER);
}
