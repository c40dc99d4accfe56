//! Light and dark, and text that can be read in both. Pictures are left in the build folder, in `ui-pictures`.

use serde_json::json;
use stratos_tests::need_root;

use super::{Scene, pictures};

/// The lowest contrast (WCAG 2) of a text to what is behind it, and that text.
const CONTRAST: &str = "(() => {
    const canvas = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
    const rgba = (color) => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = color;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const light = ([r, g, b]) => {
        const [x, y, z] = [r, g, b].map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
        return 0.2126 * x + 0.7152 * y + 0.0722 * z;
    };
    const behind = (at) => {
        for (let e = at; e; e = e.parentElement) {
            const color = rgba(getComputedStyle(e).backgroundColor);
            if (color[3] === 255) return color;
        }
        return [255, 255, 255];
    };
    let worst = [99, ''];
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        const at = texts.currentNode.parentElement;
        const style = getComputedStyle(at);
        const box = at.getBoundingClientRect();
        if (!texts.currentNode.data.trim() || style.visibility === 'hidden' || box.width < 2 || box.height < 2) continue;
        if (at.closest('.hidden, script, noscript, .skip, option')) continue;
        const color = rgba(at instanceof SVGElement ? style.fill : style.color);
        const [a, b] = [light(color), light(behind(at))].sort((x, y) => y - x);
        const contrast = (a + 0.05) / (b + 0.05);
        if (contrast < worst[0]) worst = [contrast, texts.currentNode.data];
    }
    return worst;
})()";

#[tokio::test]
async fn light_and_dark_follow_the_system_and_the_switch() {
    if !need_root("light_and_dark_follow_the_system_and_the_switch") {
        return;
    }
    let mut scene = Scene::new().await;
    const BACK: &str = "getComputedStyle(document.documentElement).backgroundColor";
    for scheme in ["light", "dark"] {
        scene.browser.prefer(scheme).await;
        for view in ["node", "processes", "functions", "functions/moody", "failures", "syscalls"] {
            scene.view(&format!("#/{view}")).await;
            let worst = scene.browser.eval(CONTRAST).await;
            assert!(worst[0].as_f64().unwrap() >= 4.5, "{scheme} {view}: {worst}");
            let file = format!("{}-{scheme}.png", view.replace('/', "-"));
            scene.browser.picture(&pictures().join(file)).await;
        }
        let id = scene.node.records("moody").await[1].id.clone();
        scene.view(&format!("#/invocations/moody/{id}")).await;
        scene.browser.picture(&pictures().join(format!("invocation-{scheme}.png"))).await;
    }
    let dark = scene.browser.eval(BACK).await;
    let choose = |theme: &str| {
        format!(
            "(() => {{ const theme = document.getElementById('theme'); theme.value = '{theme}'; theme.dispatchEvent(new Event('change')); return {BACK}; }})()"
        )
    };
    let light = scene.browser.eval(&choose("light")).await;
    assert_ne!(light, dark);
    scene.browser.prefer("light").await;
    assert_eq!(scene.browser.eval(&choose("dark")).await, dark);
    assert_eq!(scene.browser.eval(&choose("auto")).await, light);
    // On a narrow screen nothing is wider than it; tables scroll within their cards.
    let size = json!({ "width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": true });
    scene.browser.call("Emulation.setDeviceMetricsOverride", size).await;
    for view in ["#/node", "#/functions", "#/functions/moody"] {
        scene.view(view).await;
        assert_eq!(scene.browser.eval("document.documentElement.scrollWidth").await, 390, "{view}");
    }
    scene.browser.picture(&pictures().join("narrow.png")).await;
    scene.check().await;
    scene.browser.close().await;
}
