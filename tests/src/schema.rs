//! Checks JSON against the schemas of the node's own OpenAPI document.

use serde_json::Value;

/// The node's OpenAPI document.
pub struct Schemas(Value);

/// Keywords that say nothing about a value's shape.
const SILENT: [&str; 3] = ["description", "format", "minimum"];

impl Schemas {
    /// The schemas of `document`.
    pub fn new(document: Value) -> Self {
        Self(document)
    }

    /// The document.
    pub fn document(&self) -> &Value {
        &self.0
    }

    /// Checks `value` against the schema called `name`. Stricter than JSON Schema: members that the schema does not
    /// name are errors, for they are not documented.
    ///
    /// # Panics
    /// When it does not fit, with the place; and on a keyword of JSON Schema that this does not know.
    pub fn check(&self, name: &str, value: &Value) {
        let schema = self.named(name);
        if let Err(error) = self.fits(schema, value, name) {
            panic!("{error}\nin {value}");
        }
    }

    fn named(&self, name: &str) -> &Value {
        let schema = &self.0["components"]["schemas"][name];
        assert!(schema.is_object(), "the document has no schema `{name}`");
        schema
    }

    fn fits(&self, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
        let keywords = schema.as_object().unwrap_or_else(|| panic!("{at}: the schema is {schema}"));
        let no_additional = keywords.get("additionalProperties").is_none_or(|a| a == false);
        assert!(no_additional, "{at}: additionalProperties is not known here");
        for (keyword, argument) in keywords {
            match keyword.as_str() {
                "$ref" => {
                    let name = argument.as_str().and_then(|r| r.strip_prefix("#/components/schemas/"));
                    self.fits(self.named(name.expect("a reference to a schema")), value, at)?;
                }
                "type" if !is_any(argument, |kind| is_of(value, kind)) => {
                    return Err(format!("{at} is not {argument}"));
                }
                "enum" if !is_any(argument, |one| one == value) => {
                    return Err(format!("{at} is none of {argument}"));
                }
                "oneOf" => self.fits_one(argument, value, at)?,
                "required" => {
                    let missing = argument.as_array().into_iter().flatten().filter_map(Value::as_str);
                    let missing: Vec<_> = missing.filter(|name| value.get(name).is_none()).collect();
                    if !missing.is_empty() {
                        return Err(format!("{at} lacks {missing:?}"));
                    }
                }
                "properties" => {
                    for (name, member) in value.as_object().into_iter().flatten() {
                        let at = format!("{at}.{name}");
                        let schema = argument.get(name).ok_or_else(|| format!("{at} is not documented"))?;
                        self.fits(schema, member, &at)?;
                    }
                }
                "items" => {
                    for (i, item) in value.as_array().into_iter().flatten().enumerate() {
                        self.fits(argument, item, &format!("{at}[{i}]"))?;
                    }
                }
                "type" | "enum" | "additionalProperties" => {}
                silent if SILENT.contains(&silent) => {}
                unknown => panic!("{at}: the keyword {unknown} is not known here"),
            }
        }
        Ok(())
    }

    fn fits_one(&self, schemas: &Value, value: &Value, at: &str) -> Result<(), String> {
        let tried = schemas.as_array().into_iter().flatten().map(|schema| self.fits(schema, value, at));
        let (good, bad): (Vec<_>, Vec<_>) = tried.partition(Result::is_ok);
        match good.len() {
            1 => Ok(()),
            fitting => Err(format!("{at} fits {fitting} of {schemas}: {bad:?}")),
        }
    }
}

/// Whether `test` holds for `argument`, or for one of its items when it is a list.
fn is_any(argument: &Value, test: impl Fn(&Value) -> bool) -> bool {
    match argument {
        Value::Array(several) => several.iter().any(test),
        one => test(one),
    }
}

fn is_of(value: &Value, kind: &Value) -> bool {
    match kind.as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_u64() || value.is_i64(),
        Some("number") => value.is_number(),
        Some("boolean") => value.is_boolean(),
        Some("null") => value.is_null(),
        _ => panic!("the type {kind} is not known here"),
    }
}
