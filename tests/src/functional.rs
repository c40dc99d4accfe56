//! Functions that have much under way when they are checkpointed, and say in each instance whether all of it went on:
//! the workloads of the sandbox's own tests, as handlers.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::Package;

const JS: &str = include_str!("../../crates/stratos-sandbox/tests/workloads/functional.cjs");
const PY: &str = include_str!("../../crates/stratos-sandbox/tests/workloads/functional.py");
const JS_HANDLER: &str = "import functional from './functional.cjs';
const begun = await functional.begin();
export const handler = () => functional.finish(begun);
";
const PY_HANDLER: &str = "import functional
begun = functional.begin()
def handler(event, context):
    return functional.finish(begun)
";

/// What the item `vectors` says where there are none that it knows.
const NO_VECTORS: &str = "not on this processor";

/// Their names and packages, Node.js's first. They have no instance but by a checkpoint.
pub fn packages() -> [(&'static str, Package); 2] {
    let js = Package::node("functional-js", JS_HANDLER).file("functional.cjs", JS);
    let py = Package::python("functional-py", PY_HANDLER).file("functional.py", PY);
    let settings = "checkpoint = \"required\"\nmemory = \"256MB\"\ntimeout = \"3m\"";
    [("functional-js", js), ("functional-py", py)].map(|(name, package)| (name, package.setting(settings)))
}

/// Makes sure that everything in an answer of one of them went on.
///
/// # Panics
/// When something did not.
pub fn all_went_on(name: &str, answer: Value) {
    let told: BTreeMap<String, Value> = serde_json::from_value(answer).expect("a value for each item");
    assert!(told.len() > 10, "{name} tells of {:?} only", told.keys());
    if told.get("vectors").is_some_and(|told| told == NO_VECTORS) {
        eprintln!("{name}: no AVX, so that its vector registers were not looked at");
    }
    let went_on = |item: &str, told: &Value| *told == true || (item == "vectors" && told == NO_VECTORS);
    let failed: Vec<_> = told.iter().filter(|(item, told)| !went_on(item, told)).collect();
    assert!(failed.is_empty(), "{name}: {failed:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(last: &str) -> Value {
        let items = (0..11).map(|number| format!("\"{number}\": true")).collect::<Vec<_>>().join(",");
        serde_json::from_str(&format!("{{{items}, {last}}}")).expect("JSON")
    }

    #[test]
    fn all_is_all() {
        all_went_on("some", answer(r#""timer": true"#));
        all_went_on("some", answer(r#""vectors": "not on this processor""#));
    }

    #[test]
    #[should_panic(expected = r#"some: [("gc", Bool(false))]"#)]
    fn what_did_not_go_on_is_named() {
        all_went_on("some", answer(r#""gc": false"#));
    }

    #[test]
    #[should_panic(expected = "only")]
    fn an_empty_answer_is_none() {
        all_went_on("some", serde_json::json!({}));
    }
}
