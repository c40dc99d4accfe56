//! A server that draws random numbers, before its checkpoint and after.

mod park;

use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

fn main() -> io::Result<()> {
    // What takes long comes first, and is in every instance: tables, models, configuration.
    let table: Vec<u64> = (0..100_000).map(|n: u64| n.wrapping_mul(n)).collect();
    let mut own = StdRng::from_os_rng();
    rand::rng().random::<u64>();

    if let Some(release) = park::park()? {
        // Each generator that was used by now would go on with the same numbers in every instance.
        own = StdRng::from_seed(release.seed);
        rand::rng().reseed().map_err(io::Error::other)?;
        println!("released with {} variables", release.variables.len());
    }

    let port = std::env::var("PORT").map_err(io::Error::other)?;
    for stream in TcpListener::bind(format!("0.0.0.0:{port}"))?.incoming() {
        let body = format!(
            r#"{{"table":{},"rng":"{}","own":"{}"}}"#,
            table.len(),
            rand::rng().random::<u64>(),
            own.random::<u64>()
        );
        // A client that has gone away is no reason to end.
        if let Err(error) = stream.and_then(|stream| serve(stream, &body)) {
            eprintln!("{error}");
        }
    }
    Ok(())
}

/// Answers one request, and closes the connection.
fn serve(stream: TcpStream, body: &str) -> io::Result<()> {
    let mut reader = BufReader::new(&stream);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let length = body.len();
    write!(
        &stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}
