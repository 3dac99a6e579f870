use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::Problem;
use super::tree::{Field, Node, Refused, Value};

/// Deeper than any list of endpoints, and far from the end of the stack.
const DEEPEST: usize = 8;

pub(super) fn parse(text: &str) -> Result<Node, Refused> {
    let raw: &RawValue = serde_json::from_str(text)
        .map_err(|error| (offset(text, error.line(), error.column()), syntax(&error)))?;
    node(raw, text, 0)
}

fn syntax(error: &serde_json::Error) -> Problem {
    let message = error.to_string();
    // The place is told beside it, and there in the whole file.
    let message = message.split(" at line ").next().unwrap_or_default();
    Problem::Syntax {
        format: "json",
        message: message.to_owned(),
    }
}

/// serde_json counts columns in bytes, and names the last byte it read.
fn offset(text: &str, line: usize, column: usize) -> usize {
    let before = text.split_inclusive('\n').take(line.saturating_sub(1));
    let start: usize = before.map(str::len).sum();
    (start + column.saturating_sub(1)).min(text.len())
}

fn node(raw: &RawValue, text: &str, depth: usize) -> Result<Node, Refused> {
    let part = raw.get();
    // A raw value borrows from the text that it was parsed from.
    let at = (part.as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
    let failed = |error: serde_json::Error| (at, syntax(&error));
    let value = match part.as_bytes().first() {
        Some(b'{' | b'[') if depth == DEEPEST => Value::Other("nested too deeply"),
        Some(b'{') => {
            let Fields(fields) = serde_json::from_str(part).map_err(failed)?;
            let fields = fields.into_iter().map(|(name, raw)| {
                let value = node(raw, text, depth + 1)?;
                let at = value.at;
                Ok(Field { name, at, value })
            });
            Value::Map(fields.collect::<Result<_, _>>()?)
        }
        Some(b'[') => {
            let list: Vec<&RawValue> = serde_json::from_str(part).map_err(failed)?;
            let nodes = list.into_iter().map(|raw| node(raw, text, depth + 1));
            Value::List(nodes.collect::<Result<_, _>>()?)
        }
        Some(b'"') => Value::Text(serde_json::from_str(part).map_err(failed)?),
        Some(b't' | b'f') => Value::Other("a truth value"),
        Some(b'n') => Value::Other("null"),
        _ => match part.parse() {
            Ok(whole) => Value::Whole(whole),
            Err(_) => Value::Number(part.to_owned()),
        },
    };
    Ok(Node { at, value })
}

/// The fields of an object in their order, repeated ones included.
struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(Collect)
    }
}
