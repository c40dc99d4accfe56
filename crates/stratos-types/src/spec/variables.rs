//! `[env]` and `[secrets]`: the variables that a function is given.

use std::collections::BTreeMap;

use toml::Value;

use super::{Keys, MAX_ENV_BYTES, MAX_SECRETS, SpecError, wrong_type};
use crate::SecretName;
use crate::environment::{has_default, is_name, is_of_contract, is_of_start};

impl Keys<'_> {
    pub(super) fn env(&self) -> Result<BTreeMap<String, String>, SpecError> {
        let Some(value) = self.0.get("env") else { return Ok(BTreeMap::new()) };
        let table = value.as_table().ok_or_else(|| wrong_type("env", "a table", value))?;
        let mut env = BTreeMap::new();
        for (name, value) in table {
            let key = format!("env.{name}");
            let text = value.as_str().ok_or_else(|| wrong_type(&key, "a text in quotes", value))?;
            check_variable(&key, name)?;
            if text.contains('\0') {
                return Err(SpecError::at(&key, "holds a NUL character", "remove it"));
            }
            env.insert(name.clone(), text.to_owned());
        }
        let bytes: usize = env.iter().map(|(k, v)| k.len() + v.len()).sum();
        if bytes > MAX_ENV_BYTES {
            let hint =
                format!("at most {MAX_ENV_BYTES} bytes are allowed; put data into a file of the function");
            return Err(SpecError::at("env", format!("{bytes} bytes are too many"), hint));
        }
        Ok(env)
    }

    pub(super) fn secrets(&self) -> Result<BTreeMap<String, SecretName>, SpecError> {
        const HINT: &str = "write the name that `stratos secret set` was given, such as \"db-password\"";
        let Some(value) = self.0.get("secrets") else { return Ok(BTreeMap::new()) };
        let table = value.as_table().ok_or_else(|| wrong_type("secrets", "a table", value))?;
        if table.len() > MAX_SECRETS {
            let message = format!("{} secrets are too many", table.len());
            return Err(SpecError::at("secrets", message, format!("at most {MAX_SECRETS} are allowed")));
        }
        let env = self.0.get("env").and_then(Value::as_table);
        let secret = |(name, value): (&String, &Value)| {
            let key = format!("secrets.{name}");
            let text = value.as_str().ok_or_else(|| wrong_type(&key, "a text in quotes", value))?;
            check_variable(&key, name)?;
            if is_of_start(name) || has_default(name) {
                let hint = "StratOS gives this variable to every function; choose another name";
                return Err(SpecError::at(&key, "is reserved", hint));
            }
            if env.is_some_and(|env| env.contains_key(name)) {
                let hint = "leave it out of one of the two tables";
                return Err(SpecError::at(&key, "is set by [env] as well", hint));
            }
            // Not shown: somebody may have written the secret itself.
            let secret =
                text.parse().map_err(|_| SpecError::at(&key, "is not the name of a secret", HINT))?;
            Ok((name.clone(), secret))
        };
        table.iter().map(secret).collect()
    }
}

/// Refuses what is no name of a variable, or one of the contract.
fn check_variable(key: &str, name: &str) -> Result<(), SpecError> {
    if !is_name(name) {
        let hint = "use letters, digits and _, not starting with a digit";
        return Err(SpecError::at(key, "is not a name for an environment variable", hint));
    }
    if is_of_contract(name) {
        let hint = "StratOS sets this variable itself; choose another name";
        return Err(SpecError::at(key, "is reserved", hint));
    }
    Ok(())
}
