//! A headless Chromium, driven by its DevTools protocol over a pipe, for tests of the node's page.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use base64::Engine as _;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// How long anything may take on a slow and busy machine.
const PATIENCE: Duration = Duration::from_secs(90);
/// The pipe is descriptors 3 (commands) and 4 (answers); the shell makes them of its stdin and stdout.
const START: &str = "exec chromium --headless=new --no-sandbox --disable-gpu --no-first-run --hide-scrollbars \
    --disable-background-networking --disable-component-update --disable-sync --lang=en --window-size=1440,1000 \
    --user-data-dir=\"$0\" --remote-debugging-pipe 3<&0 4>&1 </dev/null >/dev/null 2>\"$0/log\"";

/// A browser with one page. (Without its sandbox, which Chromium does not set up for root.)
pub struct Browser {
    child: Child,
    group: Pid,
    commands: ChildStdin,
    messages: BufReader<ChildStdout>,
    session: Option<String>,
    last: u64,
    events: Vec<Value>,
    /// Holds the profile and the log; removed when dropped.
    dir: TempDir,
}

impl Browser {
    /// Starts one.
    ///
    /// # Panics
    /// When Chromium is not there or does not start.
    pub async fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("stratos-browser-").tempdir().expect("a temporary folder");
        let child = Command::new("sh")
            .args(["-c", START])
            .arg(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            // Chromium is several processes, which end together.
            .process_group(0)
            .spawn();
        let mut child = child.expect("a shell starts");
        let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed())).expect("it runs");
        let commands = child.stdin.take().expect("it is a pipe");
        let messages = BufReader::new(child.stdout.take().expect("it is a pipe"));
        let mut browser =
            Self { child, group, commands, messages, session: None, last: 0, events: Vec::new(), dir };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" })).await;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let session = browser.call("Target.attachToTarget", attach).await;
        browser.session = Some(session["sessionId"].as_str().expect("a session").to_owned());
        for domain in ["Page", "Runtime", "Log", "Network", "Audits"] {
            browser.call(&format!("{domain}.enable"), json!({})).await;
        }
        browser
    }

    /// Sends a command and waits for its answer; what happens meanwhile is kept.
    ///
    /// # Panics
    /// When the browser refuses or does not answer.
    pub async fn call(&mut self, method: &str, params: Value) -> Value {
        self.last += 1;
        let id = self.last;
        let mut message = json!({ "id": id, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let mut bytes = serde_json::to_vec(&message).expect("a command is JSON");
        bytes.push(0);
        self.commands.write_all(&bytes).await.unwrap_or_else(|e| panic!("{method}: {e}\n{}", self.log()));
        loop {
            let message = self.next(method).await;
            if message["id"] == id {
                assert!(message["error"].is_null(), "{method}: {}", message["error"]);
                return message["result"].clone();
            }
            self.events.push(message);
        }
    }

    async fn next(&mut self, what: &str) -> Value {
        let mut bytes = Vec::new();
        let read = tokio::time::timeout(PATIENCE, self.messages.read_until(0, &mut bytes)).await;
        let read = read.unwrap_or_else(|_| panic!("{what}: no answer within {PATIENCE:?}\n{}", self.log()));
        read.unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(bytes.pop(), Some(0), "{what}: the browser has ended\n{}", self.log());
        serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{what}: {e}"))
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Waits for an event.
    ///
    /// # Panics
    /// When it does not come.
    pub async fn event(&mut self, method: &str) -> Value {
        let begun = Instant::now();
        loop {
            if let Some(at) = self.events.iter().position(|event| event["method"] == method) {
                return self.events.remove(at);
            }
            // Others may come for ever.
            assert!(begun.elapsed() < PATIENCE, "no {method} within {PATIENCE:?}");
            let message = self.next(method).await;
            self.events.push(message);
        }
    }

    /// Opens an address and waits until it is loaded.
    ///
    /// # Panics
    /// When it cannot be reached.
    pub async fn open(&mut self, url: &str) {
        self.events.retain(|event| event["method"] != "Page.loadEventFired");
        let opened = self.call("Page.navigate", json!({ "url": url })).await;
        assert!(opened["errorText"].is_null(), "{url}: {opened}");
        // Another place in the document that is there already loads nothing.
        if !opened["loaderId"].is_null() {
            self.event("Page.loadEventFired").await;
        }
    }

    /// What an expression gives in the page, its promise awaited.
    ///
    /// # Panics
    /// When it throws.
    pub async fn eval(&mut self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let result = self.call("Runtime.evaluate", params).await;
        assert!(result["exceptionDetails"].is_null(), "{expression}\n{}", result["exceptionDetails"]);
        result["result"]["value"].clone()
    }

    /// Waits until an expression is true; looks whenever the document or its focus changes.
    ///
    /// # Panics
    /// When that does not happen; what the page shows is in the message.
    pub async fn until(&mut self, expression: &str) {
        let limit = PATIENCE.as_millis() / 2;
        let wait = format!(
            "new Promise((done) => {{
                const look = () => {{
                    let there = false;
                    try {{ there = !!({expression}); }} catch {{ /* Not there yet. */ }}
                    if (!there) return;
                    watch.disconnect();
                    document.removeEventListener('focusin', look);
                    done(true);
                }};
                const watch = new MutationObserver(look);
                watch.observe(document, {{ subtree: true, childList: true, attributes: true, characterData: true }});
                document.addEventListener('focusin', look);
                setTimeout(() => done(false), {limit});
                look();
            }})"
        );
        if self.eval(&wait).await != json!(true) {
            let text = self.eval("document.body.innerText").await;
            panic!("`{expression}` did not become true\n{}", text.as_str().unwrap_or_default());
        }
    }

    /// Presses a key and lets it go.
    pub async fn press(&mut self, key: &str) {
        let (code, text) = match key {
            "Tab" => (9, None),
            "Enter" => (13, Some("\r")),
            " " => (32, Some(" ")),
            "Home" => (36, None),
            "ArrowLeft" => (37, None),
            "ArrowRight" => (39, None),
            "ArrowDown" => (40, None),
            _ => panic!("no code is known of the key {key}"),
        };
        let code_name = if key == " " { "Space" } else { key };
        let mut down =
            json!({ "type": "keyDown", "key": key, "code": code_name, "windowsVirtualKeyCode": code });
        if let Some(text) = text {
            down["text"] = json!(text);
        }
        self.call("Input.dispatchKeyEvent", down.clone()).await;
        down["type"] = json!("keyUp");
        self.call("Input.dispatchKeyEvent", down).await;
    }

    /// Types a text into what has the focus.
    pub async fn write(&mut self, text: &str) {
        self.call("Input.insertText", json!({ "text": text })).await;
    }

    /// What the system prefers: `light` or `dark`.
    pub async fn prefer(&mut self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features })).await;
    }

    /// Saves a picture of the whole page.
    ///
    /// # Panics
    /// When it cannot be written.
    pub async fn picture(&mut self, file: &Path) {
        let whole = json!({ "format": "png", "captureBeyondViewport": true });
        let taken = self.call("Page.captureScreenshot", whole).await;
        let data = taken["data"].as_str().expect("a picture");
        let picture = base64::engine::general_purpose::STANDARD.decode(data).expect("it is base64");
        std::fs::write(file, picture).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    }

    /// Errors and warnings of the page since the last call: its console's, exceptions, what its policy refused, what
    /// the browser finds wrong with it.
    pub async fn problems(&mut self) -> Vec<String> {
        // What was sent before the answer to this is read with it.
        self.eval("0").await;
        let of = |event: &Value| {
            let params = &event["params"];
            match event["method"].as_str()? {
                "Runtime.consoleAPICalled" if params["type"] != "log" => Some(params["args"].to_string()),
                "Runtime.exceptionThrown" => Some(params["exceptionDetails"].to_string()),
                "Log.entryAdded" => Some(params["entry"].to_string()),
                "Audits.issueAdded" => Some(params["issue"].to_string()),
                _ => None,
            }
        };
        let found = self.events.iter().filter_map(of).collect();
        self.events.retain(|event| of(event).is_none());
        found
    }

    /// Addresses that the page has asked since the last call.
    pub async fn requests(&mut self) -> Vec<String> {
        self.eval("0").await;
        let is_request = |event: &Value| event["method"] == "Network.requestWillBeSent";
        let url = |event: &Value| event["params"]["request"]["url"].as_str().unwrap_or_default().to_owned();
        let found = self.events.iter().filter(|event| is_request(event)).map(url).collect();
        self.events.retain(|event| !is_request(event));
        found
    }

    /// Ends it in order.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn close(mut self) {
        self.session = None;
        self.call("Browser.close", json!({})).await;
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        ended.expect("it ends").expect("it can be waited for");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // After an orderly end nobody is left in the group.
        if self.child.id().is_some() {
            kill_process_group(self.group, Signal::KILL).unwrap_or_default();
        }
    }
}
