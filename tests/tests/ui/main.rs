//! The node's page in a real browser, against a real node: what it shows, who may see it, how it is used.

mod door;
mod keyboard;
mod looks;
mod syscalls;
mod views;

use std::path::PathBuf;

use serde_json::Value;
use stratos_tests::{Browser, Node, Package, tcp};

/// A function that does as its event says, and whose name for itself, messages and output try to be HTML.
const MOODY: &str = r#"
    process.title = '<b>x</b>';
    export const handler = async ({ ms, fail }) => {
        console.log('<img src=x onerror="window.hacked=1">');
        if (fail) throw new Error('<script>window.hacked=1</script>');
        await new Promise((done) => setTimeout(done, ms ?? 0));
        return {};
    };
"#;

/// A node with functions that were started, invoked and failed, and a browser that was let in.
struct Scene {
    node: Node,
    browser: Browser,
    base: String,
}

impl Scene {
    async fn new() -> Self {
        let node = tcp::start(&[]).await;
        busy(&node).await;
        let base = format!("http://{}", tcp::address(&node));
        let mut browser = Browser::start().await;
        browser.open(&format!("{base}/ui")).await;
        let_in(&mut browser, &tcp::token(&node)).await;
        Self { node, browser, base }
    }

    /// Goes to a view and waits for its figures.
    async fn view(&mut self, hash: &str) {
        self.browser.eval(&format!("location.hash = '{hash}'")).await;
        self.browser
            .until(&format!(
                "location.hash === '{hash}' && !('waiting' in document.querySelector('main').dataset)"
            ))
            .await;
    }

    /// The cells of a table's rows, found by the table's caption; hidden text is left out.
    async fn rows(&mut self, caption: &str) -> Vec<Vec<String>> {
        let script = format!(
            "[...document.querySelectorAll('table')].find((table) => table.caption.textContent === '{caption}')
                .querySelectorAll('tbody tr').values().map((row) => [...row.cells].map((cell) => cell.innerText.trim())).toArray()"
        );
        let found = self.browser.eval(&script).await;
        serde_json::from_value(found).unwrap_or_else(|e| panic!("{caption}: {e}"))
    }

    /// The value of a term in the lists of facts.
    async fn fact(&mut self, term: &str) -> String {
        let script = format!(
            "[...document.querySelectorAll('dt')].find((dt) => dt.textContent === '{term}')?.nextSibling.textContent"
        );
        self.browser.eval(&script).await.as_str().unwrap_or_else(|| panic!("no fact {term}")).to_owned()
    }

    /// What the page itself writes for a figure, such as `time(1500)`.
    async fn written(&mut self, call: &str) -> String {
        let script = format!("import('/ui/format.js').then((format) => format.{call})");
        self.browser.eval(&script).await.as_str().expect("a text").to_owned()
    }

    async fn get(&self, path: &str) -> Value {
        self.node.call(stratos_api::client::Call::new(http::Method::GET, path, "")).await.json()
    }

    /// Whether this node's API has a path.
    async fn has(&self, path: &str) -> bool {
        !self.get("/v1/openapi.json").await["paths"][path].is_null()
    }

    /// Nothing went wrong, and nobody else was asked.
    async fn check(&mut self) {
        let mut problems = self.browser.problems().await;
        // A function without a window of system calls has none to show, which browsers note.
        problems.retain(|problem| !(problem.contains("404") && problem.contains("/trace\"")));
        assert!(problems.is_empty(), "{}", problems.join("\n"));
        let requests = self.browser.requests().await;
        let others: Vec<_> = requests.iter().filter(|url| !url.starts_with(&self.base)).collect();
        assert!(!requests.is_empty() && others.is_empty(), "{others:?}");
        assert_eq!(self.browser.eval("'hacked' in window").await, false);
    }
}

/// Gives the token to a page that asks for it.
async fn let_in(browser: &mut Browser, token: &str) {
    browser.until("document.getElementById('ask').open && document.activeElement.id === 'token'").await;
    browser.write(token).await;
    browser.press("Enter").await;
    browser.until("document.getElementById('live').textContent.startsWith('live')").await;
}

async fn busy(node: &Node) {
    node.deploy(&Package::node("moody", MOODY).setting("timeout = \"1s\"")).await;
    node.deploy(&Package::python("calm", "def handler(event, context):\n    return event\n")).await;
    for ms in [0, 5, 20] {
        node.invoke_ok("moody", format!("{{\"ms\":{ms}}}")).await;
        node.invoke_ok("calm", "{}").await;
    }
    assert_eq!(node.invoke("moody", "{\"fail\":true}").await.status, 502);
    assert_eq!(node.invoke("moody", "{\"ms\":60000}").await.status, 504);
    // The timeout has ended its instance: this one starts another, which stays.
    node.invoke_ok("moody", "{}").await;
}

/// Where pictures are put, for people to look at.
fn pictures() -> PathBuf {
    let folder = stratos_tests::program("stratosd").with_file_name("ui-pictures");
    std::fs::create_dir_all(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    folder
}
