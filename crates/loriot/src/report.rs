//! Errors as the user reads them: `error:`, `caused by:`, `hint:`, and the exit status.

use crate::interrupt::{self, Interrupted};
use crate::message::message;
use loriot_files::Hint;
use std::error::Error;
use std::fmt;
use std::io;
use std::process::ExitCode;

/// The command line asked for something that does not exist or does not go together.
#[derive(Debug)]
pub struct UsageError {
    message: String,
    hint: Option<String>,
}

impl UsageError {
    /// A wrong command line; `message` is one sentence, lower case, without a full stop.
    pub fn new(message: impl Into<String>) -> UsageError {
        UsageError { message: message.into(), hint: None }
    }

    /// The same with a remedy.
    pub fn with_hint(self, hint: impl Into<String>) -> UsageError {
        UsageError { hint: Some(hint.into()), ..self }
    }
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for UsageError {}

impl Hint for UsageError {
    fn hint(&self) -> Option<String> {
        self.hint.clone()
    }
}

/// Results could not be written to stdout.
#[derive(Debug)]
pub struct StdoutError(pub io::Error);

impl fmt::Display for StdoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cannot write to stdout")
    }
}

impl Error for StdoutError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

/// Prints `error` to stderr, and returns 2 where the command line was wrong, 130 where the work was
/// interrupted and 1 everywhere else.
///
/// A reader of our stdout that went away (`loriot search … | head`) is no error. Another broken pipe, such as a
/// connection that was cut, is one.
pub fn print(error: &anyhow::Error) -> ExitCode {
    let broken_pipe = |cause: &(dyn Error + 'static)| {
        let stdout = cause.downcast_ref::<StdoutError>();
        stdout.is_some_and(|StdoutError(error)| error.kind() == io::ErrorKind::BrokenPipe)
    };
    if error.chain().any(broken_pipe) {
        return ExitCode::SUCCESS;
    }
    message!("{}", render(error).trim_end());
    if error.chain().any(|cause| cause.is::<Interrupted>()) {
        return ExitCode::from(interrupt::STATUS);
    }
    let is_usage = |cause: &(dyn Error + 'static)| {
        cause.is::<UsageError>()
            || cause.is::<loriot_data::ColumnError>()
            || cause.is::<loriot_train::settings::SettingsError>()
    };
    let usage = error.chain().any(is_usage);
    ExitCode::from(if usage { 2 } else { 1 })
}

/// The message, each cause that says something new, and the first hint found.
fn render(error: &anyhow::Error) -> String {
    let mut text = format!("error: {error}\n");
    let mut said = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !said.contains(&cause) {
            text += &format!("caused by: {cause}\n");
            said = cause;
        }
    }
    if let Some(hint) = error.chain().find_map(hint_of) {
        text += &format!("hint: {hint}\n");
    }
    text
}

/// The hint of a cause whose type is known to have one.
fn hint_of(cause: &(dyn Error + 'static)) -> Option<String> {
    macro_rules! first_hint {
        ($($error:ty),* $(,)?) => {
            None$(.or_else(|| cause.downcast_ref::<$error>().and_then(Hint::hint)))*
        };
    }
    first_hint!(
        UsageError,
        Interrupted,
        crate::commands::full_disk::PartialKept,
        loriot_data::ColumnError,
        loriot_data::ReadError,
        loriot_encoder::encoder::OpenError,
        loriot_encoder::error::AdapterError,
        loriot_encoder::error::HubError,
        loriot_encoder::error::ModelError,
        loriot_encoder::error::SaveError,
        loriot_files::OutputError,
        loriot_files::ReadFileError,
        loriot_rank::FitError,
        loriot_rank::ScorerError,
        loriot_search::CatalogueError,
        loriot_search::ManifestError,
        loriot_search::build::BuildError,
        loriot_search::embed::EmbedError,
        loriot_search::vector_output::UnknownFormat,
        loriot_train::TrainError,
        loriot_train::evaluation::EvaluationError,
        loriot_train::folder::RunFolderError,
        loriot_train::settings::SettingsError,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_prints_its_causes_and_its_remedy_once() {
        let cause = UsageError::new("`x` is too large").with_hint("give a smaller `x`");
        let error = anyhow::Error::new(cause).context("cannot train");
        let want = "error: cannot train\ncaused by: `x` is too large\nhint: give a smaller `x`\n";
        assert_eq!(render(&error), want);
    }

    #[test]
    fn only_stdout_may_be_closed() {
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        let status = |error: anyhow::Error| format!("{:?}", print(&error));
        let [success, failure] = [0, 1].map(|code| format!("{:?}", ExitCode::from(code)));
        assert_eq!(status(StdoutError(broken()).into()), success);
        assert_eq!(status(anyhow::Error::new(broken()).context("cannot download")), failure);
        assert_eq!(
            status(StdoutError(io::Error::from(io::ErrorKind::StorageFull)).into()),
            failure
        );
    }

    #[test]
    fn a_message_that_quotes_its_cause_is_not_repeated() {
        let error = anyhow::anyhow!("no space").context("cannot write: no space");
        assert_eq!(render(&error), "error: cannot write: no space\n");
    }
}
