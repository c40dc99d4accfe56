//! A function without a runtime: it asks the Lambda Runtime API for an event, answers it, and asks for the next.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;

const API: &str = "/2018-06-01/runtime/invocation";

/// Answers one event, JSON to JSON.
fn handler(event: &str) -> String {
    let name = string_field(event, "name").unwrap_or("world");
    format!(r#"{{"message":"Hello, {name}!","runtime":"native {}"}}"#, std::env::consts::ARCH)
}

fn main() -> io::Result<()> {
    let host = std::env::var("AWS_LAMBDA_RUNTIME_API").map_err(io::Error::other)?;
    let mut api = BufReader::new(TcpStream::connect(&host)?);
    api.get_ref().set_nodelay(true)?;
    let next = format!("GET {API}/next HTTP/1.1\r\nHost: {host}\r\n\r\n");
    api.get_mut().write_all(next.as_bytes())?;

    loop {
        let event = read_response(&mut api)?;
        println!("request {}", event.request_id);
        let answer = handler(&event.body);
        // The answer and the wish for the next event travel together.
        let post = format!(
            "POST {API}/{}/response HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n{answer}{next}",
            event.request_id,
            answer.len(),
        );
        api.get_mut().write_all(post.as_bytes())?;
        read_response(&mut api)?;
    }
}

struct Response {
    request_id: String,
    body: String,
}

/// Reads one HTTP response. Fails when the node closes the connection, and the function then ends.
fn read_response(api: &mut impl BufRead) -> io::Result<Response> {
    let (mut request_id, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if api.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some((name, value)) = line.trim_end().split_once(':') else {
            if line == "\r\n" {
                break; // The end of the headers.
            }
            continue; // The status line.
        };
        match name.to_ascii_lowercase().as_str() {
            "lambda-runtime-aws-request-id" => request_id = value.trim().to_owned(),
            "content-length" => length = value.trim().parse().map_err(io::Error::other)?,
            _ => {}
        }
    }
    let mut body = String::new();
    api.take(length).read_to_string(&mut body)?;
    Ok(Response { request_id, body })
}

/// The text of a string field, as it stands in the JSON: good enough for a greeting; use `serde_json` for more.
fn string_field<'a>(json: &'a str, field: &str) -> Option<&'a str> {
    let (_, rest) = json.split_once(&format!("\"{field}\""))?;
    let text = rest.trim_start().strip_prefix(':')?.trim_start().strip_prefix('"')?;
    let mut escaped = false;
    let end = text.find(|c| {
        let closes = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        closes
    })?;
    Some(&text[..end])
}
