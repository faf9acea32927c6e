//! Text to token ids, as Hugging Face `tokenizers` does it.
//!
//! A tokenizer is `tokenizer.json`, or a `vocab.txt` from which BERT's is built. What
//! `tokenizer_config.json` says about case, accents and Chinese characters overrides the former,
//! as in transformers. Truncation and padding inside `tokenizer.json` are cleared: the length is the
//! caller's, and texts lie packed.

use crate::error::{ModelError, SaveError};
use crate::tokenizer_meaning::{self, Around, Written};
use loriot_files::{Sha256Hasher, read_json, read_limited, write_atomic_bytes, write_atomic_json};
use rayon::prelude::*;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use tokenizers::models::{ModelWrapper, wordpiece::WordPiece};
use tokenizers::normalizers::{self, BertNormalizer, Lowercase, NormalizerWrapper};
use tokenizers::pre_tokenizers::{PreTokenizerWrapper, bert::BertPreTokenizer};
use tokenizers::processors::bert::BertProcessing;
use tokenizers::{AddedToken, Tokenizer as Pipeline};

/// Largest tokenizer or vocabulary that is read, and the largest of the small files beside it.
const MAX_BYTES: u64 = 256 << 20;
const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// Text to ids.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    pipeline: Pipeline,
    /// What stands before and after every text: `[CLS]` and `[SEP]`.
    before: Vec<u32>,
    after: Vec<u32>,
    /// Over-long texts lose their beginning instead of their end.
    keeps_end: bool,
    /// The first word pieces of a text are those of its beginning up to any whitespace.
    cuts_at_whitespace: bool,
    /// `sentence_bert_config.json` asks for lower case before anything else.
    lowercases_first: bool,
    declared: Declared,
    sha256: String,
    dir: PathBuf,
    files: Vec<String>,
}

impl Tokenizer {
    /// Opens the tokenizer in `dir` for a model whose word embedding has `vocab_size` rows.
    pub fn open(dir: &Path, vocab_size: usize) -> Result<Tokenizer, ModelError> {
        let declared = Declared::open(dir)?;
        let (path, mut pipeline, written) = open_pipeline(dir, &declared)?;
        let broken = |problem: String| ModelError::Tokenizer { path: path.clone(), problem };
        pipeline.with_padding(None);
        pipeline.with_truncation(None).map_err(|error| broken(error.to_string()))?;
        declared.override_normalizer(&mut pipeline).map_err(broken)?;

        tokenizer_meaning::check_growth(&pipeline).map_err(broken)?;
        let normalizer = pipeline.get_normalizer().cloned();

        let lowercases_first = lowercases_first(dir)?;
        if lowercases_first {
            let mut steps = vec![NormalizerWrapper::Lowercase(Lowercase)];
            steps.extend(pipeline.get_normalizer().cloned());
            let steps = normalizers::Sequence::new(steps);
            pipeline.with_normalizer(Some(steps)).map_err(|error| broken(error.to_string()))?;
        }

        let (before, after) = special_ids(&mut pipeline, &declared).map_err(broken)?;
        // A template can have ids of its own, which no vocabulary lists.
        let ids = pipeline.get_vocab(true).into_values();
        let largest_id = ids.chain(before.iter().chain(&after).copied()).max();
        if let Some(largest_id) = largest_id.filter(|&id| id as usize >= vocab_size) {
            return Err(ModelError::Vocabulary { path, largest_id, rows: vocab_size });
        }
        let present = FILES.iter().filter(|name| dir.join(name).is_file());
        let files = present.map(|name| name.to_string()).collect();
        let keeps_end = declared.text("truncation_side") == Some("left");
        let around = Around { before: &before, after: &after, keeps_end, lowercases_first };
        let sha256 = tokenizer_meaning::sha256(&pipeline, normalizer.as_ref(), written, &around);
        Ok(Tokenizer {
            cuts_at_whitespace: !keeps_end && splits_at_whitespace(&pipeline),
            pipeline,
            before,
            after,
            keeps_end,
            lowercases_first,
            declared,
            sha256,
            dir: dir.to_owned(),
            files,
        })
    }

    /// The ids of `text` between `[CLS]` and `[SEP]`, at most `max_length` with the two.
    ///
    /// An over-long text keeps its first word pieces, as in transformers. The two special tokens
    /// are there whatever `max_length` says.
    pub fn encode(&self, text: &str, max_length: usize) -> Vec<u32> {
        let room = max_length.saturating_sub(self.before.len() + self.after.len());
        let ids = self.pieces(text, room);
        let kept = match ids.len().checked_sub(room) {
            Some(excess) if self.keeps_end => &ids[excess..],
            Some(_) => &ids[..room],
            None => &ids[..],
        };
        [&self.before, kept, &self.after].concat()
    }

    /// The word pieces of `text`, at least the first `room` of them if it has so many.
    ///
    /// Reading a megabyte takes BERT's pipeline a second, and only its beginning counts. No word
    /// reaches over whitespace, so the pieces of what stands before it are the first pieces of the
    /// whole: longer and longer beginnings are read until there are enough.
    fn pieces(&self, text: &str, room: usize) -> Vec<u32> {
        let mut least = if self.cuts_at_whitespace {
            room.saturating_mul(32).saturating_add(1024)
        } else {
            text.len()
        };
        loop {
            let rest = text.as_bytes().get(least..).unwrap_or_default();
            // Other ASCII whitespace is a control character to BERT, and removed.
            let cut = rest.iter().position(|byte| b" \t\n\r".contains(byte));
            let beginning = cut.map_or(text, |at| &text[..least + at]);
            let encoding = self
                .pipeline
                .encode_fast(beginning, false)
                .expect("opening tried that characters outside the vocabulary have an id");
            if cut.is_none() || encoding.len() >= room {
                return encoding.get_ids().to_vec();
            }
            least = 4 * beginning.len();
        }
    }

    /// [`Tokenizer::encode`] of each text, in parallel on the current thread pool.
    pub fn encode_many<S: AsRef<str> + Sync>(
        &self,
        texts: &[S],
        max_length: usize,
    ) -> Vec<Vec<u32>> {
        texts.par_iter().map(|text| self.encode(text.as_ref(), max_length)).collect()
    }

    /// The names of the tokenizer's files in the model folder.
    pub fn files(&self) -> &[String] {
        &self.files
    }

    /// The identity of text to ids: of two tokenizers with the same, every text has the same ids. It does not depend on
    /// how the files are written, nor on the version of the crate that reads them.
    pub fn sha256(&self) -> String {
        self.sha256.clone()
    }

    /// Tokens that stand around every text.
    pub fn n_special(&self) -> usize {
        self.before.len() + self.after.len()
    }

    /// Refuses more special tokens than leave room for text in a model with so many positions.
    pub(crate) fn check_room(&self, max_positions: usize) -> Result<(), ModelError> {
        let n_special = self.n_special();
        if n_special < max_positions {
            return Ok(());
        }
        let name =
            if self.files.iter().any(|name| name == TOKENIZER) { TOKENIZER } else { VOCABULARY };
        let problem = format!(
            "it puts {n_special} special tokens around every text, expected fewer than the model's \
             {max_positions} positions"
        );
        Err(ModelError::Tokenizer { path: self.dir.join(name), problem })
    }

    /// What identities of version 1 have for [`Tokenizer::sha256`]: a hash of what the crate `tokenizers` writes.
    pub fn sha256_v1(&self) -> String {
        let mut hasher = Sha256Hasher::new();
        hasher.field(self.json().as_bytes());
        for ids in [&self.before, &self.after] {
            hasher.field(&ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>());
        }
        hasher.field(&[u8::from(self.keeps_end)]);
        hasher.finish()
    }

    /// Copies the tokenizer's files to the folder `dest` and makes those that the model folder lacks,
    /// so that transformers and everything built on `tokenizer.json` read the same tokenizer.
    pub fn write(&self, dest: &Path) -> Result<(), SaveError> {
        for name in &self.files {
            let bytes = read_limited(&self.dir.join(name), MAX_BYTES)?;
            write_atomic_bytes(&dest.join(name), &bytes)?;
        }
        let lacks = |name: &str| !self.files.iter().any(|file| file == name);
        if lacks(TOKENIZER) {
            write_atomic_bytes(&dest.join(TOKENIZER), self.json().as_bytes())?;
        }
        if lacks(TOKENIZER_CONFIG) {
            write_atomic_json(&dest.join(TOKENIZER_CONFIG), &self.config_json())?;
        }
        if lacks(SPECIAL_TOKENS) {
            write_atomic_json(&dest.join(SPECIAL_TOKENS), &self.special_tokens_json())?;
        }
        Ok(())
    }

    /// Whether `sentence_bert_config.json` asks for lower case, which a copy must ask for too.
    pub(crate) fn lowercases_first(&self) -> bool {
        self.lowercases_first
    }

    fn json(&self) -> String {
        self.pipeline.to_string(false).expect("a tokenizer that was read can be written")
    }

    fn special_tokens_json(&self) -> Value {
        let present = |token: &&str| self.pipeline.token_to_id(token).is_some();
        let tokens = SPECIALS.iter().map(|(key, _)| (*key, self.declared.special(key)));
        let known = tokens.filter(|(_, token)| present(token));
        Value::Object(known.map(|(key, token)| (key.to_owned(), json!(token))).collect())
    }

    fn config_json(&self) -> Value {
        let mut config = self.special_tokens_json();
        if let Some(NormalizerWrapper::BertNormalizer(bert)) = self.pipeline.get_normalizer() {
            config["tokenizer_class"] = json!("BertTokenizer");
            config["do_lower_case"] = json!(bert.lowercase);
            config["strip_accents"] = json!(bert.strip_accents);
            config["tokenize_chinese_chars"] = json!(bert.handle_chinese_chars);
        } else {
            config["tokenizer_class"] = json!("PreTrainedTokenizerFast");
        }
        config
    }
}

const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const SPECIAL_TOKENS: &str = "special_tokens_map.json";
const VOCABULARY: &str = "vocab.txt";

/// The files a tokenizer can have.
const FILES: [&str; 4] = [TOKENIZER, TOKENIZER_CONFIG, SPECIAL_TOKENS, VOCABULARY];

/// BERT's special tokens, where nothing names others.
const SPECIALS: [(&str, &str); 5] = [
    ("pad_token", "[PAD]"),
    ("unk_token", "[UNK]"),
    ("cls_token", "[CLS]"),
    ("sep_token", "[SEP]"),
    ("mask_token", "[MASK]"),
];

/// What `special_tokens_map.json` and, over it, `tokenizer_config.json` say.
#[derive(Clone, Debug)]
struct Declared(Map<String, Value>);

impl Declared {
    fn open(dir: &Path) -> Result<Declared, ModelError> {
        let mut entries = Map::new();
        for name in [SPECIAL_TOKENS, TOKENIZER_CONFIG] {
            let path = dir.join(name);
            if path.exists() {
                entries.extend(read_json::<Map<String, Value>>(&path, MAX_CONFIG_BYTES)?);
            }
        }
        Ok(Declared(entries))
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(Value::as_str)
    }

    fn flag(&self, key: &str) -> Option<bool> {
        self.0.get(key).and_then(Value::as_bool)
    }

    /// A special token, written as a string or as an object with its `content`.
    fn special(&self, key: &str) -> &str {
        let value = self.0.get(key);
        let declared = value.and_then(|value| value.as_str().or(value.get("content")?.as_str()));
        let default = SPECIALS.iter().find(|(name, _)| *name == key).map(|(_, token)| *token);
        declared.or(default).expect("only special tokens are asked for")
    }

    /// BERT's normaliser with the settings declared here; those that are missing are transformers' defaults.
    fn bert_normalizer(&self) -> BertNormalizer {
        let chinese = self.flag("tokenize_chinese_chars").unwrap_or(true);
        let lowercase = self.flag("do_lower_case").unwrap_or(true);
        BertNormalizer::new(true, chinese, self.flag("strip_accents"), lowercase)
    }

    /// transformers gives a BERT tokenizer its declared or default case, accents and Chinese
    /// characters even where `tokenizer.json` says otherwise (seen with its version 5.23).
    fn override_normalizer(&self, pipeline: &mut Pipeline) -> Result<(), String> {
        let is_bert = self.text("tokenizer_class").is_none_or(|class| class.starts_with("Bert"));
        let normalizer = pipeline.get_normalizer();
        if is_bert && matches!(normalizer, Some(NormalizerWrapper::BertNormalizer(_))) {
            let wanted = self.bert_normalizer();
            pipeline.with_normalizer(Some(wanted)).map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}

fn open_pipeline(
    dir: &Path,
    declared: &Declared,
) -> Result<(PathBuf, Pipeline, Written), ModelError> {
    let path = dir.join(TOKENIZER);
    if path.exists() {
        let bytes = read_limited(&path, MAX_BYTES)?;
        let parse = || Pipeline::from_bytes(&bytes).map_err(|error| error.to_string());
        let parse = || -> Result<_, String> { Ok((parse()?, Written::read(&bytes)?)) };
        return match check_json(&bytes).and_then(|()| parse()) {
            Ok((pipeline, written)) => Ok((path, pipeline, written)),
            Err(problem) => Err(ModelError::Tokenizer { path, problem }),
        };
    }
    let path = dir.join(VOCABULARY);
    if path.exists() {
        let bytes = read_limited(&path, MAX_BYTES)?;
        return match bert_pipeline(&bytes, declared) {
            Ok(pipeline) => Ok((path, pipeline, Written::bert())),
            Err(problem) => Err(ModelError::Tokenizer { path, problem }),
        };
    }
    Err(ModelError::NoFile { dir: dir.to_owned(), wanted: "`tokenizer.json` or `vocab.txt`" })
}

/// Refuses what `tokenizers` panics on instead: text that is no JSON, and a template with a special
/// token that it does not define. Found by changing bytes of a sound file at random.
fn check_json(bytes: &[u8]) -> Result<(), String> {
    #[derive(serde::Deserialize)]
    struct Outline {
        #[serde(default)]
        post_processor: Value,
    }
    let outline: Outline = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let mut processors = vec![&outline.post_processor];
    while let Some(processor) = processors.pop() {
        processors.extend(processor["processors"].as_array().into_iter().flatten());
        for piece in processor["single"].as_array().into_iter().flatten() {
            let id = piece["SpecialToken"]["id"].as_str();
            if let Some(id) = id.filter(|id| processor["special_tokens"].get(id).is_none()) {
                return Err(format!("its template does not define the special token `{id}`"));
            }
        }
    }
    Ok(())
}

/// BERT's tokenizer from its vocabulary: one token a line, its number is its id.
fn bert_pipeline(vocabulary: &[u8], declared: &Declared) -> Result<Pipeline, String> {
    let text = std::str::from_utf8(vocabulary).map_err(|error| {
        let line = vocabulary[..error.valid_up_to()].iter().filter(|&&byte| byte == b'\n').count();
        format!("line {} is not UTF-8", line + 1)
    })?;
    let mut ids: HashMap<String, u32> = HashMap::new();
    for (id, token) in text.lines().enumerate() {
        let id = u32::try_from(id).map_err(|_| "it has more than 2^32 lines".to_owned())?;
        ids.insert(token.to_owned(), id);
    }
    let mut specials = Vec::new();
    for (key, _) in SPECIALS {
        let token = declared.special(key);
        if ids.contains_key(token) {
            specials.push(AddedToken::from(token, true));
        } else if ["unk_token", "cls_token", "sep_token"].contains(&key) {
            return Err(format!("its vocabulary has no `{token}`, the {key}"));
        }
    }
    let say = |error: tokenizers::Error| error.to_string();
    let model = json!({
        "type": "WordPiece",
        "unk_token": declared.special("unk_token"),
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": ids,
    });
    let model = WordPiece::from_bytes(model.to_string()).map_err(say)?;
    let mut pipeline = Pipeline::new(model);
    pipeline.with_normalizer(Some(declared.bert_normalizer())).map_err(say)?;
    pipeline.with_pre_tokenizer(Some(BertPreTokenizer));
    pipeline.with_decoder(Some(tokenizers::decoders::wordpiece::WordPiece::default()));
    pipeline.add_special_tokens(specials).map_err(say)?;
    Ok(pipeline)
}

/// What the pipeline puts before and after a text, `[CLS]` and `[SEP]` where it says nothing.
fn special_ids(
    pipeline: &mut Pipeline,
    declared: &Declared,
) -> Result<(Vec<u32>, Vec<u32>), String> {
    if pipeline.get_post_processor().is_none() {
        let token = |key: &str| {
            let token = declared.special(key).to_owned();
            let id = pipeline.token_to_id(&token);
            id.map(|id| (token.clone(), id))
                .ok_or_else(|| format!("its vocabulary has no `{token}`, the {key}"))
        };
        let (cls, sep) = (token("cls_token")?, token("sep_token")?);
        pipeline.with_post_processor(Some(BertProcessing::new(sep, cls)));
    }
    // The cuneiform sign stands for all that is a letter and in no vocabulary.
    let mut found = None;
    for text in ["a", "\u{12031}"] {
        let ids = |specials| -> Result<Vec<u32>, String> {
            let encoding = pipeline.encode_fast(text, specials);
            Ok(encoding.map_err(|error| error.to_string())?.get_ids().to_vec())
        };
        let (bare, whole) = (ids(false)?, ids(true)?);
        let at = whole.windows(bare.len().max(1)).position(|window| window == bare);
        if let Some(at) = at {
            found = Some((whole[..at].to_vec(), whole[at + bare.len()..].to_vec()));
        }
    }
    found.ok_or("its special tokens do not stand around the text".into())
}

/// Whether every step is one of BERT's. None of these treats a word differently for the words around it.
fn splits_at_whitespace(pipeline: &Pipeline) -> bool {
    let added = pipeline.get_added_tokens_decoder();
    matches!(pipeline.get_normalizer(), Some(NormalizerWrapper::BertNormalizer(_)))
        && matches!(pipeline.get_pre_tokenizer(), Some(PreTokenizerWrapper::BertPreTokenizer(_)))
        && matches!(pipeline.get_model(), ModelWrapper::WordPiece(_))
        && !added.values().any(|token| token.content.contains(char::is_whitespace))
}

/// What `do_lower_case` in `sentence_bert_config.json` says.
fn lowercases_first(dir: &Path) -> Result<bool, ModelError> {
    let path = dir.join("sentence_bert_config.json");
    if !path.exists() {
        return Ok(false);
    }
    let config: Map<String, Value> = read_json(&path, MAX_CONFIG_BYTES)?;
    Ok(config.get("do_lower_case").and_then(Value::as_bool).unwrap_or(false))
}
