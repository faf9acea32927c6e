//! A choice of modules, as a user or `adapter_config.json` gives it. What it means in a model is `rules`' matter.

use std::str::FromStr;

/// What PEFT calls every linear layer of a model.
pub(super) const ALL_LINEAR: &str = "all-linear";

/// A set of modules, as `target_modules` and `exclude_modules` give it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Targets {
    /// Every linear layer of the encoder.
    AllLinear,
    /// Those whose whole name a regular expression matches.
    Pattern(String),
    /// Those with such a name, or with such an end of a name after a dot.
    Names(Vec<String>),
}

/// A list of targets has an empty name, as in `query,,key`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("has an empty name")]
pub struct EmptyName;

impl Targets {
    /// What a text alone means in PEFT's files: everything, or a regular expression.
    pub(super) fn from_text(text: &str) -> Targets {
        if text.eq_ignore_ascii_case(ALL_LINEAR) {
            Targets::AllLinear
        } else {
            Targets::Pattern(text.to_owned())
        }
    }
}

impl FromStr for Targets {
    type Err = EmptyName;

    /// What a user means by `all-linear`, `query,key,value`, or a regular expression.
    fn from_str(argument: &str) -> Result<Targets, EmptyName> {
        let is_pattern = argument.contains(|c| "*+?()[]{}^$|\\".contains(c));
        if is_pattern || argument.eq_ignore_ascii_case(ALL_LINEAR) {
            return Ok(Targets::from_text(argument));
        }
        let names: Vec<String> = argument.split(',').map(|name| name.trim().to_owned()).collect();
        if names.iter().any(String::is_empty) { Err(EmptyName) } else { Ok(Targets::Names(names)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_names_an_expression_or_everything() {
        let names = |list: &[&str]| Targets::Names(list.iter().map(|n| n.to_string()).collect());
        assert_eq!("query, key".parse(), Ok(names(&["query", "key"])));
        assert_eq!("attention.output.dense".parse(), Ok(names(&["attention.output.dense"])));
        assert_eq!("All-Linear".parse(), Ok(Targets::AllLinear));
        assert_eq!(".*query".parse(), Ok(Targets::Pattern(".*query".into())));
        assert_eq!("query,".parse::<Targets>(), Err(EmptyName));
        assert_eq!("".parse::<Targets>(), Err(EmptyName));
    }
}
