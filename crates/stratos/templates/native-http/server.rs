//! An HTTP server on `$PORT` with the standard library alone. Any web framework does the same with less code of
//! your own.

use std::io::{BufRead, BufReader, Error, Result, Write};
use std::net::{TcpListener, TcpStream};

fn main() -> Result<()> {
    let port: u16 = std::env::var("PORT").map_err(Error::other)?.parse().map_err(Error::other)?;
    for connection in TcpListener::bind(("0.0.0.0", port))?.incoming() {
        let connection = connection?;
        std::thread::spawn(move || {
            if let Err(error) = serve(&connection) {
                eprintln!("connection: {error}");
            }
        });
    }
    Ok(())
}

/// Answers one request, then closes the connection.
fn serve(mut connection: &TcpStream) -> Result<()> {
    let mut lines = BufReader::new(connection).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let body = format!("Hello from {}\n", request.trim_end_matches(" HTTP/1.1"));
    let length = body.len();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    connection.write_all((head + &body).as_bytes())
}
