//! All of the page can be used without a mouse.

use stratos_tests::need_root;

use super::Scene;

/// Presses Tab until what has the focus is as wanted. Everything on the way shows that it has the focus.
async fn tab_to(scene: &mut Scene, wanted: &str) {
    for _ in 0..60 {
        scene.browser.press("Tab").await;
        let shows = "(() => {
            const at = document.activeElement;
            const style = getComputedStyle(at);
            const box = at.getBoundingClientRect();
            const seen = at === document.body || (at.matches(':focus-visible') && style.outlineStyle !== 'none'
                && parseFloat(style.outlineWidth) >= 2 && box.width > 0 && box.height > 0);
            return seen ? '' : at.outerHTML;
        })()";
        assert_eq!(scene.browser.eval(shows).await, "", "has the focus and does not show it");
        if scene.browser.eval(&format!("(({wanted}))(document.activeElement)")).await == true {
            return;
        }
    }
    panic!("Tab does not lead to {wanted}");
}

async fn shown(scene: &mut Scene, title: &str) {
    // The title has the focus: what is read and reached next is the view.
    let arrived = format!(
        "document.querySelector('h1').textContent === '{title}' && document.activeElement === document.querySelector('h1')
            && !('waiting' in document.querySelector('main').dataset)"
    );
    scene.browser.until(&arrived).await;
}

#[tokio::test]
async fn every_view_is_reached_and_read_by_keyboard_alone() {
    if !need_root("every_view_is_reached_and_read_by_keyboard_alone") {
        return;
    }
    let mut scene = Scene::new().await;
    for title in ["Processes", "Functions", "Failures", "System calls", "Node"] {
        scene.browser.eval("document.activeElement.blur(); getSelection().removeAllRanges()").await;
        scene.browser.eval("document.getElementById('skip').focus()").await;
        tab_to(&mut scene, &format!("(at) => at.matches('nav a') && at.textContent === '{title}'")).await;
        scene.browser.press("Enter").await;
        shown(&mut scene, title).await;
        let current = "document.querySelectorAll('nav [aria-current=page]').length === 1
            && document.querySelector('nav [aria-current=page]').textContent";
        assert_eq!(scene.browser.eval(current).await, title);
    }
    // A chart is read with the arrow keys.
    scene.browser.until("document.querySelector('.plot').querySelector('path.line')").await;
    tab_to(&mut scene, "(at) => at.matches('.plot')").await;
    scene.browser.press("Home").await;
    let said = "document.querySelector('figure [aria-live]').textContent";
    scene.browser.until(&format!("/^\\d\\d:\\d\\d:\\d\\d: CPU .* %, Memory .* %$/.test({said})")).await;
    let first = scene.browser.eval(said).await;
    scene.browser.press("ArrowRight").await;
    scene.browser.until(&format!("{said} !== {first}")).await;
    // Its figures are a table behind it.
    tab_to(&mut scene, "(at) => at.matches('summary')").await;
    scene.browser.press("Enter").await;
    scene.browser.until("document.querySelectorAll('details[open] tbody tr').length > 1").await;
    // From the list of functions to one, to its invocation, and to the function again.
    scene.browser.eval("location.hash = '#/functions'").await;
    shown(&mut scene, "Functions").await;
    tab_to(&mut scene, "(at) => at.matches('tbody a') && at.textContent === 'moody'").await;
    scene.browser.press("Enter").await;
    shown(&mut scene, "moody").await;
    tab_to(&mut scene, "(at) => at.matches('tbody a')").await;
    // What is asked anew meanwhile takes the focus from nothing.
    let before = scene.browser.eval("document.getElementById('live').textContent").await;
    scene
        .browser
        .until(&format!("!['', {before}].includes(document.getElementById('live').textContent)"))
        .await;
    assert_eq!(scene.browser.eval("document.activeElement.matches('tbody a')").await, true);
    scene.browser.press("Enter").await;
    shown(&mut scene, "Invocation of moody").await;
    tab_to(&mut scene, "(at) => at.textContent === 'The function'").await;
    scene.browser.press("Enter").await;
    shown(&mut scene, "moody").await;
    // The first key of a visitor offers the way past the navigation.
    scene.browser.eval("document.getElementById('skip').focus()").await;
    scene.browser.press("Enter").await;
    assert_eq!(scene.browser.eval("document.activeElement.id").await, "main");
    scene.check().await;
    scene.browser.close().await;
}

/// Names, roles and landmarks that a screen reader goes by.
#[tokio::test]
async fn every_part_has_a_name() {
    if !need_root("every_part_has_a_name") {
        return;
    }
    let mut scene = Scene::new().await;
    let nameless = "(() => {
        const name = (at) => at.getAttribute('aria-label') || at.labels?.[0]?.textContent || at.caption?.textContent
            || at.textContent.trim();
        const parts = [...document.querySelectorAll('button, a, input, select, table, [role=img], [role=region], nav, figure')];
        const wrong = parts.filter((at) => !name(at)).map((at) => at.outerHTML);
        for (const table of document.querySelectorAll('table')) {
            if ([...table.querySelectorAll('thead th')].some((th) => th.scope !== 'col' || !th.textContent)) wrong.push('a column');
            if ([...table.querySelectorAll('tbody tr')].some((tr) => tr.querySelectorAll('th[scope=row]').length !== 1)) wrong.push('a row');
        }
        for (const part of ['header', 'nav', 'main', 'footer', 'h1', 'html[lang]']) {
            if (document.querySelectorAll(part).length !== 1) wrong.push(part);
        }
        const ids = [...document.querySelectorAll('[id]')].map((at) => at.id);
        if (new Set(ids).size !== ids.length) wrong.push('an id twice');
        return wrong;
    })()";
    for view in ["#/node", "#/processes", "#/functions", "#/functions/moody", "#/failures", "#/syscalls"] {
        scene.view(view).await;
        assert_eq!(scene.browser.eval(nameless).await, serde_json::json!([]), "{view}");
    }
    scene.check().await;
    scene.browser.close().await;
}
