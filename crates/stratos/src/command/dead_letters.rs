//! `stratos dead-letters`: asynchronous invocations that failed for good.

use bytes::Bytes;
use http::Method;
use stratos_api::client::Call;
use stratos_api::{AsyncInvocation, path};

use crate::args::DeadLettersArgs;
use crate::failure::Result;
use crate::node::{Node, path_of};
use crate::output::{Output, Table, note, when};

/// Runs the command.
pub(crate) async fn run(args: &DeadLettersArgs, node: &Node, output: Output) -> Result<()> {
    let one = |id: &str| path_of(path::DEAD_LETTER, &args.name).replace("{id}", id);
    let (retry, forget) = (args.retry.map(|id| id.to_string()), args.forget.map(|id| id.to_string()));
    if let Some(id) = forget {
        node.fetch(Call::new(Method::DELETE, one(&id), Bytes::new())).await?;
        return done("forgotten", vec![id], output);
    }
    if let Some(id) = retry {
        node.fetch(Call::new(Method::POST, one(&id), Bytes::new())).await?;
        return done("queued", vec![id], output);
    }
    let letters: Vec<AsyncInvocation> = node.get(path_of(path::DEAD_LETTERS, &args.name)).await?;
    if args.all {
        let mut queued = Vec::new();
        for letter in letters {
            node.fetch(Call::new(Method::POST, one(&letter.id), Bytes::new())).await?;
            queued.push(letter.id);
        }
        return done("queued", queued, output);
    }
    if output.json {
        return output.document(&letters);
    }
    if letters.is_empty() {
        note(&format!("{} has no dead letters", args.name));
        return Ok(());
    }
    let mut table = Table::new(&["INVOCATION", "ACCEPTED", "ATTEMPTS", "ERROR"], &[2]);
    for letter in letters {
        let error = letter.last_error.map_or_else(|| "-".into(), |e| format!("{}: {}", e.code, e.message));
        table.row([letter.id, when(&letter.accepted_at), letter.attempts.to_string(), error]);
    }
    output.bytes(table.render().as_bytes())
}

fn done(what: &'static str, ids: Vec<String>, output: Output) -> Result<()> {
    if output.json {
        return output.document(&serde_json::Map::from_iter([(what.to_owned(), ids.into())]));
    }
    if ids.is_empty() {
        note("there was nothing to do");
    }
    ids.iter().try_for_each(|id| output.line(&format!("{what} {id}")))
}
