//! Both layouts of sentence-transformers, what is refused in them, what is written, `loriot.json`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod files_support;

use files_support::*;
use loriot_encoder::folder::{Base, ModelFolder, Pooling, Prompts, Settings, TrainedOn};
use loriot_encoder::tokenizer::Tokenizer;
use loriot_encoder::weights::Weights;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

fn open(dir: &Path) -> ModelFolder {
    ModelFolder::open(dir).unwrap()
}

/// The tiny model after one of its JSON files has been edited.
fn edited(file: &str, edit: impl FnOnce(&mut Value)) -> TempDir {
    let dir = tiny();
    edit_json(&dir.path().join(file), edit);
    dir
}

#[track_caller]
fn refusal_after(file: &str, edit: impl FnOnce(&mut Value)) -> String {
    told(&ModelFolder::open(edited(file, edit).path()).unwrap_err())
}

/// Rewrites a folder as sentence-transformers 6.2 saves it.
fn renew(dir: &Path) {
    let class = |idx: usize, path: &str, class: &str| json!({ "idx": idx, "name": idx.to_string(), "path": path, "type": class });
    edit_json(&dir.join("modules.json"), |json| {
        *json = json!([
            class(0, "", "sentence_transformers.base.modules.transformer.Transformer"),
            class(
                1,
                "1_Pooling",
                "sentence_transformers.sentence_transformer.modules.pooling.Pooling"
            ),
            class(2, "2_Normalize", "sentence_transformers.base.modules.normalize.Normalize"),
        ]);
    });
    edit_json(&dir.join("1_Pooling/config.json"), |json| {
        *json =
            json!({ "embedding_dimension": 32, "pooling_mode": "mean", "include_prompt": true });
    });
    edit_json(&dir.join("2_Normalize/config.json"), |json| {
        let name = "sentence_embedding";
        *json = json!({ "module_input_name": name, "module_output_name": name });
    });
    edit_json(&dir.join("sentence_bert_config.json"), |json| {
        let text = json!({ "method": "forward", "method_output_name": "last_hidden_state" });
        *json = json!({
            "transformer_task": "feature-extraction",
            "modality_config": { "text": text },
            "module_output_name": "token_embeddings",
        });
    });
    edit_json(&dir.join("tokenizer_config.json"), |json| json["model_max_length"] = json!(48));
}

#[test]
fn both_layouts_say_the_same() {
    let old = tiny();
    let new = tiny();
    renew(new.path());
    for dir in [&old, &new] {
        let folder = open(dir.path());
        assert_eq!(folder.path, dir.path());
        assert_eq!(folder.name, dir.path().display().to_string());
        assert_eq!((folder.pooling, folder.normalize), (Pooling::Mean, true));
        assert_eq!(folder.max_length, Some(48));
        assert_eq!(folder.prompts, Prompts::default());
        assert_eq!(folder.notes, [""; 0]);
    }
}

#[test]
fn cls_pooling_is_read_from_both_layouts() {
    let old = edited("1_Pooling/config.json", |json| {
        json["pooling_mode_mean_tokens"] = json!(false);
        json["pooling_mode_cls_token"] = json!(true);
    });
    assert_eq!(open(old.path()).pooling, Pooling::Cls);
    let new = tiny();
    renew(new.path());
    for mode in [json!("cls"), json!(["cls"])] {
        edit_json(&new.path().join("1_Pooling/config.json"), |json| json["pooling_mode"] = mode);
        assert_eq!(open(new.path()).pooling, Pooling::Cls);
    }
}

#[test]
fn other_poolings_are_refused_by_name() {
    for mode in ["max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken"] {
        let text = refusal_after("1_Pooling/config.json", |json| {
            json["pooling_mode_mean_tokens"] = json!(false);
            json[format!("pooling_mode_{mode}")] = json!(true);
        });
        assert_says(&text, &[&format!("the pooling `{mode}` is not supported"), "mean and CLS"]);
    }
    let both = |json: &mut Value| json["pooling_mode_max_tokens"] = json!(true);
    let text = refusal_after("1_Pooling/config.json", both);
    assert_says(&text, &["the pooling `max_tokens + mean_tokens`"]);
    let text = refusal_after("1_Pooling/config.json", |json| json["include_prompt"] = json!(false));
    assert_says(&text, &["`include_prompt`"]);
    let text = refusal_after("1_Pooling/config.json", |json| *json = json!({}));
    assert_says(&text, &["`pooling_mode` is missing, expected `mean` or `cls`"]);
    let text = refusal_after("1_Pooling/config.json", |json| {
        json["word_embedding_dimension"] = json!(384)
    });
    assert_says(&text, &["`word_embedding_dimension` is 384, expected 32"]);
}

#[test]
fn modules_that_would_change_the_vectors_are_refused() {
    for kind in ["Dense", "LayerNorm", "CNN", "Router"] {
        let text = refusal_after("modules.json", |json| {
            let class = format!("sentence_transformers.models.{kind}");
            json.as_array_mut().unwrap().insert(2, json!({ "path": "2_X", "type": class }));
        });
        assert_says(&text, &[&format!("the module `{kind}` is not supported"), "Normalize"]);
    }
    let text = refusal_after("modules.json", |json| json.as_array_mut().unwrap().swap(1, 2));
    assert_says(&text, &["the list of modules [Transformer, Normalize, Pooling]"]);
    let text = refusal_after("modules.json", |json| *json = json!([]));
    assert_says(&text, &["the list of modules []"]);
    let text = refusal_after("modules.json", |json| *json = json!({ "a": 1 }));
    assert_says(&text, &["modules.json` line 1: not the expected JSON"]);
    let text = refusal_after("2_Normalize/config.json", |json| {
        json["module_input_name"] = json!("token_embeddings");
    });
    assert_says(&text, &["`module_input_name` \"token_embeddings\" is not supported"]);
    let text = refusal_after("sentence_bert_config.json", |json| {
        json["transformer_task"] = json!("fill-mask");
    });
    assert_says(&text, &["`transformer_task` \"fill-mask\" is not supported"]);
}

#[test]
fn a_folder_without_normalize_has_vectors_of_any_norm() {
    let dir = edited("modules.json", |json| _ = json.as_array_mut().unwrap().pop());
    assert!(!open(dir.path()).normalize);
}

#[test]
fn without_modules_the_mean_is_assumed_and_said() {
    let dir = tiny();
    fs::remove_file(dir.path().join("modules.json")).unwrap();
    let folder = open(dir.path());
    assert_eq!((folder.pooling, folder.normalize), (Pooling::Mean, true));
    assert_says(&folder.notes.join("; "), &["no `modules.json`", "mean pooling and unit vectors"]);
}

#[test]
fn modules_may_lie_in_folders_but_not_outside() {
    let dir = tiny();
    let inner = dir.path().join("0_Transformer");
    fs::create_dir(&inner).unwrap();
    for file in ["config.json", "sentence_bert_config.json", "model.safetensors"] {
        fs::rename(dir.path().join(file), inner.join(file)).unwrap();
    }
    edit_json(&dir.path().join("modules.json"), |json| json[0]["path"] = json!("0_Transformer"));
    let folder = open(dir.path());
    assert_eq!((folder.path, folder.max_length), (inner, Some(48)));

    for outside in ["../elsewhere", "/etc", "a/../../b"] {
        for module in 0..3 {
            let text = refusal_after("modules.json", |json| json[module]["path"] = json!(outside));
            assert_says(&text, &["modules.json` names `", outside, "inside the model folder"]);
        }
    }
}

#[test]
fn the_longest_text_comes_from_the_first_file_that_says_it() {
    let max_length = |sentence_bert: Value, tokenizer: Value| {
        let dir =
            edited("sentence_bert_config.json", |json| json["max_seq_length"] = sentence_bert);
        edit_json(&dir.path().join("tokenizer_config.json"), |json| {
            json["model_max_length"] = tokenizer;
        });
        let folder = open(dir.path());
        (folder.max_length, folder.notes.len())
    };
    assert_eq!(max_length(json!(20), json!(30)), (Some(20), 0));
    assert_eq!(max_length(Value::Null, json!(30)), (Some(30), 0));
    assert_eq!(max_length(Value::Null, json!(1e30)), (None, 0));
    assert_eq!(max_length(Value::Null, Value::Null), (None, 0));
    assert_eq!(max_length(json!(512), json!(30)), (Some(64), 1), "the model has 64 positions");
    for wrong in [json!(2), json!(-1), json!(7.5), json!("48"), json!([48])] {
        let text =
            refusal_after("sentence_bert_config.json", |json| json["max_seq_length"] = wrong);
        assert_says(&text, &["`max_seq_length` is ", "expected a whole number from 3"]);
    }
}

#[test]
fn prompts_go_by_role_with_the_default_behind() {
    let prompts = |json: Value| {
        let dir = edited("config_sentence_transformers.json", |config| *config = json);
        let Prompts { query, document } = open(dir.path()).prompts;
        (query, document)
    };
    let pair = |query: &str, document: &str| (query.to_owned(), document.to_owned());
    let passage = json!({ "query": "query: ", "passage": "passage: " });
    assert_eq!(prompts(json!({ "prompts": passage })), pair("query: ", "passage: "));
    let document = json!({ "document": "d: ", "passage": "p: ", "any": "a: " });
    assert_eq!(prompts(json!({ "prompts": document })), pair("", "d: "));
    let default =
        json!({ "prompts": { "query": "q: ", "any": "a: " }, "default_prompt_name": "any" });
    assert_eq!(prompts(default), pair("q: ", "a: "));
    assert_eq!(prompts(json!({ "prompts": null })), pair("", ""));
    let text = refusal_after("config_sentence_transformers.json", |json| {
        json["prompts"] = json!({ "query": 3 });
    });
    assert_says(&text, &["`prompts.query` is 3, expected a text"]);
}

#[test]
fn what_is_written_is_read_back_the_same() {
    let dir = tiny();
    renew(dir.path());
    edit_json(&dir.path().join("config.json"), |json| {
        json["dtype"] = json!("bfloat16");
        json["architectures"] = json!(["BertForMaskedLM"]);
    });
    let mut folder = open(dir.path());
    folder.prompts = Prompts { query: "query: ".into(), document: "passage: ".into() };
    folder.pooling = Pooling::Cls;
    let weights = Weights::open(&folder.path, &folder.config).unwrap();
    let tokenizer = Tokenizer::open(&folder.path, folder.config.vocab_size).unwrap();
    let copy = tempfile::tempdir().unwrap();
    folder.write(copy.path(), &weights, &tokenizer, 20).unwrap();

    let again = open(copy.path());
    assert_eq!((again.pooling, again.normalize), (Pooling::Cls, true));
    assert_eq!((&again.prompts, again.max_length), (&folder.prompts, Some(20)));
    assert_eq!(Weights::open(&again.path, &again.config).unwrap().sha256(), weights.sha256());
    assert_eq!(Tokenizer::open(&again.path, 166).unwrap().sha256(), tokenizer.sha256());
    assert_eq!(again.config.json["dtype"], "float32");
    assert_eq!(again.config.json["architectures"], json!(["BertModel"]));

    let json = |file: &str| read_json(&copy.path().join(file));
    assert_eq!(
        json("1_Pooling/config.json"),
        json!({
            "word_embedding_dimension": 32,
            "pooling_mode_cls_token": true,
            "pooling_mode_mean_tokens": false,
            "pooling_mode_max_tokens": false,
            "pooling_mode_mean_sqrt_len_tokens": false,
        })
    );
    let modules = json("modules.json");
    assert_eq!(modules[1]["type"], "sentence_transformers.models.Pooling");
    assert_eq!(
        (&modules[1]["path"], &modules[2]["path"]),
        (&json!("1_Pooling"), &json!("2_Normalize"))
    );
    let bert = json!({ "max_seq_length": 20, "do_lower_case": false });
    assert_eq!(json("sentence_bert_config.json"), bert);
    let sentences = json("config_sentence_transformers.json");
    assert_eq!(sentences["similarity_fn_name"], "cosine");
    assert_eq!(sentences["default_prompt_name"], "document");
    let card = folder.merged_card("run/best", 20);
    let prompts = "`encode_query` puts \"query: \" before a text, `encode_document` \"passage: \"";
    assert_says(&card, &["base_model: \"", "adapter `run/best`", "cut at 20 tokens", prompts]);
    // bge: a document has no prompt, and plain `encode` must not give it the query's.
    folder.prompts.document = String::new();
    folder.write(copy.path(), &weights, &tokenizer, 20).unwrap();
    assert_eq!(json("config_sentence_transformers.json")["default_prompt_name"], Value::Null);
    for file in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"]
    {
        assert!(copy.path().join(file).exists(), "{file}");
    }
}

fn settings() -> Settings {
    Settings {
        query_prompt: "query: ".into(),
        document_prompt: String::new(),
        max_length: 70,
        pooling: Pooling::Mean,
        normalize: true,
        base: Base { name: "owner/name".into(), sha256: "ab".into() },
        trained_on: None,
    }
}

#[test]
fn settings_of_version_1_are_read_and_written() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(Settings::open(dir.path()).unwrap(), None);
    let version_1 = r#"{"schema_version": 1, "query_prompt": "query: ", "document_prompt": "",
        "max_length": 70, "pooling": "mean", "normalize": true,
        "base": {"name": "owner/name", "sha256": "ab"}}"#;
    fs::write(dir.path().join("loriot.json"), version_1).unwrap();
    assert_eq!(Settings::open(dir.path()).unwrap(), Some(settings()));
    settings().write(dir.path()).unwrap();
    assert_eq!(Settings::open(dir.path()).unwrap(), Some(settings()));
    let written = read_json(&dir.path().join("loriot.json"));
    assert_eq!(written, serde_json::from_str::<Value>(version_1).unwrap());
    // What training rows were is told by newer files alone.
    let on = TrainedOn { text_template: Some("{a} {b}".into()), label_scale: "1:3".into() };
    for text_template in [on.text_template.clone(), None] {
        let on = TrainedOn { text_template, ..on.clone() };
        let newer = Settings { trained_on: Some(on), ..settings() };
        newer.write(dir.path()).unwrap();
        assert_eq!(Settings::open(dir.path()).unwrap(), Some(newer));
    }
}

#[test]
fn settings_that_are_not_version_1_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("loriot.json");
    let refusal_after = |edit: fn(&mut Value)| {
        settings().write(dir.path()).unwrap();
        edit_json(&file, edit);
        told(&Settings::open(dir.path()).unwrap_err())
    };
    let text = refusal_after(|json| json["schema_version"] = json!(2));
    assert_says(&text, &["`schema_version` is 2, expected 1, the only one this version knows"]);
    let text = refusal_after(|json| _ = json.as_object_mut().unwrap().remove("schema_version"));
    assert_says(&text, &["`schema_version` is missing"]);
    let text = refusal_after(|json| _ = json.as_object_mut().unwrap().remove("base"));
    assert_says(&text, &["loriot.json", "missing field `base`"]);
    let text = refusal_after(|json| json["pooling"] = json!("max"));
    assert_says(&text, &["unknown variant `max`"]);
    let text = refusal_after(|json| json["max_length"] = json!(1));
    assert_says(&text, &["`max_length` is 1, expected at least 3"]);
    let text = refusal_after(|json| *json = json!("x"));
    assert_says(&text, &["not the expected JSON"]);
}
