//! Options from a TOML file (`--config FILE`), under the names they have on the command line.
//!
//! ```toml
//! train = ["a.csv", "b.csv"]      # --train a.csv b.csv
//! learning-rate = 1e-4            # --learning-rate 0.0001
//! no-shuffle = true               # --no-shuffle
//! column = { product_title = "name" }   # --column product_title=name
//! ```
//!
//! The file is turned into arguments that stand before the user's own, so that clap checks both
//! alike; a key that the command line gives as well is left out: the command line wins.

use crate::report::UsageError;
use clap::{Arg, Command};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use toml::Value;

const LIMIT_BYTES: u64 = 1 << 20;

/// `arguments` with those of the file that their `--config` names, if any, after the subcommand.
///
/// `root` must have been built, so that its global options are known to its subcommands.
pub fn expand(root: &Command, arguments: Vec<OsString>) -> anyhow::Result<Vec<OsString>> {
    let Some(path) = config_path(&arguments) else { return Ok(arguments) };
    let subcommand = arguments.iter().enumerate().skip(1).find_map(|(at, argument)| {
        root.find_subcommand(argument).map(|subcommand| (at, subcommand))
    });
    // Without a known subcommand clap has something to say, and nothing to configure.
    let Some((at, subcommand)) = subcommand else { return Ok(arguments) };

    let mut from_file = Vec::new();
    for (key, value) in read_table(&path)? {
        let name = key.replace('_', "-");
        let option =
            option_called(subcommand, &name).ok_or_else(|| unknown_key(&path, &key, subcommand))?;
        if !is_given(&arguments[at + 1..], option) {
            from_file.extend(to_arguments(&name, &value).map_err(|found| {
                UsageError::new(format!("`{}`: `{key}` cannot be {found}", path.display()))
            })?);
        }
    }
    let mut expanded = arguments;
    expanded.splice(at + 1..at + 1, from_file);
    Ok(expanded)
}

/// The value of `--config FILE` or `--config=FILE`.
fn config_path(arguments: &[OsString]) -> Option<PathBuf> {
    let options = arguments.iter().take_while(|argument| *argument != "--");
    let mut options = options.skip(1);
    while let Some(argument) = options.next() {
        if argument == "--config" {
            return options.next().map(PathBuf::from);
        }
        if let Some(path) = argument.to_str().and_then(|text| text.strip_prefix("--config=")) {
            return Some(PathBuf::from(path));
        }
    }
    None
}

fn read_table(path: &Path) -> anyhow::Result<toml::Table> {
    let bytes = loriot_files::read_limited(path, LIMIT_BYTES)?;
    let text = String::from_utf8(bytes)
        .map_err(|_| UsageError::new(format!("`{}` is not UTF-8 text", path.display())))?;
    text.parse().map_err(|error: toml::de::Error| {
        let line = error.span().map_or(1, |span| text[..span.start].lines().count().max(1));
        let message = error.message().replace('\n', ", ");
        UsageError::new(format!("`{}` line {line}: {message}", path.display())).into()
    })
}

fn option_called<'c>(subcommand: &'c Command, name: &str) -> Option<&'c Arg> {
    subcommand.get_arguments().find(|option| option.get_long() == Some(name) && name != "config")
}

fn unknown_key(path: &Path, key: &str, subcommand: &Command) -> UsageError {
    let known: Vec<_> = subcommand
        .get_arguments()
        .filter_map(Arg::get_long)
        .filter(|name| !["config", "help", "version"].contains(name))
        .collect();
    UsageError::new(format!(
        "`{}`: `{}` has no option `{key}`",
        path.display(),
        subcommand.get_name()
    ))
    .with_hint(format!("it has: {}", known.join(", ")))
}

/// Whether the user's own arguments hold `option`, in its long or its short form.
fn is_given(arguments: &[OsString], option: &Arg) -> bool {
    let long = option.get_long().map(|name| format!("--{name}"));
    let short = option.get_short().map(|letter| format!("-{letter}"));
    let is_option = |argument: &&OsString| {
        let text = argument.to_string_lossy();
        let name = text.split('=').next();
        name == long.as_deref() || short.as_deref().is_some_and(|short| text.starts_with(short))
    };
    arguments.iter().take_while(|argument| *argument != OsStr::new("--")).any(|a| is_option(&a))
}

/// `--name=value` for each value; on failure, what was found instead of one.
fn to_arguments(name: &str, value: &Value) -> Result<Vec<OsString>, &'static str> {
    let argument = |text: &str| OsString::from(format!("--{name}={text}"));
    match value {
        Value::Boolean(true) => Ok(vec![format!("--{name}").into()]),
        Value::Boolean(false) => Ok(Vec::new()),
        Value::Array(values) => {
            let mut arguments = Vec::new();
            for value in values {
                arguments.push(argument(&scalar(value)?));
            }
            Ok(arguments)
        }
        Value::Table(pairs) => pairs
            .iter()
            .map(|(key, value)| Ok(argument(&format!("{key}={}", scalar(value)?))))
            .collect(),
        value => Ok(vec![argument(&scalar(value)?)]),
    }
}

fn scalar(value: &Value) -> Result<String, &'static str> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Float(number) => Ok(number.to_string()),
        Value::Boolean(_) => Err("a truth value in a list"),
        Value::Datetime(_) => Err("a date"),
        Value::Array(_) => Err("a list in a list"),
        Value::Table(_) => Err("a table in a table"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ArgAction;

    fn root() -> Command {
        let train = Command::new("train")
            .arg(Arg::new("train").long("train").num_args(1..))
            .arg(Arg::new("rank").long("rank").short('r'))
            .arg(Arg::new("column").long("column").action(ArgAction::Append))
            .arg(Arg::new("shuffle").long("no-shuffle").action(ArgAction::SetTrue));
        let config = Arg::new("config").long("config").global(true);
        let mut root = Command::new("loriot").subcommand(train).arg(config);
        root.build();
        root
    }

    fn expanded(toml: &str, arguments: &str) -> anyhow::Result<String> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("options.toml");
        std::fs::write(&path, toml)?;
        let arguments = arguments.replace("FILE", path.to_str().unwrap());
        let arguments = arguments.split(' ').map(OsString::from).collect();
        let expanded = expand(&root(), arguments).map_err(|error| {
            anyhow::anyhow!(error.to_string().replace(path.to_str().unwrap(), "FILE"))
        })?;
        let text: Vec<_> = expanded.iter().map(|text| text.to_str().unwrap()).collect();
        Ok(text.join(" ").replace(path.to_str().unwrap(), "FILE"))
    }

    #[test]
    fn options_of_the_file_stand_before_those_of_the_command_line() {
        let toml = "train = [\"a\", \"b\"]\nno_shuffle = true\ncolumn = { query = \"q\" }\n";
        let got = expanded(toml, "loriot train --config FILE --rank 4").unwrap();
        let want =
            "loriot train --column=query=q --no-shuffle --train=a --train=b --config FILE --rank 4";
        assert_eq!(got, want);
    }

    #[test]
    fn the_command_line_wins() {
        for given in ["--rank 4", "--rank=4", "-r 4", "-r4"] {
            let arguments = format!("loriot train {given} --config=FILE");
            assert_eq!(expanded("rank = 8", &arguments).unwrap(), arguments);
        }
    }

    #[test]
    fn an_unknown_key_and_a_broken_file_are_named() {
        let error = |toml| expanded(toml, "loriot train --config FILE").unwrap_err().to_string();
        assert_eq!(error("rnak = 8"), "`FILE`: `train` has no option `rnak`");
        assert_eq!(error("rank = 2020-01-01"), "`FILE`: `rank` cannot be a date");
        assert!(error("a = 1\nrank = = 8").starts_with("`FILE` line 2: "));
    }

    #[test]
    fn without_a_file_nothing_changes() {
        let arguments: Vec<OsString> = vec!["loriot".into(), "train".into()];
        assert_eq!(expand(&root(), arguments.clone()).unwrap(), arguments);
    }
}
