//! `--text-template '{product_title} {brand}'`: one text of several columns.
//!
//! A column's name stands in braces: ours (`product_title`, whatever `--column` says the file
//! calls it) or the file's own. `{{` and `}}` are braces. A column without a value in a row gives
//! nothing, and runs of white space become one blank, so that a missing brand leaves no gap. A
//! list of jsonl gives its items with blanks between them.

use crate::columns::Columns;
use crate::records::Product;
use crate::value::Value;
use loriot_files::Hint;
use serde_json::value::RawValue;
use std::fmt;
use std::str::FromStr;

/// A template, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextTemplate {
    source: String,
    /// Literal text, and places in `columns`.
    parts: Vec<Part<usize>>,
    columns: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part<C> {
    Literal(String),
    Column(C),
}

/// A `--text-template` that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A brace without its other half.
    #[error("`{template}`: the `{brace}` at character {place} has no other half")]
    Unbalanced {
        /// The option's value.
        template: String,
        /// The brace.
        brace: char,
        /// Where it stands, from 1.
        place: usize,
    },
    /// `{}`.
    #[error("`{template}`: the braces at character {place} name no column")]
    Unnamed {
        /// The option's value.
        template: String,
        /// Where they open, from 1.
        place: usize,
    },
    /// Every text would be the same.
    #[error("`{template}` names no column")]
    NoColumn {
        /// The option's value.
        template: String,
    },
}

impl Hint for TemplateError {
    fn hint(&self) -> Option<String> {
        Some(
            "names of columns stand in braces, as in `{product_title} {brand}`; a brace itself is \
             `{{` or `}}`"
                .into(),
        )
    }
}

impl FromStr for TextTemplate {
    type Err = TemplateError;

    fn from_str(source: &str) -> Result<TextTemplate, TemplateError> {
        let template = || source.to_owned();
        let unbalanced = |brace, at| {
            let place = at + 1;
            TemplateError::Unbalanced { template: template(), brace, place }
        };
        let (mut parts, mut columns) = (Vec::new(), Vec::<String>::new());
        let mut literal = String::new();
        let mut rest = source.chars().enumerate().peekable();
        while let Some((at, c)) = rest.next() {
            let is_doubled = rest.next_if(|(_, next)| *next == c && matches!(c, '{' | '}'));
            match c {
                '{' | '}' if is_doubled.is_some() => literal.push(c),
                '}' => return Err(unbalanced('}', at)),
                '{' => {
                    let mut name = String::new();
                    loop {
                        match rest.next() {
                            Some((_, '}')) => break,
                            Some((_, '{')) | None => return Err(unbalanced('{', at)),
                            Some((_, c)) => name.push(c),
                        }
                    }
                    let name = name.trim();
                    if name.is_empty() {
                        let place = at + 1;
                        return Err(TemplateError::Unnamed { template: template(), place });
                    }
                    if !literal.is_empty() {
                        parts.push(Part::Literal(std::mem::take(&mut literal)));
                    }
                    let known = columns.iter().position(|column| column == name);
                    parts.push(Part::Column(known.unwrap_or(columns.len())));
                    if known.is_none() {
                        columns.push(name.to_owned());
                    }
                }
                c => literal.push(c),
            }
        }
        if columns.is_empty() {
            return Err(TemplateError::NoColumn { template: template() });
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Ok(TextTemplate { source: template(), parts, columns })
    }
}

impl fmt::Display for TextTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

impl TextTemplate {
    /// The columns that it names, each once, in the order in which they first occur.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The text of a row whose values are those of [`TextTemplate::columns`], in their order.
    pub(crate) fn text(&self, values: &[Option<Value>]) -> String {
        joined(&self.parts, |column| values[*column].as_ref().map(plain_text))
    }

    /// The template over products that were read under `columns` and have these other columns.
    pub fn of_products(&self, columns: &Columns, other_columns: &[String]) -> ProductTexts {
        let source = |name: &str| {
            let theirs = columns.in_file(name);
            if theirs == columns.in_file("product_title") {
                return ProductColumn::Title;
            }
            if theirs == columns.in_file("id") {
                return ProductColumn::Id;
            }
            let place = other_columns.iter().position(|other| other == theirs);
            ProductColumn::Other(place.map(|place| place as u32))
        };
        let sources: Vec<ProductColumn> = self.columns.iter().map(|name| source(name)).collect();
        let resolved = |part: &Part<usize>| match part {
            Part::Literal(text) => Part::Literal(text.clone()),
            Part::Column(column) => Part::Column(sources[*column]),
        };
        ProductTexts(self.parts.iter().map(resolved).collect())
    }
}

/// Where a product keeps a column's value.
#[derive(Clone, Copy, Debug)]
enum ProductColumn {
    Title,
    Id,
    /// The place in [`Product::other`]; `None` where no product has the column.
    Other(Option<u32>),
}

/// Makes the texts of products by a template: see [`TextTemplate::of_products`].
#[derive(Debug)]
pub struct ProductTexts(Vec<Part<ProductColumn>>);

impl ProductTexts {
    /// The text that `product` is embedded by.
    pub fn text(&self, product: &Product) -> String {
        joined(&self.0, |column| match column {
            ProductColumn::Title => Some(product.product_title.clone()),
            ProductColumn::Id => product.id.clone(),
            ProductColumn::Other(place) => {
                let value = product.other.iter().find(|(column, _)| Some(*column) == *place)?;
                Some(plain_text(&value.1))
            }
        })
    }
}

fn joined<C>(parts: &[Part<C>], value: impl Fn(&C) -> Option<String>) -> String {
    let mut text = String::new();
    for part in parts {
        match part {
            Part::Literal(literal) => text.push_str(literal),
            Part::Column(column) => text.push_str(&value(column).unwrap_or_default()),
        }
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A value as it stands in a text: of a list its items, of an object its JSON.
fn plain_text(value: &Value) -> String {
    match value {
        Value::Text(text) | Value::Number(text) => text.clone(),
        Value::Bool(value) => value.to_string(),
        Value::Json(json) => match serde_json::from_str::<Vec<&RawValue>>(json) {
            Ok(items) => {
                // Numbers keep the digits they are written with.
                let item = |item: &&RawValue| match item.get() {
                    "null" => String::new(),
                    json => serde_json::from_str(json).unwrap_or_else(|_| json.to_owned()),
                };
                items.iter().map(item).collect::<Vec<_>>().join(" ")
            }
            Err(_) => json.clone(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(template: &str) -> TextTemplate {
        template.parse().unwrap()
    }

    #[test]
    fn missing_values_leave_no_gap() {
        let template = parsed("{product_title}, by {brand} ({ size }) {{x}} {brand}");
        assert_eq!(template.columns(), ["product_title", "brand", "size"]);
        let text = |text: &str| Some(Value::Text(text.to_owned()));
        let all = [text("Red  kettle\n"), text("Acme"), Some(Value::Number("1.70".into()))];
        assert_eq!(template.text(&all), "Red kettle , by Acme (1.70) {x} Acme");
        assert_eq!(parsed("{a} {b} {c}").text(&[text("Red"), None, text("kettle")]), "Red kettle");
        let list = r#"["r\u00e9d", 1.70, null, {"a":1}, 12345678901234567890123]"#;
        let text = parsed("{a}").text(&[Some(Value::Json(list.into()))]);
        assert_eq!(text, r#"réd 1.70 {"a":1} 12345678901234567890123"#);
    }

    #[test]
    fn a_bad_template_says_where() {
        let message = |text: &str| text.parse::<TextTemplate>().unwrap_err().to_string();
        assert_eq!(message("{a} {b"), "`{a} {b`: the `{` at character 5 has no other half");
        assert_eq!(message("é}"), "`é}`: the `}` at character 2 has no other half");
        assert_eq!(message("{a{b}}"), "`{a{b}}`: the `{` at character 1 has no other half");
        assert_eq!(message("x { }"), "`x { }`: the braces at character 3 name no column");
        assert_eq!(message("{{a}}"), "`{{a}}` names no column");
        assert_eq!(message(""), "`` names no column");
    }

    #[test]
    fn a_products_columns_are_found_under_our_name_and_under_the_files() {
        let columns = Columns::new(["product_title=name".parse().unwrap()]).unwrap();
        let product = Product {
            id: Some("7".into()),
            product_title: "Kettle".into(),
            other: vec![(1, Value::Text("Acme".into()))],
            line: 1,
            file_idx: 0,
        };
        let others = ["colour".to_owned(), "brand".to_owned()];
        let text = |template: &str| parsed(template).of_products(&columns, &others).text(&product);
        assert_eq!(text("{product_title} {brand} {colour}"), "Kettle Acme");
        assert_eq!(text("{name} {id}"), "Kettle 7");
    }
}
