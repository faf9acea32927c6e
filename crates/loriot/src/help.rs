//! The help, laid out for the width that there is.
//!
//! The texts after the options are written in lines of the source. A terminal that is narrower would break each of
//! them again, so that every other line held two words: their paragraphs are joined, and clap breaks them once.
//! Indented lines, the examples, stay as they are and fit 80 columns.

use clap::{Command, CommandFactory};

/// Below this a width is a mistake: `COLUMNS` is 0 in some containers and editors.
const NARROWEST: usize = 40;
/// What a mistake is taken for.
const USUAL: usize = 80;

/// The command line of `Cli`, with its help laid out.
pub fn command<Cli: CommandFactory>() -> Command {
    let columns = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let is_mistake = columns.is_some_and(|columns: usize| columns < NARROWEST);
    laid_out(Cli::command(), is_mistake.then_some(USUAL))
}

fn laid_out(command: Command, width: Option<usize>) -> Command {
    let text = command.get_after_help().map(|text| paragraphs(&text.to_string()));
    let command = match text {
        Some(text) => command.after_help(text),
        None => command,
    };
    let command = match width {
        Some(width) => command.term_width(width),
        None => command,
    };
    command.mut_subcommands(|subcommand| laid_out(subcommand, width))
}

/// `text` with the lines of each paragraph joined by spaces. A line that begins with a blank, or that comes before
/// one, ends where it ended.
fn paragraphs(text: &str) -> String {
    let mut joined = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        joined += line;
        let is_prose = |line: &str| !line.is_empty() && !line.starts_with(' ');
        match lines.peek() {
            Some(next) if is_prose(line) && is_prose(next) => joined.push(' '),
            Some(_) => joined.push('\n'),
            None => {}
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_fit_80_columns() {
        let root = crate::Cli::command();
        for command in root.get_subcommands().chain([&root]) {
            let text = command.get_after_help().map(|text| text.to_string()).unwrap_or_default();
            assert!(text.contains("\n  loriot "), "{}: {text}", command.get_name());
            let mut examples = text.lines().filter(|line| line.starts_with(' '));
            let wide = examples.find(|line| line.chars().count() > 80);
            assert_eq!(wide, None, "{}", command.get_name());
        }
    }

    /// The help of the whole and of each command, at this width.
    fn helps(width: usize) -> Vec<String> {
        let mut root = laid_out(crate::Cli::command(), Some(width));
        root.build();
        let mut helps = vec![root.render_long_help().to_string()];
        for command in root.get_subcommands_mut() {
            helps.push(command.render_help().to_string());
        }
        helps
    }

    #[test]
    fn a_paragraph_is_one_line_and_an_example_keeps_its_own() {
        let text = "Example:\n  loriot a \\\n    b\n\nOne, two,\nthree.\n\nFour.";
        assert_eq!(paragraphs(text), "Example:\n  loriot a \\\n    b\n\nOne, two, three.\n\nFour.");
    }

    #[test]
    fn the_help_fits_80_columns_and_no_line_of_it_is_broken_twice() {
        let helps = helps(80);
        assert!(helps.len() > 6);
        for help in helps {
            let after = help.split("Example").nth(1).unwrap_or(&help);
            let mut lines = help.lines().filter(|line| !line.starts_with("Usage: "));
            assert!(lines.all(|line| line.chars().count() <= 80), "{help}");
            for (line, next) in after.lines().zip(after.lines().skip(1)) {
                // The next word would have had room: a line of the source was broken again.
                let word = next.split(' ').next().unwrap_or("");
                let is_prose = !line.is_empty() && !line.starts_with(' ') && !word.is_empty();
                let has_room = line.chars().count() + 1 + word.chars().count() <= 80;
                assert!(!is_prose || !has_room || line.ends_with(':'), "`{line}` `{word}`: {help}");
            }
        }
    }
}
