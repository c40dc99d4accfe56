//! QEMU's monitor: the QEMU Machine Protocol on a socket.

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use crate::error::VmError;

/// Longest answer; the longest there is lists connections.
const MAX_ANSWER: u64 = 1 << 20;

/// A connection to it.
#[derive(Debug)]
pub(crate) struct Monitor {
    stream: BufReader<UnixStream>,
}

impl Monitor {
    /// Begins to speak.
    pub(crate) async fn begin(stream: UnixStream) -> Result<Self, VmError> {
        let mut monitor = Self { stream: BufReader::new(stream) };
        // Its greeting.
        monitor.read("connect").await?;
        monitor.execute("qmp_capabilities", json!({})).await?;
        Ok(monitor)
    }

    /// Runs a command.
    pub(crate) async fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, VmError> {
        let failed = |problem: String| VmError::Monitor { command: command.into(), problem };
        let request = format!("{}\n", json!({ "execute": command, "arguments": arguments }));
        self.stream.write_all(request.as_bytes()).await.map_err(|e| failed(e.to_string()))?;
        loop {
            let mut answer = self.read(command).await?;
            if let Some(error) = answer.get("error") {
                return Err(failed(error["desc"].as_str().unwrap_or("an error without words").to_owned()));
            }
            // Everything else is an event.
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
    }

    /// Runs a command of the monitor for people, and gives what it prints.
    pub(crate) async fn human(&mut self, line: &str) -> Result<String, VmError> {
        let value = self.execute("human-monitor-command", json!({ "command-line": line })).await?;
        Ok(value.as_str().unwrap_or_default().to_owned())
    }

    async fn read(&mut self, command: &str) -> Result<Value, VmError> {
        let failed = |problem: String| VmError::Monitor { command: command.into(), problem };
        let mut line = Vec::new();
        let read = (&mut self.stream).take(MAX_ANSWER).read_until(b'\n', &mut line).await;
        match read.map_err(|e| failed(e.to_string()))? {
            0 => Err(failed("QEMU is gone".into())),
            _ => serde_json::from_slice(&line).map_err(|e| failed(e.to_string())),
        }
    }
}

/// The port of this machine that is forwarded to a guest's `port`, from what `info usernet` prints.
pub(crate) fn forwarded_port(usernet: &str, port: u16) -> Option<u16> {
    usernet.lines().find_map(|line| {
        // TCP[HOST_FORWARD]  11  127.0.0.1 35181  10.0.2.15  8443  0  0
        let fields: Vec<&str> = line.split_whitespace().collect();
        let forwards = fields.first() == Some(&"TCP[HOST_FORWARD]") && fields.get(5)?.parse() == Ok(port);
        forwards.then(|| fields[3].parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forwarded_port_is_found() {
        let text = "Hub -1 (net0):\r\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n  \
                    TCP[ESTABLISHED]   12       127.0.0.1 1111       10.0.2.15  8443     0     0\r\n  \
                    TCP[HOST_FORWARD]  11       127.0.0.1 35181       10.0.2.15  8443     0     0\r\n";
        assert_eq!(forwarded_port(text, 8443), Some(35181));
        assert_eq!(forwarded_port(text, 22), None);
        assert_eq!(forwarded_port("", 8443), None);
    }

    #[tokio::test]
    async fn answers_are_told_from_events_and_errors() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let server = tokio::spawn(async move {
            let mut theirs = BufReader::new(theirs);
            theirs.write_all(b"{\"QMP\":{}}\n").await.unwrap();
            for answer in [
                "{\"return\":{}}\n",
                "{\"event\":\"STOP\"}\n{\"return\":\"text\"}\n",
                "{\"error\":{\"desc\":\"no\"}}\n",
            ] {
                theirs.read_line(&mut String::new()).await.unwrap();
                theirs.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let mut monitor = Monitor::begin(ours).await.unwrap();
        assert_eq!(monitor.human("info").await.unwrap(), "text");
        let error = monitor.execute("quit", json!({})).await.unwrap_err();
        assert_eq!(error.to_string(), "QEMU's monitor failed at quit: no");
        server.await.unwrap();
        let error = monitor.human("info").await.unwrap_err();
        assert!(error.to_string().starts_with("QEMU's monitor failed at human-monitor-command: "), "{error}");
    }
}
