//! Text from files and from the Hub, before it goes to a terminal.
//!
//! A title may hold an escape sequence, the end of a line, or a mark that turns the direction of all that follows
//! it (`U+202E` shows `gpj.exe` as `exe.jpg`). None of them reaches a terminal as it is.

use std::borrow::Cow;
use std::fmt::Write;

/// Whether `c` acts on a terminal instead of being shown: the controls (C0, DEL, C1), the ends of a line or
/// paragraph, and the marks, embeddings, overrides and isolates of the bidirectional algorithm (Unicode UAX #9).
///
/// Joiners (`U+200C`, `U+200D`) are none of these: Persian and many emoji are written with them.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `text` as a part of one line: a space for each character that acts on a terminal.
pub fn one_line(text: &str) -> Cow<'_, str> {
    without(text, |_| false)
}

/// `text` as lines: as [`one_line`], but `\n` ends a line.
pub fn lines(text: &str) -> Cow<'_, str> {
    without(text, |c| c == '\n')
}

fn without(text: &str, keeps: impl Fn(char) -> bool) -> Cow<'_, str> {
    let goes = |c: char| acts(c) && !keeps(c);
    if !text.contains(goes) {
        return Cow::Borrowed(text);
    }
    text.chars().map(|c| if goes(c) { ' ' } else { c }).collect()
}

/// JSON that says the same, with `\u…` for each character that acts on a terminal.
///
/// In a string JSON has no control below `U+0020`: one that stands in the text is a blank between two tokens. All
/// others stand in strings, and are below `U+10000`, so that one escape each is enough.
pub fn json(text: String) -> String {
    if !text.contains(acts) {
        return text;
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if c < ' ' {
            escaped.push(' ');
        } else if acts(c) {
            let written = write!(escaped, "\\u{:04x}", u32::from(c));
            written.expect("a string takes what is written to it");
        } else {
            escaped.push(c);
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: [char; 14] = [
        '\0', '\t', '\u{1b}', '\u{7f}', '\u{9b}', '\u{61c}', '\u{200e}', '\u{200f}', '\u{2028}',
        '\u{2029}', '\u{202a}', '\u{202e}', '\u{2066}', '\u{2069}',
    ];

    #[test]
    fn what_acts_on_a_terminal_becomes_a_space_and_letters_of_every_script_stay() {
        for c in HOSTILE {
            assert_eq!(one_line(&format!("a{c}b")), "a b", "{c:?}");
            assert_eq!(lines(&format!("a\n{c}b")), "a\n b", "{c:?}");
        }
        assert_eq!(one_line("a\nb"), "a b");
        for text in ["naïve 100 % “wool”", "קומקום אדום", "می‌خواهم", "👩‍🔧", "赤いやかん", "it's"]
        {
            assert_eq!(one_line(text), text);
        }
    }

    #[test]
    fn json_says_the_same_in_characters_that_do_nothing() {
        let text: String = HOSTILE.iter().collect::<String>() + "\n\"\\ kettle";
        let written = json(serde_json::to_string(&text).unwrap());
        assert!(!written.contains(acts), "{written}");
        assert_eq!(serde_json::from_str::<String>(&written).unwrap(), text);
        assert_eq!(json("[1,\t2,\r\n\"\u{85}\"]".into()), r#"[1, 2,  "\u0085"]"#);
    }
}
