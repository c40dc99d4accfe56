//! Each view shows what the API tells.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixListener;

use stratos_api::node::{Ability, BootPhase, BootRecord, InitAnswer, InitStatus, ServiceStatus};
use stratos_tests::{Browser, Node, need_root, tcp};

use super::{Scene, let_in};

#[tokio::test]
async fn functions_and_invocations_are_shown_as_the_api_tells_them() {
    if !need_root("functions_and_invocations_are_shown_as_the_api_tells_them") {
        return;
    }
    let mut scene = Scene::new().await;
    functions(&mut scene).await;
    one_function(&mut scene).await;
    let failed = failures(&mut scene).await;
    invocation(&mut scene, &failed).await;
    scene.check().await;
    scene.browser.close().await;
}

async fn functions(scene: &mut Scene) {
    scene.view("#/functions").await;
    let told = scene.get("/v1/functions").await;
    let shown = scene.rows("Functions").await;
    let told = told.as_array().expect("a list");
    assert_eq!(shown.len(), told.len());
    for (row, one) in shown.iter().zip(told) {
        let (all, errors) = (one["invocations"].as_u64().unwrap(), one["errors"].as_u64().unwrap());
        let failed = match errors {
            0 => "0".to_owned(),
            _ => format!("{errors} ({:.0} %)", errors as f64 / all as f64 * 100.0),
        };
        let want = [
            one["name"].as_str().unwrap().to_owned(),
            one["runtime"].as_str().unwrap().to_owned(),
            one["version"].to_string(),
            one["instances"].to_string(),
            all.to_string(),
            failed,
        ];
        assert_eq!(row[..6], want);
        percentiles(scene, &want[0], row).await;
    }
    assert_eq!(shown[1][..6], ["moody", "node24", "1", "1", "6", "2 (33 %)"]);
}

/// The percentiles of a row, where this node keeps them.
async fn percentiles(scene: &mut Scene, name: &str, row: &[String]) {
    if !scene.has("/v1/telemetry/functions").await {
        assert_eq!(row[6..12], ["–", "–", "–", "–", "–", "–"]);
        return;
    }
    let told = scene.get("/v1/telemetry/functions?minutes=60").await;
    let one = told["functions"].as_array().unwrap().iter().find(|one| one["function"] == name);
    let total = &one.expect("it was invoked")["total"];
    for (at, figure) in [(6, "p50_us"), (7, "p95_us"), (8, "p99_us")] {
        let want = scene.written(&format!("time({})", total["duration"][figure])).await;
        assert_eq!(row[at], want, "{name} {figure}");
    }
    let starts = total["cold"].as_u64().unwrap() + total["restored"].as_u64().unwrap();
    assert_eq!(row[9], starts.to_string());
    for (at, figure) in [(10, "p50_us"), (11, "p95_us")] {
        assert_eq!(
            row[at],
            scene.written(&format!("time({})", total["start"][figure])).await,
            "{name} {figure}"
        );
    }
}

async fn one_function(scene: &mut Scene) {
    scene.view("#/functions/moody").await;
    let records = scene.node.records("moody").await;
    assert_eq!(scene.fact("Errors").await, "2 (33 %)");
    assert_eq!(scene.fact("URL").await, "/f/moody/");
    let shown = scene.rows("Last invocations").await;
    assert_eq!(shown.len(), records.len());
    for (row, record) in shown.iter().zip(&records) {
        assert_eq!(row[0], scene.written(&format!("moment('{}')", record.started_at)).await);
        assert_eq!((&row[1], &row[3]), (&record.outcome, &record.start().to_owned()));
        assert_eq!(row[5], scene.written(&format!("time({})", record.phases.handler_us)).await);
        assert_eq!(row[6], scene.written(&format!("time({})", record.phases.total_us)).await);
        assert_eq!(row[11], record.trace_id);
    }
    let started: Vec<_> = records.iter().filter(|record| record.cold).collect();
    let starts = scene.rows("Where the last starts spent their time").await;
    assert_eq!((starts.len(), started.len()), (2, 2));
    for (row, record) in starts.iter().zip(started) {
        for us in [
            record.phases.sandbox_us,
            record.phases.runtime_us,
            record.phases.init_us,
            record.phases.total_us,
        ] {
            let want = scene.written(&format!("time({us})")).await;
            assert!(us == 0 || row.contains(&want), "{want} is not in {row:?}");
        }
    }
    // Pieces of the bars are as long as the phases they stand for.
    let widths = "[...document.querySelectorAll('.starts tbody tr')].map((row) => {
        const track = row.querySelector('.track').getBoundingClientRect().width;
        return [...row.querySelectorAll('.piece')].reduce((sum, piece) => sum + piece.getBoundingClientRect().width, 0) / track;
    })";
    let widths: Vec<f64> = serde_json::from_value(scene.browser.eval(widths).await).unwrap();
    let longest = widths.iter().copied().fold(0.0, f64::max);
    assert!((0.97..=1.03).contains(&longest), "{widths:?}");
    assert_eq!(scene.rows("Instances").await.len(), 1);
    scene.browser.eval("document.querySelector('input[type=checkbox]').click()").await;
    assert_eq!(scene.rows("Last invocations").await.len(), 2);
}

/// The id of the invocation that threw.
async fn failures(scene: &mut Scene) -> String {
    scene.view("#/failures").await;
    let rows = scene.rows("Failures").await;
    let told: Vec<_> = rows.iter().map(|row| (row[1].as_str(), row[2].as_str(), row[3].as_str())).collect();
    let want = [("moody", "function_timeout", "function"), ("moody", "function_error", "function")];
    assert_eq!(told, want);
    let records = scene.node.records("moody").await;
    records.iter().find(|record| record.outcome == "function_error").expect("it is remembered").id.clone()
}

async fn invocation(scene: &mut Scene, id: &str) {
    scene.view(&format!("#/invocations/moody/{id}")).await;
    assert_eq!(scene.fact("Outcome").await, "function_error");
    assert_eq!(scene.fact("To blame").await, "the function");
    assert_eq!(scene.fact("Invocation").await, id);
    let records = scene.node.records("moody").await;
    let record = records.iter().find(|record| record.id == id).expect("it is remembered");
    let total = scene.written(&format!("time({})", record.phases.total_us)).await;
    assert_eq!(scene.fact("Total").await, total);
    let spans = scene.rows("The invocation over time").await;
    let handler = scene.written(&format!("time({})", record.phases.handler_us)).await;
    assert_eq!((spans[0][0].as_str(), &spans[0][3]), ("gateway", &total));
    assert!(spans.iter().any(|span| span[0] == "handler" && span[3] == handler), "{spans:?}");
    if scene.has("/v1/invocations/{id}/trace").await {
        let said = scene.browser.eval("document.querySelector('.said').innerText").await;
        assert!(said.as_str().unwrap().contains("<script>window.hacked=1</script>"), "{said}");
        let told = scene.get(&format!("/v1/invocations/{id}/trace")).await["spans"].as_array().unwrap().len();
        assert_eq!(spans.len(), told);
    }
    // What it printed is text.
    let log = scene.rows("What was printed meanwhile").await;
    assert!(log.iter().any(|line| line[2] == "<img src=x onerror=\"window.hacked=1\">"), "{log:?}");
    assert_eq!(scene.browser.eval("document.querySelectorAll('main img, main script').length").await, 0);
}

#[tokio::test]
async fn processes_are_shown_live_below_their_parents() {
    if !need_root("processes_are_shown_live_below_their_parents") {
        return;
    }
    let mut scene = Scene::new().await;
    scene.view("#/processes").await;
    let told = scene.get("/v1/node/tree").await;
    let shown = scene.rows("Processes").await;
    let agent = shown.iter().find(|row| row[2] == "service stratosd").expect("the agent is there");
    assert_eq!(agent[1], scene.node.pid().to_string());
    let instance = shown.iter().find(|row| row[2].ends_with("(moody)")).expect("an instance is there");
    let pid: u64 = instance[1].parse().expect("a number");
    let process = told.as_array().unwrap().iter().find(|one| one["pid"] == pid);
    let process = process.expect("it is in the tree");
    // A function chooses its name; it is shown as it is.
    assert_eq!((instance[0].as_str(), process["name"].as_str().unwrap()), ("<b>x</b>", "<b>x</b>"));
    assert_eq!(instance[2], process["role"].as_str().unwrap());
    assert!(shown.iter().position(|row| row == agent) < shown.iter().position(|row| row == instance));
    // An instance that ends goes from the list by itself, and rows that stay are the same elements.
    scene.browser.eval("window.kept = document.querySelector('tbody tr')").await;
    assert_eq!(scene.node.invoke("moody", "{\"ms\":60000}").await.status, 504);
    let gone = format!(
        "![...document.querySelectorAll('tbody tr')].some((row) => row.cells[1].textContent === '{}')",
        instance[1]
    );
    scene.browser.until(&gone).await;
    assert_eq!(scene.browser.eval("window.kept === document.querySelector('tbody tr')").await, true);
    scene.browser.eval("document.querySelector('select').focus()").await;
    scene.browser.eval("document.querySelector('main select, .view-head select').value = 'all'; document.querySelector('.view-head select').dispatchEvent(new Event('change'))").await;
    let all = scene.rows("Processes").await;
    assert!(all.iter().any(|row| row[2] == "kernel"), "the kernel's threads");
    scene.check().await;
    scene.browser.close().await;
}

fn boot() -> BootRecord {
    let phase = |name: &str, start_us, duration_us, outcome: &str| BootPhase {
        name: name.into(),
        start_us,
        duration_us,
        outcome: outcome.into(),
        detail: "<i>done</i>".into(),
    };
    BootRecord {
        number: 7,
        boot_id: "id".into(),
        began_at: "2026-01-02T03:04:05Z".into(),
        version: "0.1.0".into(),
        kernel: "6.12.1".into(),
        root_hash: "ab".repeat(32),
        kernel_us: 400_000,
        phases: vec![
            phase("verity", 400_000, 5000, "ok"),
            phase("zram", 405_000, 20_000, "failed"),
            phase("services", 425_000, 95_000, "ok"),
        ],
        ready_us: Some(520_000),
    }
}

/// Tells of itself as StratOS's PID 1 does. (The real one is met by the tests of the operating system.)
fn pid_1(listener: UnixListener) {
    let status = InitStatus {
        boot: boot(),
        services: vec![ServiceStatus {
            name: "stratosd".into(),
            state: "ready".into(),
            pid: Some(80),
            started_us: Some(425_000),
            restarts: 2,
            last_exit: Some("killed by SIGKILL".into()),
        }],
        abilities: vec![Ability { name: "zram".into(), available: false, detail: "no <u>device</u>".into() }],
        init_rss_kb: 2048,
    };
    let answer = serde_json::to_string(&InitAnswer::Status(Box::new(status))).expect("it is JSON");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).expect("a line");
            writeln!(stream, "{answer}").expect("it is read");
        }
    });
}

#[tokio::test]
async fn the_machine_is_shown_with_its_boot_and_what_it_lacks() {
    if !need_root("the_machine_is_shown_with_its_boot_and_what_it_lacks") {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let socket = dir.path().join("init.sock");
    pid_1(UnixListener::bind(&socket).expect("a socket"));
    let node =
        Node::builder().arg("--listen").arg("127.0.0.1:0").arg("--init-socket").arg(&socket).start().await;
    let base = format!("http://{}", tcp::address(&node));
    let mut browser = Browser::start().await;
    browser.open(&format!("{base}/ui")).await;
    let_in(&mut browser, &tcp::token(&node)).await;
    let mut scene = Scene { node, browser, base };
    let status = scene.get("/v1/node").await;
    let health = scene.get("/v1/health").await;

    assert_eq!(scene.fact("Host name").await, status["hostname"].as_str().unwrap());
    assert_eq!(scene.fact("Kernel").await, format!("Linux {}", status["kernel"].as_str().unwrap()));
    assert_eq!(scene.fact("PID 1").await, "StratOS's own, 2.0 MiB");
    let tiles =
        scene.browser.eval("[...document.querySelectorAll('.tile')].map((tile) => tile.innerText)").await;
    let tiles: Vec<String> = serde_json::from_value(tiles).unwrap();
    let total = scene.written(&format!("sizeKb({})", status["memory_total_kb"])).await;
    assert!(tiles[1].contains(&format!("of {total} in use")), "{tiles:?}");
    assert!(tiles[0].contains(&format!("of {} CPUs", status["cpus"])), "{tiles:?}");
    let missing =
        scene.browser.eval("[...document.querySelectorAll('.warning li')].map((li) => li.innerText)").await;
    let missing: Vec<String> = serde_json::from_value(missing).unwrap();
    let told = health["missing"].as_array().unwrap();
    let told = told
        .iter()
        .map(|one| format!("{}: {}", one["what"].as_str().unwrap(), one["consequence"].as_str().unwrap()));
    assert_eq!(missing, told.map(|text| text.replace('`', "")).collect::<Vec<_>>());

    let phases = scene.rows("Phases of the boot").await;
    let want = [
        ["kernel", "+0 µs", "400 ms", "Linux 6.12.1"],
        ["verity", "+400 ms", "5.00 ms", "<i>done</i>"],
        ["zram", "+405 ms", "20.0 ms", "failed: <i>done</i>"],
        ["services", "+425 ms", "95.0 ms", "<i>done</i>"],
    ];
    let shown: Vec<_> =
        phases.iter().map(|row| [&row[0], &row[2], &row[3], &row[4]].map(String::as_str)).collect();
    assert_eq!(shown, want);
    assert_eq!(scene.fact("Ready after").await, "520 ms");
    assert_eq!(scene.rows("Services").await, [["stratosd", "ready", "80", "2", "killed by SIGKILL"]]);
    assert_eq!(scene.rows("What the machine can do").await, [["zram", "no", "no <u>device</u>"]]);
    // The second look at the node tells how busy its CPUs are.
    scene.browser.until("/^CPU\\n\\d+(\\.\\d)? %/.test(document.querySelector('.tile').innerText)").await;
    let chart = "document.querySelector('.plot').getAttribute('aria-label')";
    let chart = scene.browser.eval(chart).await;
    assert!(chart.as_str().unwrap().starts_with("CPU and memory in use: latest "), "{chart}");
    scene.browser.picture(&super::pictures().join("node-managed.png")).await;
    scene.check().await;
    scene.browser.close().await;
}

#[tokio::test]
async fn figures_have_units_and_as_many_digits_as_they_deserve() {
    if !need_root("figures_have_units_and_as_many_digits_as_they_deserve") {
        return;
    }
    let mut scene = Scene::new().await;
    for (call, want) in [
        ("time(0)", "0 µs"),
        ("time(999)", "999 µs"),
        ("time(4407)", "4.41 ms"),
        ("time(23600)", "23.6 ms"),
        ("time(999499)", "999 ms"),
        ("time(999500)", "1.00 s"),
        ("time(90e6)", "90.0 s"),
        ("time(600e6)", "10 min"),
        ("time(null)", "–"),
        ("size(1023)", "1023 B"),
        ("size(1024)", "1.0 KiB"),
        ("sizeKb(1023.7)", "1.0 MiB"),
        ("size(150 * 2 ** 20)", "150 MiB"),
        ("count(1234567)", "1,234,567"),
        ("percent(0.004)", "0.4 %"),
        ("percent(0.333)", "33 %"),
        ("percent(0.0003)", "< 0.1 %"),
        ("percent(0)", "0 %"),
        ("age(119)", "119 s"),
        ("age(7199)", "119 min"),
        ("cut('x'.repeat(100), 5)", "xxxx…"),
        ("figure('connect_us', 1500).join()", "Connect,1.50 ms"),
        ("figure('rx_bytes', 2048).join()", "Rx,2.0 KiB"),
        ("figure('major_faults', 3).join()", "Major faults,3"),
        ("figure('slo_breached', false).join()", "SLO breached,no"),
    ] {
        assert_eq!(scene.written(call).await, want, "{call}");
    }
    scene.browser.close().await;
}
