//! The API as an OpenAPI 3.1 document, made from the handlers' own annotations.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use stratos_api::DeployEvent;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::{
    aws, build, control, deploy, function_url, invoke, keys, logs, node, observe, secrets, telemetry, trace,
    ui,
};

#[derive(OpenApi)]
#[openapi(
    info(title = "StratOS node API", description = "Deploys functions to one node, invokes them and tells about \
        them. Every answer that is an error has an `ApiError` as its body, its code in `stratos-error` and who is \
        to blame (`client`, `function`, `platform`) in `stratos-blame`.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")),
    paths(
        observe::health,
        answer,
        control::list,
        deploy::deploy,
        control::show,
        control::remove,
        control::versions,
        deploy::deploy_named,
        control::rollback,
        invoke::invoke,
        observe::invocations,
        logs::logs,
        trace::open,
        trace::last,
        trace::end,
        observe::dead_letters,
        observe::requeue,
        observe::forget,
        observe::invocation,
        telemetry::trace,
        telemetry::functions,
        telemetry::metrics,
        secrets::list,
        secrets::set,
        secrets::remove,
        node::status,
        node::tree,
        trace::features,
        node::boots,
        node::boot_svg,
        node::logs,
        node::reboot,
        node::power_off,
        build::build,
        build::fetch,
        build::remove,
        keys::list,
        keys::enroll,
        keys::remove,
        aws::invoke,
        ui::page,
        ui::file,
        function_url::call,
    ),
    components(schemas(DeployEvent, stratos_api::BuildEvent, stratos_api::Liveness)),
    modifiers(&Token),
    security(("token" = []))
)]
struct Document;

/// The token that TCP asks for. (The Unix socket asks for none.)
struct Token;

impl Modify for Token {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("The node's token; needed on TCP, not on the Unix socket"));
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(scheme.build()));
    }
}

/// The document.
pub fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

/// This document.
#[utoipa::path(get, path = "/v1/openapi.json", tag = "node",
    responses((status = 200, description = "The API, as an OpenAPI 3.1 document", content_type = "application/json")))]
pub(super) async fn answer() -> Response {
    let json = document().to_json().expect("the document is JSON");
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], json).into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::super::routes;
    use super::*;

    /// Paths have no `*` in OpenAPI.
    fn plain(path: &str) -> String {
        path.replace("{*", "{")
    }

    fn documented() -> BTreeSet<(String, String)> {
        let document: Value = serde_json::from_str(&document().to_json().unwrap()).unwrap();
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
        let paths = document["paths"].as_object().unwrap().clone();
        let operations = |(path, item): (String, Value)| {
            let methods: Vec<_> = item.as_object().unwrap().keys().cloned().collect();
            methods.into_iter().map(move |method| (method, path.clone()))
        };
        paths.into_iter().flat_map(operations).collect()
    }

    #[test]
    fn every_route_is_documented_and_the_reverse() {
        let any = ["get", "post", "put", "patch", "delete", "head", "options"];
        let mut routed = BTreeSet::new();
        for route in routes::table() {
            match route.method {
                Some(method) => drop(routed.insert((method.as_str().to_lowercase(), plain(route.path)))),
                // The short forms of the function URL stand under the long one.
                None if route.path != stratos_api::path::FUNCTION_URL => {}
                None => routed.extend(any.map(|method| (method.to_owned(), plain(route.path)))),
            }
        }
        assert_eq!(documented(), routed);
    }

    #[test]
    fn every_path_of_the_contract_is_documented() {
        // Read from the source, so that a constant that is added cannot be forgotten here.
        let source = include_str!("../../../stratos-api/src/path.rs");
        let constants = source.lines().filter_map(|line| line.strip_prefix("pub const ")?.split('"').nth(1));
        let constants: BTreeSet<_> = constants.map(plain).collect();
        assert!(constants.len() > 10, "{constants:?}");
        assert_eq!(documented().into_iter().map(|(_, path)| path).collect::<BTreeSet<_>>(), constants);
    }
}
