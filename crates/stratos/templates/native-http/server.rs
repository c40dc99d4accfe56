//! An HTTP server on `$PORT` with the standard library alone. Any web framework does the same with less code of
//! your own.

use std::io::{BufRead, BufReader, Error, Read, Result, Write, copy, sink};
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
    let mut reader = BufReader::new(connection);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.trim().parse().map_err(Error::other)?;
            }
            Some(_) => {}
            None => break,
        }
    }
    // A connection that is closed before all was read takes the answer with it.
    copy(&mut reader.take(length), &mut sink())?;
    let body = format!("Hello from {}\n", request.trim_end().trim_end_matches(" HTTP/1.1"));
    let length = body.len();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n";
    connection.write_all(format!("{head}Content-Length: {length}\r\n\r\n{body}").as_bytes())
}
