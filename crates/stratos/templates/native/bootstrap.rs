//! A function that speaks the Lambda Runtime API by itself, with the standard library alone. The crate
//! `lambda_runtime` does the same with less code of your own.

use std::io::{BufRead, BufReader, Error, Read, Result, Write};
use std::net::TcpStream;

const API: &str = "/2018-06-01/runtime/invocation";

/// What the function does: takes an event (JSON text), gives an answer (JSON text).
fn handler(event: &str) -> String {
    format!("{{\"message\":\"Hello from native code!\",\"event\":{event}}}")
}

fn main() -> Result<()> {
    let api = std::env::var("AWS_LAMBDA_RUNTIME_API").map_err(Error::other)?;
    let mut connection = BufReader::new(TcpStream::connect(&api)?);
    loop {
        let (id, event) = request(&mut connection, &api, "GET", &format!("{API}/next"), "")?;
        let id = id.ok_or_else(|| Error::other("an event without an id"))?;
        request(&mut connection, &api, "POST", &format!("{API}/{id}/response"), &handler(&event))?;
    }
}

/// Sends a request on a kept connection: the invocation's id, if the answer names one, and the answer's body.
fn request(
    connection: &mut BufReader<TcpStream>,
    host: &str,
    method: &str,
    path: &str,
    body: &str,
) -> Result<(Option<String>, String)> {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n", body.len());
    connection.get_mut().write_all((head + body).as_bytes())?;
    let (mut id, mut length) = (None, 0);
    loop {
        let mut line = String::new();
        if connection.read_line(&mut line)? == 0 {
            return Err(Error::other("the platform closed the connection"));
        }
        if line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            match name.to_ascii_lowercase().as_str() {
                "lambda-runtime-aws-request-id" => id = Some(value.trim().to_owned()),
                "content-length" => length = value.trim().parse().map_err(Error::other)?,
                _ => {}
            }
        }
    }
    let mut answer = vec![0; length];
    connection.read_exact(&mut answer)?;
    Ok((id, String::from_utf8(answer).map_err(Error::other)?))
}
