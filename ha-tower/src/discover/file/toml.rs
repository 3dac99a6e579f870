use toml::de::{DeTable, DeValue};

use super::Problem;
use super::tree::{Field, Node, Refused, Value};

pub(super) fn parse(text: &str) -> Result<Node, Refused> {
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(text.len(), |span| span.start);
        let message = error.message().to_owned();
        let format = "toml";
        (at, Problem::Syntax { format, message })
    })?;
    Ok(Node {
        at: 0,
        value: map(table.get_ref()),
    })
}

fn map(table: &DeTable<'_>) -> Value {
    let fields = table.iter().map(|(name, value)| Field {
        name: name.get_ref().to_string(),
        at: name.span().start,
        value: Node {
            at: value.span().start,
            value: convert(value.get_ref()),
        },
    });
    Value::Map(fields.collect())
}

fn convert(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => match i128::from_str_radix(number.as_str(), number.radix()) {
            Ok(whole) => Value::Whole(whole),
            Err(_) => Value::Number(number.to_string()),
        },
        DeValue::Float(number) => Value::Number(number.as_str().to_owned()),
        DeValue::Boolean(_) => Value::Other("a truth value"),
        DeValue::Datetime(_) => Value::Other("a date or time"),
        DeValue::Array(list) => {
            let nodes = list.iter().map(|value| Node {
                at: value.span().start,
                value: convert(value.get_ref()),
            });
            Value::List(nodes.collect())
        }
        DeValue::Table(table) => map(table),
    }
}
