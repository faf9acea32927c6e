//! Options from a TOML file (`--config FILE`), under the names they have on the command line.
//!
//! ```toml
//! model = "all-MiniLM-L6-v2"            # --model of every command that has it
//! column = { product_title = "name" }   # --column product_title=name
//!
//! [train]                               # of `loriot train` alone
//! train = ["a.csv", "b.csv"]            # --train a.csv b.csv
//! no-shuffle = true                     # --no-shuffle
//!
//! [search]
//! k = 3                                 # -k 3
//! ```
//!
//! A section wins over what stands above the first one, and the command line over both. A key that no command
//! has, or not the one whose section it stands in, is refused whichever command runs: a slip of the hand is
//! found at once, not when its command is used at last.
//!
//! The file is turned into arguments that stand before the user's own, so that clap checks both
//! alike; a key that the command line gives as well is left out: the command line wins. So is `overwrite` or
//! `resume` where the command line gives the other.
//! alike; a key that the command line gives as well, or that cannot stand beside what it gives, is left out: the
//! command line wins.

use crate::report::UsageError;
use clap::{Arg, Command};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use toml::Value;

const LIMIT_BYTES: u64 = 1 << 20;

/// The file that this process takes options from, if any.
pub fn path() -> Option<PathBuf> {
    config_path(&std::env::args_os().collect::<Vec<_>>())
}

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
    for (key, value) in options_for(subcommand, root, &path)? {
        let Some(option) = option_called(subcommand, &key) else { continue };
        if !is_given(&arguments[at + 1..], option)
            && !is_excluded(&arguments[at + 1..], option, subcommand)
        {
            from_file.extend(to_arguments(option, &value).map_err(|found| {
                UsageError::new(format!("`{}`: `{key}` cannot be {found}", path.display()))
            })?);
        }
    }
    let mut expanded = arguments;
    expanded.splice(at + 1..at + 1, from_file);
    Ok(expanded)
}

/// What the file says to `subcommand`, by the option's name; every key of the file is known to a command.
fn options_for(
    subcommand: &Command,
    root: &Command,
    path: &Path,
) -> anyhow::Result<BTreeMap<String, Value>> {
    let (mut common, mut own) = (BTreeMap::new(), BTreeMap::new());
    for (key, value) in read_table(path)? {
        let section = root.find_subcommand(&key);
        match (value, section) {
            (Value::Table(section), Some(command)) => {
                for (key, value) in section {
                    let name = key.replace('_', "-");
                    if option_called(command, &name).is_none() {
                        return Err(unknown_key(path, &key, command).into());
                    }
                    if command.get_name() == subcommand.get_name() {
                        own.insert(name, value);
                    }
                }
            }
            (value, _) => {
                let name = key.replace('_', "-");
                if !root.get_subcommands().any(|command| option_called(command, &name).is_some()) {
                    return Err(unknown_to_all(path, &key, &value, subcommand, root).into());
                }
                common.insert(name, value);
            }
        }
    }
    common.extend(own);
    Ok(common)
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
    if !path.exists() {
        let missing = UsageError::new(format!("there is no file `{}`", path.display()));
        return Err(missing.with_hint("`--config` names a TOML file of options").into());
    }
    let bytes = loriot_files::read_limited(path, LIMIT_BYTES)?;
    let text = String::from_utf8(bytes)
        .map_err(|_| UsageError::new(format!("`{}` is not UTF-8 text", path.display())))?;
    text.parse().map_err(|error: toml::de::Error| {
        let line = error.span().map_or(1, |span| text[..span.start].lines().count().max(1));
        let message = error.message().replace('\n', ", ");
        UsageError::new(format!("`{}` line {line}: {message}", path.display())).into()
    })
}

/// The option's name: that of its long form, or the letter of the short one where it has no other.
fn name_of(option: &Arg) -> Option<String> {
    let short = || option.get_short().map(String::from);
    let name = option.get_long().map(str::to_owned).or_else(short)?;
    (!["config", "help", "version"].contains(&name.as_str())).then_some(name)
}

pub(crate) fn option_called<'c>(command: &'c Command, name: &str) -> Option<&'c Arg> {
    command.get_arguments().find(|option| name_of(option).as_deref() == Some(name))
}

fn names_of_options(command: &Command) -> String {
    command.get_arguments().filter_map(name_of).collect::<Vec<_>>().join(", ")
}

fn unknown_key(path: &Path, key: &str, command: &Command) -> UsageError {
    let name = command.get_name();
    UsageError::new(format!("`{}`: `{name}` has no option `{key}`", path.display()))
        .with_hint(format!("it has: {}", names_of_options(command)))
}

fn unknown_to_all(
    path: &Path,
    key: &str,
    value: &Value,
    subcommand: &Command,
    root: &Command,
) -> UsageError {
    let path = path.display();
    let commands = root.get_subcommands().map(Command::get_name).filter(|name| *name != "help");
    if value.is_table() {
        return UsageError::new(format!("`{path}`: no command is called `{key}`"))
            .with_hint(format!("sections are: {}", commands.collect::<Vec<_>>().join(", ")));
    }
    let (name, has) = (subcommand.get_name(), names_of_options(subcommand));
    UsageError::new(format!("`{path}`: no command has an option `{key}`"))
        .with_hint(format!("`{name}` has: {has}"))
}

/// Whether the user's own arguments hold `option`, in its long or its short form.
pub(crate) fn is_given(arguments: &[OsString], option: &Arg) -> bool {
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
pub(crate) fn to_arguments(option: &Arg, value: &Value) -> Result<Vec<OsString>, &'static str> {
    let flag = match (option.get_long(), option.get_short()) {
        (Some(long), _) => format!("--{long}"),
        (None, short) => format!("-{}", short.expect("an option has a name")),
    };
    let argument = |text: &str| OsString::from(format!("{flag}={text}"));
    match value {
        Value::Boolean(true) => Ok(vec![flag.into()]),
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

/// Whether `option` cannot stand beside an option that the user's own arguments hold, as `--overwrite` beside `--resume`.
pub(crate) fn is_excluded(arguments: &[OsString], option: &Arg, command: &Command) -> bool {
    let excludes = |a: &Arg, b: &Arg| {
        command.get_arg_conflicts_with(a).iter().any(|other| other.get_id() == b.get_id())
    };
    command.get_arguments().any(|other| {
        is_given(arguments, other) && (excludes(option, other) || excludes(other, option))
    })
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
            .arg(Arg::new("shuffle").long("no-shuffle").action(ArgAction::SetTrue))
            .arg(Arg::new("resume").long("resume").num_args(0..=1))
            .arg(
                Arg::new("overwrite")
                    .long("overwrite")
                    .action(ArgAction::SetTrue)
                    .conflicts_with("resume"),
            );
        let search = Command::new("search")
            .arg(Arg::new("k").short('k'))
            .arg(Arg::new("exact").long("exact").action(ArgAction::SetTrue))
            .arg(Arg::new("rank").long("rank"));
        let config = Arg::new("config").long("config").global(true);
        let mut root = Command::new("loriot").subcommands([train, search]).arg(config);
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
        for (key, given) in [("overwrite", "--resume"), ("resume", "--overwrite")] {
            let arguments = format!("loriot train --config=FILE {given}");
            assert_eq!(expanded(&format!("{key} = true"), &arguments).unwrap(), arguments);
        }
        let both = expanded("overwrite = true\nresume = true", "loriot train --config=FILE");
        assert_eq!(both.unwrap(), "loriot train --overwrite --resume --config=FILE");
    }

    #[test]
    fn what_cannot_stand_beside_the_command_line_goes() {
        let given = "loriot train --config FILE --resume";
        assert_eq!(expanded("[train]\noverwrite = true", given).unwrap(), given);
        let given = "loriot train --config FILE --overwrite";
        assert_eq!(expanded("resume = true", given).unwrap(), given);
    }

    #[test]
    fn an_unknown_key_and_a_broken_file_are_named() {
        let error = |toml| expanded(toml, "loriot train --config FILE").unwrap_err().to_string();
        assert_eq!(error("rnak = 8"), "`FILE`: no command has an option `rnak`");
        assert_eq!(error("help = true"), "`FILE`: no command has an option `help`");
        assert_eq!(error("rank = 2020-01-01"), "`FILE`: `rank` cannot be a date");
        assert!(error("a = 1\nrank = = 8").starts_with("`FILE` line 2: "));
    }

    const ALL: &str = "rank = 8\nexact = true\ncolumn = { query = \"q\" }\n[train]\nrank = 4\n\
                       train = \"a\"\n[search]\nk = 3\nexact = false\n";

    #[test]
    fn one_file_serves_all_commands() {
        let got = expanded(ALL, "loriot train --config FILE").unwrap();
        assert_eq!(got, "loriot train --column=query=q --rank=4 --train=a --config FILE");
        let got = expanded(ALL, "loriot search --config FILE x").unwrap();
        assert_eq!(got, "loriot search -k=3 --rank=8 --config FILE x");
        let got = expanded(ALL, "loriot search --config FILE x -k 1 --rank 2").unwrap();
        assert_eq!(got, "loriot search --config FILE x -k 1 --rank 2");
    }

    #[test]
    fn a_section_is_checked_whichever_command_runs() {
        for command in ["train", "search"] {
            let error = |toml| {
                let arguments = format!("loriot {command} --config FILE");
                expanded(toml, &arguments).unwrap_err().to_string()
            };
            assert_eq!(error("[search]\ntrain = 1"), "`FILE`: `search` has no option `train`");
            assert_eq!(error("[serach]\nk = 1"), "`FILE`: no command is called `serach`");
            assert_eq!(error("rank = 1\n[train]\nk = 1"), "`FILE`: `train` has no option `k`");
        }
    }

    #[test]
    fn a_missing_file_is_called_missing() {
        let error =
            expand(&root(), ["loriot", "train", "--config", "no.toml"].map(Into::into).to_vec());
        assert_eq!(error.unwrap_err().to_string(), "there is no file `no.toml`");
    }

    #[test]
    fn without_a_file_nothing_changes() {
        let arguments: Vec<OsString> = vec!["loriot".into(), "train".into()];
        assert_eq!(expand(&root(), arguments.clone()).unwrap(), arguments);
    }
}
