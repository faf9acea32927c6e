//! The value of a column that no reader interprets, with the type that its file gave it.
//!
//! | file | becomes |
//! |---|---|
//! | csv, tsv | text |
//! | jsonl | what it is: text, number, bool, list or object |
//! | parquet | a number or a bool stays one; a list, a date and all others become text |
//!
//! Nulls and empty texts are no values.

use crate::table::Cell;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

/// A value of one of a product's other columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Text.
    Text(String),
    /// A number by its digits, in JSON's grammar, so that `1.50` and 30 digits stay as they are.
    Number(String),
    /// True or false.
    Bool(bool),
    /// A list or an object, as JSON.
    Json(String),
}

impl Value {
    pub(crate) fn of(cell: Cell) -> Option<Value> {
        Some(match cell {
            Cell::Null => return None,
            Cell::Text(text) if text.is_empty() => return None,
            // Parquet has NaN and infinities, for which JSON has no number.
            Cell::Number(text) if !is_json(&text) => Value::Text(text),
            Cell::Number(digits) => Value::Number(digits),
            Cell::Bool(value) => Value::Bool(value),
            Cell::Json { text, .. } => Value::Json(text),
            Cell::Text(text) | Cell::Other { text, .. } => Value::Text(text),
        })
    }

    /// The value as JSON.
    pub fn to_json(&self) -> String {
        match self {
            Value::Text(text) => serde_json::Value::from(text.as_str()).to_string(),
            Value::Number(json) | Value::Json(json) => json.clone(),
            Value::Bool(value) => value.to_string(),
        }
    }

    /// The value that [`Value::to_json`] wrote as `json`; `None` for what it never writes.
    pub fn from_json(json: &str) -> Option<Value> {
        if !is_json(json) {
            return None;
        }
        Cell::from_json(json).ok().and_then(Value::of)
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Text(text) => serializer.serialize_str(text),
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::Number(json) | Value::Json(json) => RawValue::from_string(json.clone())
                .map_err(serde::ser::Error::custom)?
                .serialize(serializer),
        }
    }
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<&RawValue>(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(digits: &str) -> Value {
        Value::Number(digits.into())
    }

    #[test]
    fn a_value_is_json_of_its_type_and_comes_back_from_it() {
        let values = [
            (Value::Text("7\" \u{1}\n".into()), r#""7\" \u0001\n""#),
            (number("1.50"), "1.50"),
            (number("123456789012345678901234567890"), "123456789012345678901234567890"),
            (Value::Bool(false), "false"),
            (Value::Json(r#"[1, {"a":null}]"#.into()), r#"[1, {"a":null}]"#),
        ];
        for (value, json) in values {
            assert_eq!(value.to_json(), json);
            assert_eq!(serde_json::to_string(&value).unwrap(), json);
            assert_eq!(Value::from_json(json), Some(value));
        }
        for bad in ["", "null", "\"\"", "tru", "[1", "1.", "NaN", "\"a", "1 2"] {
            assert_eq!(Value::from_json(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_json_cannot_hold_as_a_number_is_text() {
        assert_eq!(Value::of(Cell::Number("NaN".into())), Some(Value::Text("NaN".into())));
        assert_eq!(Value::of(Cell::Number("-7".into())), Some(number("-7")));
        assert_eq!(Value::of(Cell::Text(String::new())), None);
    }
}
