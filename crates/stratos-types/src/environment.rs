//! Environment variables: which names a function, a secret or a node may give, and the node's own.

use std::collections::BTreeMap;

/// Most bytes of the variables that a node gives to all functions, names and values together: most of what an instance
/// can be given stays with the functions' own secrets.
pub const MAX_NODE_BYTES: usize = 16 << 10;

/// Whether a text can be the name of a variable.
pub fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Variables of the function contract: a function that set them would not find its runtime.
pub(crate) fn is_of_contract(name: &str) -> bool {
    const CONTRACT: [&str; 10] = [
        "PORT",
        "_HANDLER",
        "K_SERVICE",
        "K_REVISION",
        "K_CONFIGURATION",
        "LAMBDA_TASK_ROOT",
        "LAMBDA_RUNTIME_DIR",
        "AWS_LAMBDA_RUNTIME_API",
        "AWS_EXECUTION_ENV",
        "_X_AMZN_TRACE_ID",
    ];
    CONTRACT.contains(&name) || name.starts_with("AWS_LAMBDA_") || name.starts_with("STRATOS_")
}

/// Variables that are looked at when a program starts. What arrives at the release of an instance comes too late for them.
pub(crate) fn is_of_start(name: &str) -> bool {
    ["PATH", "HOME", "NODE_OPTIONS"].contains(&name) || name.starts_with("PYTHON") || name.starts_with("LD_")
}

/// Variables that every function finds set, and may set otherwise.
pub(crate) fn has_default(name: &str) -> bool {
    ["LANG", "TZ", "AWS_REGION", "AWS_DEFAULT_REGION"].contains(&name)
}

/// Variables that a node gives to all functions on it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeEnvironment(BTreeMap<String, String>);

/// What is wrong with a node's variables. Values are never part of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{problem}", .key.as_deref().map(|key| format!("{key} ")).unwrap_or_default())]
pub struct NodeEnvironmentError {
    /// The variable; `None` when all of them are meant.
    pub key: Option<String>,
    /// What is wrong, and what to do.
    pub problem: String,
}

impl NodeEnvironment {
    /// Takes variables that may be given to functions.
    ///
    /// # Errors
    /// The first name or value that may not, or that all of them are too much.
    pub fn new(variables: BTreeMap<String, String>) -> Result<Self, NodeEnvironmentError> {
        let wrong = |key: &str, problem: &str| {
            Err(NodeEnvironmentError { key: Some(key.to_owned()), problem: problem.to_owned() })
        };
        for (name, value) in &variables {
            if !is_name(name) {
                return wrong(
                    name,
                    "is no name of a variable: use letters, digits and _, no digit at the start",
                );
            }
            if is_of_contract(name) {
                return wrong(name, "is set by StratOS itself: choose another name");
            }
            if is_of_start(name) {
                return wrong(
                    name,
                    "is read when a program starts, which is before it is given: leave it out",
                );
            }
            if value.contains('\0') {
                return wrong(name, "holds a NUL character: remove it");
            }
        }
        let bytes: usize = variables.iter().map(|(name, value)| name.len() + value.len()).sum();
        if bytes > MAX_NODE_BYTES {
            let problem = format!("{bytes} bytes are too many: at most {MAX_NODE_BYTES} are allowed");
            return Err(NodeEnvironmentError { key: None, problem });
        }
        Ok(Self(variables))
    }

    /// Reads TOML: `NAME = "value"`, one a line.
    ///
    /// # Errors
    /// As [`NodeEnvironment::new`], and when it is not such TOML.
    pub fn parse(text: &str) -> Result<Self, NodeEnvironmentError> {
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            // The parser's own words may quote what it has read.
            NodeEnvironmentError {
                key: None,
                problem: format!("line {line} is not of the form NAME = \"value\""),
            }
        })?;
        let pair = |(name, value): (String, toml::Value)| match value {
            toml::Value::String(value) => Ok((name, value)),
            _ => Err(NodeEnvironmentError {
                key: Some(name),
                problem: "has to be a text in quotes".to_owned(),
            }),
        };
        Self::new(table.into_iter().map(pair).collect::<Result<_, _>>()?)
    }

    /// The variables as [`NodeEnvironment::parse`] reads them.
    pub fn to_toml(&self) -> String {
        let pairs = self.0.iter().map(|(name, value)| (name.clone(), value.clone().into()));
        toml::Table::from_iter(pairs).to_string()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The variables, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_gives_round_trips() {
        let text = "HTTPS_PROXY = \"http://proxy:3128\"\nTZ = \"Europe/Berlin\"\nNOTE = '''two\nlines'''\n";
        let environment = NodeEnvironment::parse(text).unwrap();
        let pairs: Vec<_> = environment.iter().collect();
        assert_eq!(
            pairs,
            [("HTTPS_PROXY", "http://proxy:3128"), ("NOTE", "two\nlines"), ("TZ", "Europe/Berlin")]
        );
        assert_eq!(NodeEnvironment::parse(&environment.to_toml()).unwrap(), environment);
        assert!(NodeEnvironment::parse("# nothing\n").unwrap().is_empty());
    }

    /// Every mistake names its key, and shows no value.
    #[test]
    fn mistakes_of_a_node_are_explained() {
        for (text, says) in [
            ("A = 'hush'\nB hush", "line 2 is not of the form"),
            ("A = ['hush']", "A has to be a text"),
            ("[A]\nB = 'hush'", "A has to be a text"),
            ("a-b = 'hush'", "a-b is no name"),
            ("1A = 'hush'", "1A is no name"),
            ("PORT = 'hush'", "PORT is set by StratOS"),
            ("AWS_LAMBDA_X = 'hush'", "AWS_LAMBDA_X is set by StratOS"),
            ("STRATOS_X = 'hush'", "STRATOS_X is set by StratOS"),
            ("PATH = 'hush'", "PATH is read when a program starts"),
            ("PYTHONPATH = 'hush'", "PYTHONPATH is read when"),
            ("LD_PRELOAD = 'hush'", "LD_PRELOAD is read when"),
            ("A = \"hush\\u0000\"", "A holds a NUL"),
            (&format!("A = '{}'", "hush".repeat(5000)), "20001 bytes are too many"),
        ] {
            let error = NodeEnvironment::parse(text).unwrap_err().to_string();
            assert!(error.starts_with(says), "{error}");
            assert!(!error.contains("hush"), "{error}");
        }
    }
}
