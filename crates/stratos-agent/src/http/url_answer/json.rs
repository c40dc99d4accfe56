//! Reading the JSON of a handler's answer without building values of what was not asked for.
//!
//! A value takes up to a hundred times the memory of its text, and a function chooses the text. So what means nothing is
//! only skipped, and what is built counts against [`MAX_HEAD`].

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Most that all members of an answer but its body may hold, in bytes of text and values.
pub(super) const MAX_HEAD: usize = 64 << 10;

type Left<'a> = &'a Cell<usize>;

/// Reads all of `text`, one JSON value.
pub(super) fn from_text<'de, S: DeserializeSeed<'de>>(
    text: &'de str,
    seed: S,
) -> Result<S::Value, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = seed.deserialize(&mut reader)?;
    reader.end()?;
    Ok(value)
}

/// Whether `text` is an object with `statusCode`.
///
/// # Errors
/// When it is not JSON.
pub(super) fn has_status(text: &str) -> Result<bool, serde_json::Error> {
    if !text.trim_ascii_start().starts_with('{') {
        return serde_json::from_str(text).map(|IgnoredAny| false);
    }
    from_text(text, StatusFinder)
}

/// The names of members that mean something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum Name {
    StatusCode,
    Headers,
    MultiValueHeaders,
    Cookies,
    IsBase64Encoded,
    Body,
    #[serde(other)]
    Other,
}

impl Name {
    fn text(self) -> &'static str {
        match self {
            Self::StatusCode => "statusCode",
            Self::Headers => "headers",
            Self::MultiValueHeaders => "multiValueHeaders",
            Self::Cookies => "cookies",
            Self::IsBase64Encoded => "isBase64Encoded",
            Self::Body => "body",
            Self::Other => "",
        }
    }
}

struct StatusFinder;

impl<'de> DeserializeSeed<'de> for StatusFinder {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<bool, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for StatusFinder {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let mut found = false;
        while let Some((name, IgnoredAny)) = map.next_entry::<Name, IgnoredAny>()? {
            found |= name == Name::StatusCode;
        }
        Ok(found)
    }
}

/// A structured answer.
pub(super) struct Answer<'de> {
    /// The members that mean something, without the body.
    pub(super) members: Map<String, Value>,
    /// The body.
    pub(super) body: Content<'de>,
}

/// The member `body`.
#[derive(Debug)]
pub(super) enum Content<'de> {
    /// It is missing or null.
    Nothing,
    /// A string.
    Text(Cow<'de, str>),
    /// What a body cannot be.
    Other,
}

/// Reads an [`Answer`]; the cell says how many bytes may still be built, and is 0 after an error because of that.
pub(super) struct AnswerReader<'a>(pub(super) Left<'a>);

impl<'de> DeserializeSeed<'de> for AnswerReader<'_> {
    type Value = Answer<'de>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Answer<'de>, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for AnswerReader<'_> {
    type Value = Answer<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Answer<'de>, A::Error> {
        let mut answer = Answer { members: Map::new(), body: Content::Nothing };
        while let Some(name) = map.next_key::<Name>()? {
            match name {
                Name::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
                Name::Body => answer.body = map.next_value_seed(ContentReader)?,
                known => {
                    let value = map.next_value_seed(ValueReader(self.0))?;
                    answer.members.insert(known.text().to_owned(), value);
                }
            }
        }
        Ok(answer)
    }
}

struct ContentReader;

impl<'de> DeserializeSeed<'de> for ContentReader {
    type Value = Content<'de>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Content<'de>, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ContentReader {
    type Value = Content<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Content<'de>, E> {
        Ok(Content::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Content<'de>, E> {
        Ok(Content::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_unit<E>(self) -> Result<Content<'de>, E> {
        Ok(Content::Nothing)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Content<'de>, E> {
        Ok(Content::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Content<'de>, E> {
        Ok(Content::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Content<'de>, E> {
        Ok(Content::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Content<'de>, E> {
        Ok(Content::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Content<'de>, A::Error> {
        IgnoredAny.visit_seq(list).map(|_| Content::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Content<'de>, A::Error> {
        IgnoredAny.visit_map(map).map(|_| Content::Other)
    }
}

/// Builds a value, as far as there is something left for it.
#[derive(Clone, Copy)]
struct ValueReader<'a>(Left<'a>);

impl ValueReader<'_> {
    fn pay<E: de::Error>(self, bytes: usize) -> Result<(), E> {
        let left = self.0.get().saturating_sub(bytes);
        self.0.set(left);
        if left == 0 { Err(E::custom("too large")) } else { Ok(()) }
    }
}

impl<'de> DeserializeSeed<'de> for ValueReader<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        // The least that a value takes in text: itself and what follows it.
        self.pay(2)?;
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueReader<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Value, E> {
        self.pay(text.len())?;
        Ok(text.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Value, E> {
        Ok(flag.into())
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(self)? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            self.pay(name.len() + 2)?;
            members.insert(name, map.next_value_seed(self)?);
        }
        Ok(members.into())
    }
}
