//! `[slo]`: what a function's author aims at.

use toml::Value;

use super::{Keys, Slo, SpecError, wrong_type};

const LATENCY: &str = "slo.latency";
const HINT: &str = "write a time such as latency = \"200ms\"";

impl Keys<'_> {
    pub(super) fn slo(&self) -> Result<Slo, SpecError> {
        let Some(value) = self.0.get("slo") else { return Ok(Slo::default()) };
        let table = value.as_table().ok_or_else(|| wrong_type("slo", "a table: [slo]", value))?;
        if let Some(unknown) = table.keys().find(|key| *key != "latency") {
            return Err(SpecError::at(&format!("slo.{unknown}"), "unknown key", "the key is latency"));
        }
        let latency = match table.get("latency") {
            None => None,
            Some(Value::String(text)) => {
                Some(text.parse().map_err(|e| SpecError::at(LATENCY, format!("{e}"), HINT))?)
            }
            Some(other) => return Err(wrong_type(LATENCY, "a text in quotes", other)),
        };
        Ok(Slo { latency })
    }
}
