//! Windows of system calls. The answer of the node is put in the place of its own, so that every kernel will do: what
//! windows count is tested where they are made.

use serde_json::{Value, json};
use stratos_tests::{need_root, tcp};

use super::{Scene, let_in, pictures};

/// Lets the node's API have windows, and answers for them: the JSON in `window.answer`, or that there is none.
const ANSWER: &str = "(() => {
    const asked = window.fetch;
    const json = (value, status) => new Response(JSON.stringify(value), { status });
    window.fetch = async (path, options) => {
        if (path.endsWith('/openapi.json')) return json({ paths: { '/v1/functions/{name}/trace': {} } }, 200);
        if (!path.includes('/trace')) return asked(path, options);
        (window.methods ??= []).push(`${options.method} ${path}`);
        if (options.method === 'POST') window.answer = window.next;
        return window.answer ? json(window.answer, 200) : json({ message: 'there was no window' }, 404);
    };
})()";

fn window() -> Value {
    let mut buckets = vec![0_u64; 36];
    buckets[9] = 1;
    buckets[10] = 100;
    buckets[12] = 50;
    let call = |name: &str, number: u64, total: u64, errors: u64| {
        json!({ "name": name, "number": number, "count": 151, "errors": errors, "total_ns": total,
                "denied": errors / 3, "p50_ns": 1500, "p95_ns": 7900, "max_ns": 8192, "buckets": buckets })
    };
    json!({
        "function": "moody", "trigger": "request", "began_at": "2026-01-02T03:04:05.006Z", "duration_ms": 10_000,
        "instances": 2, "invocations": 1234, "dropped": 3,
        "calls": [call("epoll_wait", 232, 750_000_000, 0), call("<i>read</i>", 0, 250_000, 12)],
    })
}

#[tokio::test]
async fn system_calls_of_a_window_are_shown() {
    if !need_root("system_calls_of_a_window_are_shown") {
        return;
    }
    let mut scene = Scene::new().await;
    scene.browser.call("Page.addScriptToEvaluateOnNewDocument", json!({ "source": ANSWER })).await;
    let page = format!("{}/ui", scene.base);
    scene.browser.open(&page).await;
    let_in(&mut scene.browser, &tcp::token(&scene.node)).await;
    scene.browser.eval(&format!("void (window.next = {})", window())).await;
    scene.view("#/syscalls/moody").await;
    scene
        .browser
        .until("document.querySelector('main').innerText.includes('There was no window on moody yet.')")
        .await;
    // A window is opened by a button, and shown once it has ended.
    scene.browser.eval("[...document.querySelectorAll('button')].find((at) => at.textContent === 'Count for 10 s').click()").await;
    scene.browser.until("document.querySelectorAll('main tbody tr').length === 2").await;
    let methods = scene.browser.eval("methods.filter((line) => line.startsWith('POST'))").await;
    assert_eq!(methods, json!(["POST /v1/functions/moody/trace?for=10s"]));
    let rows = scene.rows("System calls of the window").await;
    let figures = |row: &[String]| row[..9].iter().map(|cell| cell.replace('\n', " ")).collect::<Vec<_>>();
    assert_eq!(
        figures(&rows[0]),
        ["epoll_wait", "100 %", "750 ms", "151", "", "", "1.50 µs", "7.90 µs", "8.19 µs"]
    );
    assert_eq!(
        figures(&rows[1]),
        ["<i>read</i>", "< 0.1 %", "250 µs", "151", "12", "4", "1.50 µs", "7.90 µs", "8.19 µs"]
    );
    for (term, want) in [
        ("Open for", "10.0 s"),
        ("Why", "somebody asked"),
        ("Instances", "2"),
        ("Invocations", "1,234"),
        ("System calls", "302"),
        ("Not counted", "3"),
    ] {
        assert_eq!(scene.fact(term).await, want, "{term}");
    }
    // From the first bucket with calls to the last: 512 ns, 1, 2 and 4 µs, the third of them empty.
    let columns = "[...document.querySelector('.histogram').children].map((at) => [at.title, at.className, at.clientHeight])";
    let columns = scene.browser.eval(columns).await;
    let columns: Vec<(String, String, u32)> = serde_json::from_value(columns).expect("columns");
    let titles: Vec<_> = columns.iter().map(|column| column.0.as_str()).collect();
    assert_eq!(
        titles,
        ["1 from 512 ns on", "100 from 1.02 µs on", "0 from 2.05 µs on", "50 from 4.10 µs on"]
    );
    let heights: Vec<u32> = columns.iter().map(|column| column.2).collect();
    assert_eq!((heights[1], heights[3], heights[2]), (22, 11, 1), "{columns:?}");
    let said = "document.querySelector('.histogram + .hidden').textContent";
    assert_eq!(scene.browser.eval(said).await, "512 ns 1, 1.02 µs 100, 2.05 µs 0, 4.10 µs 50");
    scene.browser.picture(&pictures().join("syscalls-window.png")).await;
    scene.check().await;
    scene.browser.close().await;
}
