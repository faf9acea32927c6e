//! Tokens as transformers makes them, and tokenizers that cannot be used.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod files_support;

use files_support::*;
use loriot_encoder::tokenizer::Tokenizer;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// Rows of the tiny model's word embedding, and the ids of its `[CLS]` and `[SEP]`.
const ROWS: usize = 166;
const CLS: u32 = 2;
const SEP: u32 = 3;

const TEXTS: [&str; 10] = [
    "",
    " \t\n ",
    "red kettle",
    "Café CRÈME, naïve façade",
    "steel-kettle (1.7 l)!?",
    "漢字かな交じり red文 kettle",
    "emoji 🫖 and\u{200b}zero\u{0}width\u{fffd}",
    "[MASK] [CLS] kettle [SEP]",
    "İstanbul straße ﬁne Ⅷ",
    "\u{1e9b}\u{323} e\u{301}\u{327}",
];

fn open(dir: &Path) -> Tokenizer {
    Tokenizer::open(dir, ROWS).unwrap()
}

#[track_caller]
fn refusal(dir: &Path) -> String {
    told(&Tokenizer::open(dir, ROWS).unwrap_err())
}

fn ids_of(tokenizer: &Tokenizer) -> Vec<Vec<u32>> {
    tokenizer.encode_many(&TEXTS, 64)
}

#[test]
fn the_golden_texts_have_the_ids_of_transformers() {
    let texts = read_json(&golden("tiny_texts.json"));
    let max_length = texts["max_length"].as_u64().unwrap() as usize;
    let column = |name: &str| -> Vec<String> {
        let pairs = texts["pairs"].as_array().unwrap().iter();
        pairs.map(|pair| pair[name].as_str().unwrap().to_owned()).collect()
    };
    let texts = [column("query"), column("product_title")].concat();
    let tokenizer = open(&golden("tiny_bert"));
    let ids = tokenizer.encode_many(&texts, max_length);

    let file = read_tensors(&golden("tiny_bert.safetensors"));
    let numbers = |name: &str| -> Vec<u32> {
        let bytes = file[name].bytes.as_chunks().0.iter();
        bytes.map(|bytes| i64::from_le_bytes(*bytes) as u32).collect()
    };
    let lengths: Vec<u32> = ids.iter().map(|ids| ids.len() as u32).collect();
    assert_eq!(lengths, numbers("lengths"));
    assert_eq!(ids.concat(), numbers("ids"));
}

#[test]
fn a_vocabulary_alone_makes_the_same_tokenizer() {
    let want = ids_of(&open(&golden("tiny_bert")));
    let dir = tiny();
    fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    assert_eq!(ids_of(&open(dir.path())), want);
    for file in ["tokenizer_config.json", "special_tokens_map.json"] {
        fs::remove_file(dir.path().join(file)).unwrap();
    }
    let tokenizer = open(dir.path());
    assert_eq!(ids_of(&tokenizer), want, "BERT's defaults are those of the golden model");
    assert_eq!(tokenizer.files(), ["vocab.txt"]);
}

#[test]
fn an_over_long_text_keeps_its_first_word_pieces_between_the_special_tokens() {
    let tokenizer = open(&golden("tiny_bert"));
    let whole = tokenizer.encode("red kettle steel red kettle steel", 64);
    assert_eq!((whole[0], *whole.last().unwrap()), (CLS, SEP));
    for max_length in 2..whole.len() {
        let cut = tokenizer.encode("red kettle steel red kettle steel", max_length);
        assert_eq!(cut, [&whole[..max_length - 1], &[SEP]].concat());
    }
    assert_eq!(tokenizer.encode("red kettle steel red kettle steel", whole.len()), whole);
    assert_eq!(tokenizer.encode("red", 0), [CLS, SEP]);
    assert_eq!(tokenizer.encode("", 64), [CLS, SEP]);
}

#[test]
fn truncation_and_padding_of_the_file_are_cleared() {
    let want = ids_of(&open(&golden("tiny_bert")));
    let dir = tiny();
    edit_json(&dir.path().join("tokenizer.json"), |json| {
        json["truncation"] = json!({
            "direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0
        });
        json["padding"] = json!({
            "strategy": { "Fixed": 16 }, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"
        });
    });
    assert_eq!(ids_of(&open(dir.path())), want);
}

#[test]
fn a_tokenizer_without_special_tokens_gets_those_of_bert() {
    let want = ids_of(&open(&golden("tiny_bert")));
    let dir = tiny();
    edit_json(&dir.path().join("tokenizer.json"), |json| json["post_processor"] = Value::Null);
    assert_eq!(ids_of(&open(dir.path())), want);
}

#[test]
fn tokenizer_config_overrides_case_as_in_transformers() {
    let dir = tiny();
    let kettle = open(dir.path()).encode("kettle", 64);
    assert_eq!(open(dir.path()).encode("KETTLE", 64), kettle);
    edit_json(&dir.path().join("tokenizer_config.json"), |json| {
        json["do_lower_case"] = json!(false)
    });
    assert_ne!(open(dir.path()).encode("KETTLE", 64), kettle);
    // sentence-transformers can ask for lower case on top of that.
    edit_json(&dir.path().join("sentence_bert_config.json"), |json| {
        json["do_lower_case"] = json!(true)
    });
    assert_eq!(open(dir.path()).encode("KETTLE", 64), kettle);
}

#[test]
fn a_left_truncation_side_is_honoured() {
    let dir = tiny();
    edit_json(&dir.path().join("tokenizer_config.json"), |json| {
        json["truncation_side"] = json!("left")
    });
    let tokenizer = open(dir.path());
    let whole = tokenizer.encode("red kettle steel", 64);
    let want = [&[CLS], &whole[whole.len() - 2..]].concat();
    assert_eq!(tokenizer.encode("red kettle steel", 3), want);
}

#[test]
fn a_text_of_a_megabyte_is_cut_like_any_other() {
    let tokenizer = open(&golden("tiny_bert"));
    let words = "red kettle steel ".repeat(60_000);
    let want = tokenizer.encode(&words[..17 * 40], 48);
    assert_eq!(tokenizer.encode(&words, 48), want);
    let one_word = "x".repeat(1 << 20);
    assert_eq!(tokenizer.encode(&one_word, 48), [CLS, 1, SEP], "one unknown word");
    assert_eq!(tokenizer.encode(&"漢".repeat(350_000), 48).len(), 48);
    assert_eq!(tokenizer.encode(&"\u{301}".repeat(500_000), 48), [CLS, SEP]);
}

#[test]
fn a_long_text_is_read_only_as_far_as_it_counts_with_the_same_result() {
    let tokenizer = open(&golden("tiny_bert"));
    let gap = "\u{301}\u{b}\u{c}\u{200b} \t\r\n".repeat(40);
    let parts =
        ["red", "kettle", "steel-kettle", "\u{301}", "[MASK]", "x", &gap, "漢字", "\u{b}", " "];
    let mut state = 1u32;
    for n_gaps in 0..20 {
        let mut text = gap.repeat(n_gaps);
        while text.len() < 40_000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            text += parts[(state >> 8) as usize % parts.len()];
            text += ["", " ", "\n", "\u{c}"][(state >> 28) as usize % 4];
        }
        let whole = tokenizer.encode(&text, usize::MAX);
        assert!(whole.len() > 512);
        for max_length in [2, 3, 48, 512] {
            let want = [&whole[..max_length - 1], &[SEP]].concat();
            assert_eq!(tokenizer.encode(&text, max_length), want);
        }
    }
}

#[test]
fn a_vocabulary_larger_than_the_embedding_is_refused() {
    let dir = tiny();
    for _ in ["tokenizer.json", "vocab.txt alone"] {
        let text = told(&Tokenizer::open(dir.path(), 100).unwrap_err());
        assert_says(&text, &["has token ids up to 165", "word embedding has 100 rows"]);
        assert!(Tokenizer::open(dir.path(), ROWS - 1).is_err());
        let _ = fs::remove_file(dir.path().join("tokenizer.json"));
    }
    let dir = tiny();
    edit_json(&dir.path().join("tokenizer.json"), |json| {
        let added = json!({
            "id": ROWS, "content": "[NEW]", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true
        });
        json["added_tokens"].as_array_mut().unwrap().push(added);
    });
    assert_says(&refusal(dir.path()), &["has token ids up to 166"]);
    let dir = tiny();
    edit_json(&dir.path().join("tokenizer.json"), |json| {
        json["post_processor"]["special_tokens"]["[SEP]"]["ids"] = json!([999]);
    });
    assert_says(&refusal(dir.path()), &["has token ids up to 999"]);
}

#[test]
fn a_broken_tokenizer_json_is_refused() {
    let whole = fs::read(golden("tiny_bert/tokenizer.json")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tokenizer.json");
    let half = &whole[..whole.len() / 2];
    let deep = "[".repeat(100_000);
    let broken: [&[u8]; 7] = [b"", b"{}", b"[]", b"null", half, deep.as_bytes(), &[0xff; 9]];
    for bytes in broken {
        fs::write(&file, bytes).unwrap();
        assert_says(
            &refusal(dir.path()),
            &["tokenizer.json` is not a usable tokenizer: ", "fetch"],
        );
    }
}

#[test]
fn tokenizers_that_could_not_tokenise_every_text_are_refused() {
    let refusal_after = |edit: fn(&mut Value)| {
        let dir = tiny();
        edit_json(&dir.path().join("tokenizer.json"), edit);
        refusal(dir.path())
    };
    assert_says(&refusal_after(|json| json["model"]["unk_token"] = json!("[NONE]")), &["UNK"]);
    assert_says(&refusal_after(|json| json["model"]["type"] = json!("Oracle")), &["not a usable"]);
    let undefined = |json: &mut Value| json["post_processor"]["special_tokens"] = json!({});
    assert_says(&refusal_after(undefined), &["does not define the special token `[CLS]`"]);
    assert_says(
        &refusal_after(|json| {
            json["model"]["vocab"] = json!({ "[UNK]": 0, "a": 1 });
            json["added_tokens"] = json!([]);
            json["post_processor"] = Value::Null;
        }),
        &["its vocabulary has no `[CLS]`, the cls_token"],
    );
}

#[test]
fn a_broken_vocabulary_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert_says(&refusal(dir.path()), &["has no `tokenizer.json` or `vocab.txt`"]);
    let file = dir.path().join("vocab.txt");
    fs::write(&file, "").unwrap();
    assert_says(&refusal(dir.path()), &["vocab.txt` is not a usable tokenizer", "no `[UNK]`"]);
    fs::write(&file, "[PAD]\n[UNK]\n[CLS]\n[MASK]\n").unwrap();
    assert_says(&refusal(dir.path()), &["no `[SEP]`, the sep_token"]);
    fs::write(&file, b"[PAD]\n[UNK]\n\xff\xfe\n").unwrap();
    assert_says(&refusal(dir.path()), &["line 3 is not UTF-8"]);
    fs::write(&file, "[UNK]\r\n[CLS]\r\n[SEP]\r\na\r\n").unwrap();
    assert_eq!(
        open(dir.path()).encode("a", 9),
        [1, 3, 2],
        "Windows line ends are no part of tokens"
    );
    fs::write(dir.path().join("tokenizer_config.json"), "nonsense").unwrap();
    assert_says(&refusal(dir.path()), &["tokenizer_config.json` line 1"]);
}

#[test]
fn a_copy_is_the_same_tokenizer_whatever_files_there_were() {
    for gone in
        [&[][..], &["tokenizer_config.json", "special_tokens_map.json"], &["tokenizer.json"]]
    {
        let (dir, copy) = (tiny(), tempfile::tempdir().unwrap());
        gone.iter().for_each(|name| fs::remove_file(dir.path().join(name)).unwrap());
        let tokenizer = open(dir.path());
        tokenizer.write(copy.path()).unwrap();
        for name in
            ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"]
        {
            assert!(copy.path().join(name).exists(), "{name}");
        }
        let again = open(copy.path());
        assert_eq!(again.sha256(), tokenizer.sha256(), "without {gone:?}");
        assert_eq!(ids_of(&again), ids_of(&tokenizer));
    }
}

#[test]
fn another_case_is_another_identity() {
    let dir = tiny();
    let lower = open(dir.path()).sha256();
    edit_json(&dir.path().join("tokenizer_config.json"), |json| {
        json["do_lower_case"] = json!(false)
    });
    assert_ne!(open(dir.path()).sha256(), lower);
}

#[test]
fn the_identity_is_of_what_the_files_mean_and_not_of_how_they_are_written() {
    let dir = tiny();
    let file = dir.path().join("tokenizer.json");
    let want = open(dir.path()).sha256();
    // Keys in another order and white space, truncation, and no decoder.
    let json = read_json(&file);
    let mut keys: Vec<_> = json.as_object().unwrap().iter().collect();
    keys.reverse();
    let entry = |(key, value): (&String, &Value)| format!("{key:?}:\n\t{value:#}");
    let text = keys.into_iter().map(entry).collect::<Vec<_>>().join(" ,\n");
    fs::write(&file, format!("{{ {text}\n}}")).unwrap();
    assert_eq!(open(dir.path()).sha256(), want);
    edit_json(&file, |json| {
        json["decoder"] = Value::Null;
        json["truncation"] = json!({
            "direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0
        });
    });
    assert_eq!(open(dir.path()).sha256(), want);
    fs::remove_file(&file).unwrap();
    assert_eq!(open(dir.path()).sha256(), want, "`vocab.txt` means the same");
}

#[test]
fn what_changes_ids_changes_the_identity() {
    let want = open(tiny().path()).sha256();
    let changed = |edit: &dyn Fn(&mut Value)| {
        let dir = tiny();
        edit_json(&dir.path().join("tokenizer.json"), edit);
        let sha256 = open(dir.path()).sha256();
        assert_ne!(sha256, want);
        sha256
    };
    let mut all = vec![
        changed(&|json| {
            let vocab = json["model"]["vocab"].as_object_mut().unwrap();
            let (a, b) = (vocab["red"].clone(), vocab["kettle"].clone());
            (vocab["red"], vocab["kettle"]) = (b, a);
        }),
        changed(&|json| json["model"]["max_input_chars_per_word"] = json!(3)),
        changed(&|json| json["added_tokens"][4]["single_word"] = json!(true)),
        changed(&|json| json["pre_tokenizer"] = json!({ "type": "Whitespace" })),
        changed(&|json| json["normalizer"] = json!({ "type": "Lowercase" })),
    ];
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 5);
}

#[test]
fn a_normaliser_that_lets_a_text_explode_is_refused() {
    let replace = |n: usize| {
        json!({
            "type": "Replace", "pattern": { "String": "a" }, "content": "a".repeat(n)
        })
    };
    let opened = |normalizer: Value| {
        let dir = tiny();
        edit_json(&dir.path().join("tokenizer.json"), |json| json["normalizer"] = normalizer);
        Tokenizer::open(dir.path(), ROWS)
    };
    let sequence = |steps: Vec<Value>| json!({ "type": "Sequence", "normalizers": steps });
    let refused = |normalizer: Value| told(&opened(normalizer).unwrap_err());
    let bomb = refused(sequence(vec![replace(1000), replace(1000), replace(1000)]));
    assert_says(&bomb, &["could make a text more than 100 times as long"]);
    assert_says(&refused(sequence(vec![replace(20); 2])), &["more than 100 times"]);
    let regex =
        json!({ "type": "Replace", "pattern": { "Regex": "x?" }, "content": "y".repeat(200) });
    assert_says(&refused(regex), &["more than 100 times"]);
    let prepend = json!({ "type": "Prepend", "prepend": "x".repeat(200) });
    assert_says(&refused(prepend), &["more than 100 times"]);
    assert_says(&refused(sequence(vec![json!({ "type": "ByteLevel" }); 30])), &["more than 100"]);
    assert_says(&refused(sequence(vec![json!({ "type": "NFD" }); 200])), &["more than 64 steps"]);
    let usual = json!({ "type": "Replace", "pattern": { "Regex": " {2,}" }, "content": " " });
    opened(sequence(vec![replace(3), json!({ "type": "NFKD" }), usual])).unwrap();
}
