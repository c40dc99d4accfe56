//! Who sees the page, who does not, and what it does when the node is not there.

use std::process::Stdio;

use serde_json::{Value, json};
use stratos_tests::{Browser, Node, Package, Session, need_root, tcp};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::{Scene, busy, let_in};

#[tokio::test]
async fn the_token_is_asked_for_and_kept_in_memory_alone() {
    if !need_root("the_token_is_asked_for_and_kept_in_memory_alone") {
        return;
    }
    let node = tcp::start(&[]).await;
    let token = tcp::token(&node);
    let base = format!("http://{}", tcp::address(&node));
    let mut browser = Browser::start().await;
    browser.open(&format!("{base}/ui")).await;
    let asked = "document.getElementById('ask').open && document.activeElement.id === 'token'";
    browser.until(asked).await;
    // Nothing of the node is there before.
    assert_eq!(browser.eval("getComputedStyle(document.querySelector('.tiles')).visibility").await, "hidden");
    assert_eq!(browser.problems().await, Vec::<String>::new());
    for (wrong, says) in [("x".repeat(40), "refused this token"), ("tökén".to_owned(), "not a token")] {
        browser.write(&wrong).await;
        browser.press("Enter").await;
        browser
            .until(&format!("document.getElementById('ask-problem').textContent.includes('{says}')"))
            .await;
    }
    let_in(&mut browser, &token).await;
    let kept = browser.eval("JSON.stringify([location.href, { ...localStorage }, { ...sessionStorage }, document.cookie, document.documentElement.outerHTML])").await;
    assert!(!kept.as_str().unwrap().contains(&token), "{kept}");
    for url in browser.requests().await {
        assert!(!url.contains(&token), "{url}");
    }
    browser.eval("document.getElementById('forget').click()").await;
    browser.until(asked).await;
    let_in(&mut browser, &token).await;
    browser.open(&format!("{base}/ui")).await;
    browser.until(asked).await;
    browser.close().await;
}

/// A page that a function answers with, which has the same origin as the node's page, and asks for more than its own.
const EVIL: &str = r#"
    import http from 'node:http';
    const headers = { 'Service-Worker-Allowed': '/', 'Cross-Origin-Opener-Policy': 'same-origin' };
    http.createServer((request, response) => {
        const script = request.url.endsWith('.js');
        response.writeHead(200, { ...headers, 'content-type': script ? 'text/javascript' : 'text/html' });
        response.end(script ? '' : '<!DOCTYPE html><title>evil</title><iframe id="frame" src="/ui"></iframe>');
    }).listen(process.env.PORT);
"#;

#[tokio::test]
async fn a_functions_page_gets_no_hold_of_the_nodes() {
    if !need_root("a_functions_page_gets_no_hold_of_the_nodes") {
        return;
    }
    let node = tcp::start(&[]).await;
    node.deploy(&Package::node_server("evil", EVIL).setting("public = true")).await;
    let base = format!("http://{}", tcp::address(&node));
    let mut browser = Browser::start().await;
    browser.open(&format!("{base}/f/evil/")).await;
    assert_eq!(browser.eval("document.title").await, "evil");
    // It is not framed,
    let framed = browser.eval("(() => { try { return document.getElementById('frame').contentDocument?.title ?? null } catch { return null } })()").await;
    assert_ne!(framed, "StratOS");
    // its window is not to be had,
    browser.call("Page.setBypassCSP", json!({ "enabled": false })).await;
    let opened = "new Promise((done) => {
        const opened = window.open('/ui', 'page');
        const look = () => {
            if (!opened || opened.closed) return done('severed');
            try { if (opened.document.title === 'StratOS') return done('held'); } catch { return done('severed'); }
            setTimeout(look, 20);
        };
        look();
    })";
    let params =
        json!({ "expression": opened, "awaitPromise": true, "returnByValue": true, "userGesture": true });
    let held = browser.call("Runtime.evaluate", params).await;
    assert_eq!(held["result"]["value"], "severed", "{held}");
    // and nothing comes between it and the node.
    let worker = |scope: &str| {
        format!(
            "navigator.serviceWorker.register('/f/evil/sw.js', {{ scope: '{scope}' }}).then(() => 'registered', (error) => error.name)"
        )
    };
    assert_eq!(browser.eval(&worker("/")).await, "SecurityError");
    assert_eq!(browser.eval(&worker("/ui")).await, "SecurityError");
    assert_eq!(browser.eval(&worker("/f/evil/")).await, "registered");
    browser.close().await;
}

/// `stratos ui`, the address it prints, and its end.
struct Command {
    child: tokio::process::Child,
    url: String,
}

impl Command {
    async fn start(node: &Node) -> Self {
        let session = Session::new(node);
        let mut command = tokio::process::Command::from(session.command("stratos"));
        let child = command
            .args(["ui", "--json"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        let mut child = child.expect("stratos starts");
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("it is a pipe"));
        stdout.read_line(&mut line).await.expect("a line");
        // Its reader must stay: the command ends when nobody reads it any more.
        child.stdout = Some(stdout.into_inner());
        let told: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
        Self { child, url: told["url"].as_str().expect("an address").to_owned() }
    }
}

#[tokio::test]
async fn stratos_ui_shows_a_node_on_a_socket_and_passes_on_nothing_else() {
    if !need_root("stratos_ui_shows_a_node_on_a_socket_and_passes_on_nothing_else") {
        return;
    }
    let node = Node::start().await;
    busy(&node).await;
    let mut command = Command::start(&node).await;
    let (address, key) = command.url.split_once("#key=").expect("a key");
    let base = address.strip_suffix("/ui").expect("the page's path").to_owned();
    let mut browser = Browser::start().await;
    browser.open(&command.url).await;
    let live = "document.getElementById('live').textContent.startsWith('live')";
    browser.until(live).await;
    // The key leaves the address at once, and outlives a reload.
    assert_eq!(browser.eval("location.href").await, format!("{address}#/node"));
    browser.open(&format!("{address}#/functions")).await;
    browser.until(live).await;
    browser.call("Page.reload", json!({})).await;
    browser.until("document.querySelectorAll('tbody tr').length === 2").await;
    // A page of elsewhere that has not the key learns nothing; functions are not of this origin.
    let status = |path: &str, key: &str| {
        format!(
            "fetch('{path}', {{ headers: {{ authorization: 'Bearer {key}' }} }}).then((answer) => answer.status)"
        )
    };
    assert_eq!(browser.eval(&status("/v1/node", key)).await, 200);
    assert_eq!(browser.eval(&status("/v1/node", "x")).await, 401);
    assert_eq!(browser.eval(&status("/f/moody/", key)).await, 404);
    browser.problems().await;
    let mut scene = Scene { node, browser, base };
    outage(&mut scene).await;
    scene.browser.close().await;
    command.child.kill().await.expect("it runs until then");
}

/// While the node is away the page says so; it goes on by itself when the node is back.
async fn outage(scene: &mut Scene) {
    scene.node.stop();
    scene.browser.until("!document.getElementById('problem').hidden").await;
    let said = scene.browser.eval("document.getElementById('problem').innerText").await;
    assert!(said.as_str().unwrap().contains("cannot reach the node"), "{said}");
    assert_eq!(scene.browser.eval("document.getElementById('live').textContent").await, "not up to date");
    // What was known stays on the page.
    assert_eq!(scene.rows("Functions").await.len(), 2);
    scene.node.restart().await;
    scene.browser.until("document.getElementById('problem').hidden && document.getElementById('live').textContent.startsWith('live')").await;
}

/// A page that nobody sees asks nothing; nor does one that was told to pause.
#[tokio::test]
async fn a_hidden_or_paused_page_asks_nothing() {
    if !need_root("a_hidden_or_paused_page_asks_nothing") {
        return;
    }
    let mut scene = Scene::new().await;
    const HIDE: &str = "Object.defineProperty(document, 'hidden', { configurable: true, get: () => true });
        document.dispatchEvent(new Event('visibilitychange'))";
    const SHOW: &str = "delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))";
    const PAUSE: &str = "document.getElementById('pause').click()";
    for (quiet, again) in [(HIDE, SHOW), (PAUSE, PAUSE)] {
        scene.browser.eval(quiet).await;
        scene.browser.requests().await;
        minute(&mut scene.browser).await;
        assert_eq!(scene.browser.requests().await, Vec::<String>::new(), "{quiet}");
        scene.browser.eval(again).await;
        minute(&mut scene.browser).await;
        let asked = scene.browser.requests().await;
        assert!(asked.iter().any(|url| url.ends_with("/v1/node")), "{asked:?}");
    }
    scene.browser.close().await;
}

/// Lets a minute pass in the page, at once; what it asks the node meanwhile is awaited.
async fn minute(browser: &mut Browser) {
    let budget = json!({ "policy": "pauseIfNetworkFetchesPending", "budget": 60_000 });
    browser.call("Emulation.setVirtualTimePolicy", budget).await;
    browser.event("Emulation.virtualTimeBudgetExpired").await;
    browser.call("Emulation.setVirtualTimePolicy", json!({ "policy": "advance" })).await;
}
