//! Options that go together under one name: `loriot train --recipe NAME`.
//!
//! A recipe is a set of options as a file of `--config` has them. It stands below that file and the command line, which win.

use crate::config_file::{is_excluded, is_given, option_called, to_arguments};
use clap::Command;
use std::ffi::OsString;

/// The recipes: their names and their options of `loriot train`.
const RECIPES: [(&str, &str); 1] = [("search", include_str!("recipe_search.toml"))];

/// Their names.
pub fn names() -> [&'static str; RECIPES.len()] {
    RECIPES.map(|(name, _)| name)
}

/// The options of the recipe `name`, as TOML; `None` where there is none of that name.
pub fn options(name: &str) -> Option<&'static str> {
    RECIPES.iter().find(|(other, _)| *other == name).map(|&(_, options)| options)
}

/// `arguments` with those of the recipe that `loriot train` is asked for, without the ones that are given already or that
/// contradict a given one.
pub fn expand(root: &Command, arguments: Vec<OsString>) -> Vec<OsString> {
    let at = arguments.iter().position(|argument| argument == "train");
    let (Some(at), Some(train)) = (at, root.find_subcommand("train")) else { return arguments };
    let given = &arguments[at + 1..];
    let Some(table) = recipe(given) else { return arguments };
    let mut added = Vec::new();
    for (key, value) in &table {
        let option = option_called(train, key).expect("a recipe has options of the command");
        if !is_given(given, option) && !is_excluded(given, option, train) {
            added.extend(to_arguments(option, value).expect("a recipe has values of options"));
        }
    }
    let mut expanded = arguments;
    expanded.splice(at + 1..at + 1, added);
    expanded
}

/// The options of the last `--recipe`, if it names one: clap refuses other names.
fn recipe(arguments: &[OsString]) -> Option<toml::Table> {
    let words: Vec<_> = arguments.iter().map(|argument| argument.to_string_lossy()).collect();
    let words = &words[..words.iter().position(|word| word == "--").unwrap_or(words.len())];
    let name = words.iter().enumerate().rev().find_map(|(at, word)| match &**word {
        "--recipe" => words.get(at + 1).map(|name| &**name),
        word => word.strip_prefix("--recipe="),
    })?;
    Some(options(name)?.parse().expect("a recipe is TOML"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(line: &str) -> Vec<String> {
        let mut root = crate::command();
        root.build();
        let arguments = line.split(' ').map(OsString::from).collect();
        let expanded = expand(&root, arguments).into_iter();
        expanded.map(|argument| argument.into_string().unwrap()).collect()
    }

    #[test]
    fn a_recipe_gives_what_the_command_line_does_not() {
        let bare = expanded("loriot train --recipe search --output run");
        assert!(bare.contains(&"--loss=graded-lists".into()), "{bare:?}");
        assert!(bare.contains(&"--rank=16".into()) && bare.contains(&"--by-query".into()));
        let own = expanded("loriot train --recipe=search --rank 4");
        assert!(!own.contains(&"--rank=16".into()), "{own:?}");
        let full = expanded("loriot train --recipe search --full");
        assert!(!full.iter().any(|word| word.starts_with("--rank")), "{full:?}");
        assert!(full.contains(&"--loss=graded-lists".into()));
    }

    #[test]
    fn without_a_recipe_of_that_name_nothing_is_added() {
        for line in ["loriot train --output run", "loriot train --recipe sarch", "loriot eval x"] {
            assert_eq!(expanded(line).join(" "), line);
        }
    }

    #[test]
    fn every_recipe_is_a_command_line_that_clap_takes() {
        for name in names() {
            let line =
                format!("loriot train --recipe {name} --model m --train a --eval b --output c");
            let matches = crate::command().try_get_matches_from(expanded(&line));
            matches.unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }
}
