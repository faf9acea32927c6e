//! What a tokenizer's files mean, apart from how they are written: its identity, and how long it may make a text.
//!
//! The identity is SHA-256 over JSON with sorted keys, no white space and no `null` entries, of these parts:
//!
//! ```text
//! model            type, settings and vocabulary
//! added_tokens     sorted by id, with how each is found in a text
//! normalizer       as it is after `tokenizer_config.json` has been heard
//! pre_tokenizer
//! before, after    the ids around a text: all that is used of the post-processor
//! keeps_end        whether an over-long text loses its beginning
//! lowercases_first `do_lower_case` of `sentence_bert_config.json`
//! ```
//!
//! BERT's own model and normaliser are written out from what they do; others stand as in `tokenizer.json`. So neither a
//! reformatted file nor another version of the crate that reads it changes the identity, and a `vocab.txt` has that of
//! the `tokenizer.json` it stands for.

use loriot_files::Sha256Hasher;
use serde_json::{Value, json};
use std::fmt::Write;
use tokenizers::Tokenizer as Pipeline;
use tokenizers::models::ModelWrapper;
use tokenizers::normalizers::NormalizerWrapper;

/// The parts of `tokenizer.json` that are hashed as they stand there; empty for a `vocab.txt`.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(crate) struct Written {
    normalizer: Value,
    pre_tokenizer: Value,
    model: Value,
}

impl Written {
    pub(crate) fn read(bytes: &[u8]) -> Result<Written, String> {
        serde_json::from_slice(bytes).map_err(|error| error.to_string())
    }

    /// What BERT's pipeline from a `vocab.txt` splits words by.
    pub(crate) fn bert() -> Written {
        let pre_tokenizer = json!({ "type": "BertPreTokenizer" });
        Written { pre_tokenizer, ..Written::default() }
    }
}

/// What the files say beside the pipeline.
pub(crate) struct Around<'a> {
    pub(crate) before: &'a [u32],
    pub(crate) after: &'a [u32],
    pub(crate) keeps_end: bool,
    pub(crate) lowercases_first: bool,
}

/// The identity of a tokenizer. `normalizer` is the pipeline's, without the lower case that comes first.
pub(crate) fn sha256(
    pipeline: &Pipeline,
    normalizer: Option<&NormalizerWrapper>,
    written: Written,
    around: &Around<'_>,
) -> String {
    let normalizer = match normalizer {
        Some(NormalizerWrapper::BertNormalizer(bert)) => json!({
            "type": "BertNormalizer",
            "clean_text": bert.clean_text,
            "handle_chinese_chars": bert.handle_chinese_chars,
            // As everywhere, accents go with the case where nothing is said.
            "strip_accents": bert.strip_accents.unwrap_or(bert.lowercase),
            "lowercase": bert.lowercase,
        }),
        _ => written.normalizer,
    };
    let model = match pipeline.get_model() {
        ModelWrapper::WordPiece(model) => json!({
            "type": "WordPiece",
            "unk_token": model.unk_token,
            "continuing_subword_prefix": model.continuing_subword_prefix,
            "max_input_chars_per_word": model.max_input_chars_per_word,
            "vocab": pipeline.get_vocab(false),
        }),
        _ => written.model,
    };
    let mut added: Vec<_> = pipeline.get_added_tokens_decoder().into_iter().collect();
    added.sort_by_key(|(id, _)| *id);
    let added = added.into_iter().map(|(id, token)| {
        json!([
            id,
            token.content,
            token.single_word,
            token.lstrip,
            token.rstrip,
            token.normalized,
            token.special
        ])
    });
    let parts = json!({
        "model": model,
        "added_tokens": added.collect::<Value>(),
        "normalizer": normalizer,
        "pre_tokenizer": written.pre_tokenizer,
        "before": around.before,
        "after": around.after,
        "keeps_end": around.keeps_end,
        "lowercases_first": around.lowercases_first,
    });
    let mut text = String::new();
    write_canonical(&parts, &mut text);
    let mut hasher = Sha256Hasher::new();
    hasher.field(b"loriot tokenizer 2");
    hasher.field(text.as_bytes());
    hasher.finish()
}

/// JSON with sorted keys and without white space or `null` entries; `3` and `3.0` are one number.
fn write_canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().filter(|(_, value)| !value.is_null()).collect();
            entries.sort_by_key(|(key, _)| key.as_str());
            out.push('{');
            for (key, value) in entries {
                let _ = write!(out, "{}:", Value::from(key.as_str()));
                write_canonical(value, out);
                out.push(',');
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for item in items {
                write_canonical(item, out);
                out.push(',');
            }
            out.push(']');
        }
        Value::Number(number) => _ = write!(out, "{:?}", number.as_f64().unwrap_or(f64::NAN)),
        other => _ = write!(out, "{other}"),
    }
}

/// A text may become this many times as long on its way to word pieces, in bytes. SentencePiece's usual steps
/// (a mark before the text and in place of each space, twice) come to 48.
const MAX_GROWTH: f64 = 100.0;
/// Steps that a normaliser and a pre-tokeniser may have together; real ones have five.
const MAX_STEPS: usize = 64;

/// Refuses steps before the model that could make a short text fill the memory: `tokenizers` puts no limit on them.
pub(crate) fn check_growth(pipeline: &Pipeline) -> Result<(), String> {
    let say = |error: serde_json::Error| error.to_string();
    let steps = [
        serde_json::to_value(pipeline.get_normalizer()).map_err(say)?,
        serde_json::to_value(pipeline.get_pre_tokenizer()).map_err(say)?,
    ];
    let mut waiting: Vec<&Value> = steps.iter().collect();
    let (mut growth, mut n_steps) = (1.0, 0);
    while let Some(step) = waiting.pop() {
        let inner = ["normalizers", "pretokenizers"].map(|key| step[key].as_array());
        let inner = inner.into_iter().flatten().flatten();
        n_steps += 1;
        waiting.extend(inner);
        if step["type"] == "Precompiled" {
            return Err("its normaliser `Precompiled` is not supported, whose tables are used \
                        unchecked"
                .into());
        }
        growth *= growth_of(step);
        if growth > MAX_GROWTH {
            return Err(format!(
                "its normaliser could make a text more than {MAX_GROWTH} times as long"
            ));
        }
        if n_steps > MAX_STEPS {
            return Err(format!("its normaliser has more than {MAX_STEPS} steps"));
        }
    }
    Ok(())
}

/// How many times as long one step can make a text. What Unicode itself defines (its normal forms, lower case) grows a
/// text at most elevenfold and no further when repeated, and is not counted.
fn growth_of(step: &Value) -> f64 {
    let length = |text: &Value| text.as_str().map_or(0, str::len) as f64;
    match step["type"].as_str() {
        Some("Replace") => {
            let content = length(&step["content"]);
            match step["pattern"]["String"].as_str() {
                Some(pattern) if !pattern.is_empty() => (content / pattern.len() as f64).max(1.0),
                // A regular expression can match between any two characters.
                _ => 1.0 + content,
            }
        }
        // Before each piece between two added tokens, which may be one character.
        Some("Prepend") => 1.0 + length(&step["prepend"]),
        Some("ByteLevel") => 2.0,
        Some("Metaspace") => 4.0,
        _ => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_canonical_form_knows_no_order_no_space_and_no_null() {
        let text = |json: &str| {
            let mut out = String::new();
            write_canonical(&serde_json::from_str(json).unwrap(), &mut out);
            out
        };
        let want = text(r#"{"a":1,"b":[true,"x"]}"#);
        assert_eq!(text("{ \"b\": [ true, \"\\u0078\" ], \"c\": null,\n \"a\": 1.0 }"), want);
        assert_ne!(text(r#"{"a":1,"b":["x",true]}"#), want);
        assert_ne!(text(r#"{"a":1,"b":[true,"x"],"c":false}"#), want);
        assert_ne!(text(r#"{"a":"1","b":[true,"x"]}"#), want);
    }
}
