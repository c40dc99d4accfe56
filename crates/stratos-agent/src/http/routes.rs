//! Every path of the node, as a table.

use std::sync::Arc;

use axum::Router;
use axum::routing::{MethodRouter, any, delete, get, post, put};
use http::Method;
use stratos_api::path;

use super::{
    Api, aws, build, control, deploy, errors, function_url, invoke, keys, logs, node, observe, openapi,
    secrets, telemetry, trace, ui,
};

/// One entry: method (`None`: any), path, handler.
pub(super) struct Route {
    #[cfg_attr(not(test), expect(dead_code, reason = "the tests compare the table with the API's document"))]
    pub(super) method: Option<Method>,
    pub(super) path: &'static str,
    handler: MethodRouter<Arc<Api>>,
}

/// `/f/NAME` and `/f/NAME/`, which the pattern of [`path::FUNCTION_URL`] leaves out.
const FUNCTION_URL_ROOTS: [&str; 2] = ["/f/{name}", "/f/{name}/"];

#[rustfmt::skip]
pub(super) fn table() -> Vec<Route> {
    const GET: Option<Method> = Some(Method::GET);
    const POST: Option<Method> = Some(Method::POST);
    const PUT: Option<Method> = Some(Method::PUT);
    const DELETE: Option<Method> = Some(Method::DELETE);
    let mut table = vec![
        Route { method: GET,    path: path::HEALTH,       handler: get(observe::health) },
        Route { method: GET,    path: path::OPENAPI,      handler: get(openapi::answer) },
        Route { method: GET,    path: path::FUNCTIONS,    handler: get(control::list) },
        Route { method: POST,   path: path::DEPLOY,       handler: post(deploy::deploy) },
        Route { method: GET,    path: path::FUNCTION,     handler: get(control::show) },
        Route { method: DELETE, path: path::FUNCTION,     handler: delete(control::remove) },
        Route { method: GET,    path: path::VERSIONS,     handler: get(control::versions) },
        Route { method: POST,   path: path::VERSIONS,     handler: post(deploy::deploy_named) },
        Route { method: POST,   path: path::ROLLBACK,     handler: post(control::rollback) },
        Route { method: POST,   path: path::INVOKE,       handler: post(invoke::invoke) },
        Route { method: GET,    path: path::INVOCATIONS,  handler: get(observe::invocations) },
        Route { method: GET,    path: path::LOGS,         handler: get(logs::logs) },
        Route { method: POST,   path: path::TRACE,        handler: post(trace::open) },
        Route { method: GET,    path: path::TRACE,        handler: get(trace::last) },
        Route { method: DELETE, path: path::TRACE,        handler: delete(trace::end) },
        Route { method: GET,    path: path::DEAD_LETTERS, handler: get(observe::dead_letters) },
        Route { method: POST,   path: path::DEAD_LETTER,  handler: post(observe::requeue) },
        Route { method: DELETE, path: path::DEAD_LETTER,  handler: delete(observe::forget) },
        Route { method: GET,    path: path::INVOCATION,   handler: get(observe::invocation) },
        Route { method: GET,    path: path::INVOCATION_TRACE, handler: get(telemetry::trace) },
        Route { method: GET,    path: path::TELEMETRY_FUNCTIONS, handler: get(telemetry::functions) },
        Route { method: GET,    path: path::METRICS,      handler: get(telemetry::metrics) },
        Route { method: GET,    path: path::SECRETS,      handler: get(secrets::list) },
        Route { method: PUT,    path: path::SECRET,       handler: put(secrets::set) },
        Route { method: DELETE, path: path::SECRET,       handler: delete(secrets::remove) },
        Route { method: GET,    path: path::NODE,         handler: get(node::status) },
        Route { method: GET,    path: path::NODE_TREE,    handler: get(node::tree) },
        Route { method: GET,    path: path::NODE_FEATURES, handler: get(trace::features) },
        Route { method: GET,    path: path::NODE_BOOTS,   handler: get(node::boots) },
        Route { method: GET,    path: path::NODE_BOOT_SVG, handler: get(node::boot_svg) },
        Route { method: GET,    path: path::NODE_LOGS,    handler: get(node::logs) },
        Route { method: POST,   path: path::NODE_REBOOT,  handler: post(node::reboot) },
        Route { method: POST,   path: path::NODE_POWEROFF, handler: post(node::power_off) },
        Route { method: POST,   path: path::BUILDS,       handler: post(build::build) },
        Route { method: GET,    path: path::BUILD,        handler: get(build::fetch) },
        Route { method: DELETE, path: path::BUILD,        handler: delete(build::remove) },
        Route { method: GET,    path: path::KEYS,         handler: get(keys::list) },
        Route { method: POST,   path: path::KEYS,         handler: post(keys::enroll) },
        Route { method: DELETE, path: path::KEY,          handler: delete(keys::remove) },
        Route { method: POST,   path: path::AWS_INVOKE,   handler: post(aws::invoke) },
        Route { method: GET,    path: path::UI,           handler: get(ui::page) },
        Route { method: GET,    path: path::UI_FILE,      handler: get(ui::file) },
        Route { method: None,   path: path::FUNCTION_URL, handler: any(function_url::call) },
    ];
    table.extend(FUNCTION_URL_ROOTS.map(|path| Route { method: None, path, handler: any(function_url::call) }));
    table
}

pub(super) fn router(api: Arc<Api>) -> Router {
    table()
        .into_iter()
        .fold(Router::new(), |router, route| router.route(route.path, route.handler))
        .fallback(errors::not_found)
        .method_not_allowed_fallback(errors::method_not_allowed)
        .with_state(api)
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use tower_service::Service as _;

    use super::*;

    /// The fallbacks, on the same paths with handlers that need no node.
    #[tokio::test]
    async fn what_is_not_there_says_so() {
        let empty = || async {};
        let mut router = table()
            .into_iter()
            .fold(Router::new(), |router: Router, route| match route.method {
                Some(Method::GET) => router.route(route.path, get(empty)),
                Some(Method::POST) => router.route(route.path, post(empty)),
                Some(Method::PUT) => router.route(route.path, put(empty)),
                Some(_) => router.route(route.path, delete(empty)),
                None => router.route(route.path, any(empty)),
            })
            .fallback(errors::not_found)
            .method_not_allowed_fallback(errors::method_not_allowed);
        for (method, path, status, allow) in [
            ("GET", "/v1/functions", 200, None),
            ("PATCH", "/f/hello/a/b", 200, None),
            ("GET", "/f/hello", 200, None),
            ("GET", "/f/hello/", 200, None),
            ("GET", "/ui", 200, None),
            ("POST", "/ui/app.js", 405, Some("GET,HEAD")),
            ("GET", "/v1/nothing", 404, None),
            ("GET", "/", 404, None),
            ("PUT", "/v1/functions", 405, Some("GET,HEAD,POST")),
            ("GET", "/2015-03-31/functions/hello/invocations", 405, Some("POST")),
        ] {
            let request = http::Request::builder().method(method).uri(path).body(axum::body::Body::empty());
            let response = router.call(request.unwrap()).await.unwrap();
            assert_eq!(response.status(), StatusCode::from_u16(status).unwrap(), "{method} {path}");
            let allowed = response.headers().get("allow").map(|v| v.to_str().unwrap());
            assert_eq!(allowed, allow, "{method} {path}");
            assert_eq!(response.headers().contains_key("stratos-error"), status >= 400, "{method} {path}");
        }
    }
}
