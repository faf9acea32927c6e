//! `--columns` of `loriot search`: what is printed of a result beside its score and its title.

use crate::report::UsageError;
use crate::visible::one_line;
use loriot_data::Value;
use loriot_search::Found;

/// What every result has, whatever the catalogue's columns are called.
const OWN: [&str; 3] = ["rank", "id", "score"];
/// Columns that an error lists.
const LISTED: usize = 30;

/// Chosen columns, in the order in which they were asked for.
pub struct Columns(Vec<String>);

impl Columns {
    /// `names`, each of which is one of [`OWN`] or of the catalogue's `others`.
    pub fn new(names: &[String], others: &[String]) -> Result<Columns, UsageError> {
        let is_known = |name: &&String| OWN.contains(&name.as_str()) || others.contains(*name);
        let names = names.iter().map(|name| name.trim().to_owned()).collect::<Vec<_>>();
        match names.iter().find(|name| !is_known(name)) {
            None => Ok(Columns(names)),
            Some(unknown) => Err(UsageError::new(format!("`--columns`: no column `{unknown}`"))
                .with_hint(format!("there is: {}", listed(others)))),
        }
    }

    /// ` rank=1 id=a1 colour='dark red'`: a value that could be taken for more than one is put in quotes, and
    /// one that the product lacks is empty.
    pub fn line(&self, found: &Found) -> String {
        let value = |name: &str| match name {
            "rank" => found.rank.to_string(),
            "id" => quoted(&found.id),
            "score" => found.score.to_string(),
            name => {
                let field = found.fields.iter().find(|field| field.0 == name);
                field.map_or_else(String::new, |(_, value)| text(value))
            }
        };
        self.0.iter().map(|name| format!(" {}={}", one_line(name), value(name))).collect()
    }
}

fn listed(others: &[String]) -> String {
    let names = OWN.iter().copied().chain(others.iter().map(String::as_str));
    let text = names.clone().take(LISTED).collect::<Vec<_>>().join(", ");
    match names.count().saturating_sub(LISTED) {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Text(text) => quoted(text),
        Value::Json(json) => quoted(json),
        Value::Number(digits) => digits.clone(),
        Value::Bool(value) => value.to_string(),
    }
}

fn quoted(text: &str) -> String {
    let text = one_line(text);
    let is_plain = !text.contains(|c: char| c.is_whitespace() || c == '\'' || c == '=');
    if is_plain { text.into_owned() } else { format!("'{text}'") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use loriot_files::Hint;

    fn found() -> Found {
        let field = |name: &str, value| (name.to_owned(), value);
        Found {
            rank: 1,
            id: "a1".into(),
            score: 0.5,
            product_title: "Red kettle".into(),
            fields: vec![
                field("price", Value::Number("9.90".into())),
                field("colour", Value::Text("dark\u{202e}\nred".into())),
                field("tags", Value::Json("[1]".into())),
                field("new", Value::Bool(true)),
            ],
        }
    }

    fn names(text: &str) -> Vec<String> {
        text.split(',').map(str::to_owned).collect()
    }

    #[test]
    fn the_chosen_columns_stand_in_the_order_asked_for() {
        let others = names("price,colour,tags,new,size");
        let columns = names("price,rank,id,score,colour,size,tags,new");
        let line = Columns::new(&columns, &others).unwrap().line(&found());
        let want = " price=9.90 rank=1 id=a1 score=0.5 colour='dark  red' size= tags=[1] new=true";
        assert_eq!(line, want);
        assert_eq!(Columns::new(&[], &others).unwrap().line(&found()), "");
    }

    #[test]
    fn an_unknown_column_is_refused_with_what_there_is() {
        let refusal = |others: &[String]| match Columns::new(&names("rank,prise"), others) {
            Ok(_) => panic!("an unknown column passed"),
            Err(error) => (error.to_string(), error.hint().unwrap()),
        };
        let (error, hint) = refusal(&names("price,colour"));
        assert_eq!(error, "`--columns`: no column `prise`");
        assert_eq!(hint, "there is: rank, id, score, price, colour");
        let many: Vec<String> = (0..50_000).map(|at| at.to_string()).collect();
        assert!(refusal(&many).1.ends_with("25, 26 and 49973 more"));
    }
}
