//! The remedy beside an error.

/// Something the user can do about an error, printed after it as `hint: …`.
pub trait Hint {
    /// One sentence, lower case, no full stop; `None` where the message says it all.
    fn hint(&self) -> Option<String>;
}
