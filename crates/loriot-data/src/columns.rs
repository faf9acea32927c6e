//! What the user's files call our columns: `--column product_title=NAME`.

use std::str::FromStr;

use loriot_files::Hint;

/// Our names of the columns, in the order in which help and errors list them.
pub const COLUMN_NAMES: [&str; 5] = ["query", "product_title", "relevance_label", "id", "grade"];

/// One `--column OURS=THEIRS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnName {
    /// One of [`COLUMN_NAMES`].
    pub ours: &'static str,
    /// The name in the file's header, verbatim.
    pub theirs: String,
}

/// A `--column` option that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ColumnError {
    /// No `=`, or nothing on one side of it.
    #[error("`{argument}` is not of the form `product_title=NAME`")]
    Form {
        /// The option's value.
        argument: String,
    },
    /// The left side is no column of ours.
    #[error("`{ours}` is not a column that can be named; these are: {}", COLUMN_NAMES.join(", "))]
    Unknown {
        /// The left side.
        ours: String,
    },
    /// The same column named by two options.
    #[error("column `{ours}` is named twice: `{first}` and `{second}`")]
    Repeated {
        /// Our name.
        ours: &'static str,
        /// The first option's right side.
        first: String,
        /// The second option's right side.
        second: String,
    },
}

impl Hint for ColumnError {
    fn hint(&self) -> Option<String> {
        match self {
            ColumnError::Form { .. } | ColumnError::Unknown { .. } => {
                Some("our name stands left, the file's right: `--column product_title=name`".into())
            }
            ColumnError::Repeated { .. } => Some("keep one of the two".into()),
        }
    }
}

impl FromStr for ColumnName {
    type Err = ColumnError;

    fn from_str(argument: &str) -> Result<ColumnName, ColumnError> {
        let (ours, theirs) = argument
            .split_once('=')
            .map(|(ours, theirs)| (ours.trim(), theirs.trim()))
            .filter(|(ours, theirs)| !ours.is_empty() && !theirs.is_empty())
            .ok_or_else(|| ColumnError::Form { argument: argument.to_owned() })?;
        let ours = COLUMN_NAMES
            .into_iter()
            .find(|name| *name == ours)
            .ok_or_else(|| ColumnError::Unknown { ours: ours.to_owned() })?;
        Ok(ColumnName { ours, theirs: theirs.to_owned() })
    }
}

/// The file's names of our columns. By default each has the same name in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Columns {
    named: Vec<ColumnName>,
}

impl Columns {
    /// All `--column` options of a command.
    pub fn new(names: impl IntoIterator<Item = ColumnName>) -> Result<Columns, ColumnError> {
        let mut named: Vec<ColumnName> = Vec::new();
        for name in names {
            if let Some(first) = named.iter().find(|other| other.ours == name.ours) {
                return Err(ColumnError::Repeated {
                    ours: name.ours,
                    first: first.theirs.clone(),
                    second: name.theirs,
                });
            }
            named.push(name);
        }
        Ok(Columns { named })
    }

    /// What the file calls our column `ours`: `ours` itself where no option says otherwise.
    pub fn in_file<'a>(&'a self, ours: &'a str) -> &'a str {
        self.named.iter().find(|name| name.ours == ours).map_or(ours, |name| &name.theirs)
    }

    /// Whether an option named this column: then even an optional one must be in the file.
    pub fn is_named(&self, ours: &str) -> bool {
        self.named.iter().any(|name| name.ours == ours)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_column_is_looked_up_under_the_files_name() {
        let columns = Columns::new(["product_title=Name=1".parse().unwrap()]).unwrap();
        assert_eq!(columns.in_file("product_title"), "Name=1");
        assert_eq!(columns.in_file("query"), "query");
        assert!(columns.is_named("product_title") && !columns.is_named("query"));
    }

    #[test]
    fn a_bad_option_says_what_is_wrong() {
        let message = |argument: &str| argument.parse::<ColumnName>().unwrap_err().to_string();
        assert_eq!(message("title"), "`title` is not of the form `product_title=NAME`");
        assert_eq!(message("query="), "`query=` is not of the form `product_title=NAME`");
        assert_eq!(
            message("title=name"),
            "`title` is not a column that can be named; these are: query, product_title, \
             relevance_label, id, grade"
        );
        let twice = ["id=sku", "id=asin"].map(|argument| argument.parse().unwrap());
        assert_eq!(
            Columns::new(twice).unwrap_err().to_string(),
            "column `id` is named twice: `sku` and `asin`"
        );
    }
}
