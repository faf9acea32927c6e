//! What the user sees, from outside: results, and one clear sentence for whatever is wrong.

#![allow(clippy::unwrap_used, reason = "a test helper's failure is the test's")]

mod support;

use serde_json::Value;
use support::{Dir, golden};

const TRAIN: &str = "train --model MODEL --train train.csv --eval eval.csv --output run --epochs 1 \
                     --batch-size 16 --learning-rate 5e-3";

#[test]
fn train_eval_and_merge_agree_with_each_other() {
    let dir = Dir::with_rows(160);
    let trained = dir.loriot(&format!("{TRAIN} --json")).ok().json();
    let evaluations = trained["evaluations"].as_array().unwrap();
    let epochs: Vec<_> = evaluations.iter().map(|e| e["epoch"].as_i64().unwrap()).collect();
    assert_eq!(epochs, [-1, 0]);

    // The same numbers again from the files alone, the base's beside them.
    let eval = "eval --model MODEL --data eval.csv --bootstrap 50 --json";
    let adapted = dir.loriot(&format!("{eval} --adapter run/best")).ok().json();
    assert_eq!(adapted["roc_auc"], evaluations[1]["roc_auc"]);
    assert_eq!(adapted["average_precision"], evaluations[1]["average_precision"]);
    assert_eq!(adapted["base"]["roc_auc"], evaluations[0]["roc_auc"]);
    let difference = adapted["difference"]["roc_auc"].as_f64().unwrap();
    let of = |value: &Value| value["roc_auc"].as_f64().unwrap();
    assert!((difference - (of(&adapted) - of(&adapted["base"]))).abs() < 1e-12);
    assert!(adapted["word_overlap_roc_auc"].is_f64());
    assert!(adapted["random_order"]["ndcg@10"].is_f64());
    assert!(adapted["intervals"]["roc_auc"][0].as_f64() <= adapted["roc_auc"].as_f64());

    let merged = dir.loriot("merge --model MODEL --adapter run/best --output merged --json").ok();
    assert!(merged.json()["largest_difference"].as_f64().unwrap() < 1e-5);
    let merged = dir.loriot(&format!("{} --model merged", eval.replace("--model MODEL", ""))).ok();
    let merged = merged.json();
    assert!((of(&merged) - of(&adapted)).abs() < 1e-3);
    assert!(merged.get("base").is_none());
}

#[test]
fn tables_go_to_stdout_and_everything_else_to_stderr() {
    let dir = Dir::with_rows(64);
    let done = dir.loriot(TRAIN).ok();
    assert!(done.stdout.starts_with("                 ROC-AUC  per query"), "{}", done.stdout);
    assert!(done.stdout.contains("\nbefore training  "), "{}", done.stdout);
    assert!(done.stderr.contains("the best epoch is in `run/best`"), "{}", done.stderr);
    let done = dir.loriot("eval --model MODEL --data eval.csv --bootstrap 0").ok();
    assert!(done.stdout.contains("\nroc_auc_per_query  "), "{}", done.stdout);
}

#[test]
fn options_come_from_a_file_and_the_command_line_wins() {
    let dir = Dir::with_rows(64);
    let model = golden("tiny_bert");
    let toml = format!(
        "model = \"{model}\"\ntrain = [\"train.csv\"]\neval = [\"eval.csv\"]\noutput = \"run\"\n\
         epochs = 2\nbatch-size = 16\nno-shuffle = true\njson = true\n"
    );
    dir.write("run.toml", toml);
    let done = dir.loriot("train --config run.toml --epochs 1").ok();
    assert_eq!(done.json()["evaluations"].as_array().unwrap().len(), 2);
    let state = std::fs::read_to_string(dir.path("run/epoch_0/state.json")).unwrap();
    let state: Value = serde_json::from_str(&state).unwrap();
    assert_eq!(state["run"]["settings"]["shuffle"], false);
    assert_eq!(state["run"]["settings"]["batch_size"], 16);

    dir.write("typo.toml", "learnin-rate = 1\n");
    let done = dir.loriot("train --config typo.toml");
    done.refused(2, "`typo.toml`: no command has an option `learnin-rate`", "learning-rate");
}

#[test]
fn one_file_of_options_serves_every_command() {
    let dir = Dir::with_rows(64);
    let model = golden("tiny_bert");
    let toml = format!(
        "model = \"{model}\"\njson = true\nmax-length = 20\nepochs = 5\n\
         [train]\ntrain = [\"train.csv\"]\neval = [\"eval.csv\"]\noutput = \"run\"\nepochs = 1\n\
         [eval]\ndata = [\"eval.csv\"]\nbootstrap = 0\n\
         [merge]\nadapter = \"run/best\"\noutput = \"merged\"\n"
    );
    dir.write("all.toml", &toml);
    let trained = dir.loriot("train --config all.toml").ok().json();
    assert_eq!(trained["evaluations"].as_array().unwrap().len(), 2, "the section wins");
    let base = dir.loriot("eval --config all.toml").ok().json();
    assert_eq!(base["roc_auc"], trained["evaluations"][0]["roc_auc"]);
    assert!(base["intervals"].as_object().unwrap().is_empty());
    dir.loriot("merge --config all.toml").ok();
    // What is wrong in another command's section is told, too.
    dir.write("all.toml", toml + "rnak = 3\n");
    let done = dir.loriot("eval --config all.toml");
    done.refused(2, "`all.toml`: `merge` has no option `rnak`", "it has: ");
    dir.loriot("eval --config no.toml").refused(
        2,
        "there is no file `no.toml`",
        "`--config` names",
    );
}

#[test]
fn what_a_run_computes_in_is_recorded_and_stays() {
    let dir = Dir::with_rows(64);
    dir.write("run.toml", "precision = \"bf16\"\n");
    let trained = dir.loriot(&format!("{TRAIN} --config run.toml --json")).ok().json();
    let card = std::fs::read_to_string(dir.path("run/README.md")).unwrap();
    assert!(card.contains("| precision | `\"bf16\"` |"), "{card}");
    let done = dir.loriot(&format!("{TRAIN} --resume"));
    done.refused(1, "`precision` was `bf16` there and is `f32` now", "what the run was begun with");

    // The adapter is f32, and as good in any arithmetic.
    let eval = "eval --model MODEL --adapter run --data eval.csv --bootstrap 0 --json --precision";
    let roc_auc = |precision| {
        dir.loriot(&format!("{eval} {precision}")).ok().json()["roc_auc"].as_f64().unwrap()
    };
    let of_training = trained["evaluations"][1]["roc_auc"].as_f64().unwrap();
    for precision in ["f32", "bf16", "int8"] {
        assert!((roc_auc(precision) - of_training).abs() < 0.03, "{precision}");
    }
}

#[test]
fn the_loss_is_chosen_by_name_and_stays() {
    let dir = Dir::with_rows(64);
    for (at, loss) in ["cosent", "multiple-negatives-ranking"].into_iter().enumerate() {
        let train =
            format!("{TRAIN} --loss {loss}").replace("--output run", &format!("--output r{at}"));
        let trained = dir.loriot(&format!("{train} --json")).ok().json();
        let losses = [0, 1].map(|at| trained["evaluations"][at]["loss"].as_f64().unwrap());
        assert!(losses[1] < losses[0], "{loss}: {losses:?}");
        let card = std::fs::read_to_string(dir.path(&format!("r{at}/README.md"))).unwrap();
        assert!(card.contains(&format!("| loss | `\"{loss}\"` |")), "{card}");
        let done = dir.loriot(&format!("{} --resume", train.replace(loss, "angle")));
        done.refused(1, &format!("`loss` was `{loss}` there and is `angle` now"), "begun with");
    }
    let done = dir.loriot(&TRAIN.replace("--output run", "--output r2 --loss cosnet"));
    done.refused(2, "expected one of: cosine-squared, cosine-similarity", "");
}

#[test]
fn full_fine_tuning_leaves_a_model_folder() {
    let dir = Dir::with_rows(64);
    let trained = dir.loriot(&format!("{TRAIN} --full --json")).ok().json();
    let eval = dir.loriot("eval --model run/best --data eval.csv --bootstrap 0 --json").ok().json();
    assert_eq!(eval["roc_auc"], trained["evaluations"][1]["roc_auc"]);
}

#[test]
fn training_goes_on_from_an_adapter() {
    let dir = Dir::with_rows(64);
    dir.loriot(&format!("{TRAIN} --max-length 20 --query-prompt query:")).ok();
    let again = TRAIN.replace("--output run", "--output more --adapter run --json");
    let second = dir.loriot(&again).ok().json();
    let first = dir.loriot("eval --model MODEL --adapter run --data eval.csv --bootstrap 0 --json");
    assert_eq!(second["evaluations"][0]["roc_auc"], first.ok().json()["roc_auc"]);
    let settings = std::fs::read_to_string(dir.path("more/loriot.json")).unwrap();
    assert!(settings.contains("\"query:\"") && settings.contains("20"), "{settings}");
}

#[test]
fn an_existing_run_needs_a_word() {
    let dir = Dir::with_rows(64);
    dir.loriot(TRAIN).ok();
    let before = dir.contents("run");
    let done = dir.loriot(TRAIN);
    done.refused(1, "`run` holds a training run already", "`--resume` continues it, `--overwrite`");
    let other = TRAIN.replace("--batch-size 16", "--batch-size 8");
    let done = dir.loriot(&format!("{other} --resume"));
    done.refused(1, "`batch_size` was `16` there and is `8` now", "--overwrite");
    assert_eq!(dir.contents("run"), before);
    dir.loriot(&format!("{other} --overwrite")).ok();
    assert_ne!(dir.contents("run"), before);
}

#[test]
fn wrong_usage_has_status_2() {
    let dir = Dir::with_rows(8);
    for (extra, error) in [
        ("--precision int8", "int8 has no gradients; train in bf16 or f32, and embed in int8"),
        ("--precision f16", "expected `f32` or `bf16`"),
        ("--schedule linaer", "expected one of: linear, cosine"),
        ("--learning-rate -1", "`learning-rate` is -1"),
        ("--learning-rate nan", "`learning-rate` is NaN"),
        ("--dropout 1", "`dropout` is 1, expected from 0 to below 1"),
        ("--batch-size 0", "`batch-size` is 0"),
        ("--column title=name", "title"),
        ("--full --rank 4", "cannot be used with"),
        ("--full --adapter x", "cannot be used with"),
        ("--overwrite --resume", "cannot be used with"),
    ] {
        let arguments = TRAIN.replace("--batch-size 16", "").replace("--learning-rate 5e-3", "");
        let done = dir.loriot(&format!("{arguments} {}", extra.replace(" -1", "=-1")));
        assert_eq!(done.code, Some(2), "{extra}: {}", done.stderr);
        assert!(done.stderr.replace('`', "").contains(&error.replace('`', "")), "{}", done.stderr);
    }
    dir.loriot("merge --model MODEL --output merged").refused(2, "needs an adapter", "--adapter");
    assert_eq!(dir.names(), ["eval.csv", "train.csv"]);
}

#[test]
fn bad_rows_are_named_and_leave_nothing_behind() {
    let dir = Dir::with_rows(32);
    dir.write("empty.csv", "");
    dir.write("header.csv", "query,product_title,relevance_label\n");
    dir.write("column.csv", "query,name,relevance_label\na,b,1\n");
    dir.write("label.csv", "query,product_title,relevance_label\na,b,1\na,b,7\na,c,0\n");
    dir.write("utf8.csv", b"query,product_title,relevance_label\na,\xff\xfe,1\n");
    dir.write("positive.csv", "query,product_title,relevance_label\na,b,1\na,c,1\n");
    let long =
        format!("query,product_title,relevance_label\na,{},1\na,c,0\n", "x ".repeat(600_000));
    dir.write("long.csv", long);
    let files = dir.names();
    for (file, error) in [
        ("empty.csv", "`empty.csv`"),
        ("header.csv", "`header.csv`"),
        ("missing.csv", "`missing.csv`"),
        ("column.csv", "`product_title`"),
        ("label.csv", "`label.csv` line 3"),
        ("utf8.csv", "`utf8.csv` line 2"),
        ("long.csv", "`long.csv` line 2"),
        ("positive.csv", "ROC-AUC is undefined"),
    ] {
        for arguments in [
            TRAIN.replace("--eval eval.csv", &format!("--eval {file}")),
            format!("eval --model MODEL --data {file}"),
        ] {
            dir.loriot(&arguments).refused(1, error, "");
            assert_eq!(dir.names(), files, "{arguments}");
        }
    }
    let done = dir.loriot("eval --model MODEL --data label.csv --skip-bad-rows --bootstrap 0").ok();
    assert!(done.stderr.contains("rows left out: 1"), "{}", done.stderr);
}

#[test]
fn a_run_reads_both_files_on_the_training_rows_scale() {
    let dir = Dir::with_rows(32);
    let rows = |labels: [u8; 4]| -> String {
        let row = |(row, label): (usize, &u8)| format!("query {},title {row},{label}\n", row % 2);
        let rows: String = labels.iter().enumerate().map(row).collect();
        format!("query,product_title,relevance_label\n{rows}")
    };
    dir.write("train.csv", rows([1, 2, 3, 3]));
    dir.write("eval.csv", rows([2, 1, 3, 1]));
    let done = dir.loriot(TRAIN).ok();
    let said = "labels run from 1 to 3: read as 0 to 1 (`--label-scale 1:3`)";
    assert_eq!(done.stderr.matches(said).count(), 1, "{}", done.stderr);
    let done = dir.loriot("eval --model MODEL --data eval.csv --skip-bad-rows --bootstrap 0").ok();
    assert!(done.stderr.contains(said) && !done.stderr.contains("left out"), "{}", done.stderr);
    assert!(done.stdout.starts_with("4 rows, 1 positive"), "{}", done.stdout);
    // What the training rows do not have is no label of the evaluation's either.
    dir.write("eval.csv", rows([2, 1, 3, 5]));
    let refused = dir.loriot(&TRAIN.replace("--output run", "--output other"));
    refused.refused(
        1,
        "`eval.csv` line 5: `relevance_label` is `5`, expected a number from 1 to 3",
        "",
    );
    let bad = dir.loriot("eval --model MODEL --data eval.csv --label-scale 3:1");
    bad.refused(2, "expected two numbers, the lower first", "");
}

/// The safetensors file with another first element of the embeddings' bias.
fn with_first_bias(file: &[u8], value: f32) -> Vec<u8> {
    let header_end = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&file[8..header_end]).unwrap();
    let offset = header["embeddings.LayerNorm.bias"]["data_offsets"][0].as_u64().unwrap() as usize;
    let mut changed = file.to_vec();
    changed[header_end + offset..][..4].copy_from_slice(&value.to_le_bytes());
    changed
}

#[test]
fn damaged_models_and_foreign_adapters_are_refused_and_leave_nothing_behind() {
    let dir = Dir::with_rows(32);
    dir.loriot(TRAIN).ok();
    let copy = |name: &str| {
        let from = golden("tiny_bert");
        let status =
            std::process::Command::new("cp").args(["-r", &from]).arg(dir.path(name)).status();
        assert!(status.unwrap().success());
    };
    copy("cut");
    let weights = std::fs::read(dir.path("cut/model.safetensors")).unwrap();
    dir.write("cut/model.safetensors", &weights[..weights.len() / 2]);
    copy("huge");
    dir.write("huge/model.safetensors", (1u64 << 60).to_le_bytes());
    copy("nan");
    dir.write("nan/model.safetensors", with_first_bias(&weights, f32::NAN));
    copy("other");
    dir.write("other/model.safetensors", with_first_bias(&weights, 1.5));
    let files = dir.names();

    for (arguments, error) in [
        ("eval --data eval.csv --model cut", "model.safetensors"),
        ("eval --data eval.csv --model huge", "model.safetensors"),
        ("eval --data eval.csv --model nan", "model.safetensors"),
        ("eval --data eval.csv --model ./nowhere", "no such folder: `./nowhere`"),
        ("eval --data eval.csv --model train.toml", "no such folder: `train.toml`"),
        (
            "eval --data eval.csv --model missing/rows.csv.gz",
            "no such folder: `missing/rows.csv.gz`",
        ),
        ("eval --data eval.csv --model eval.csv", "`eval.csv` is a file, expected the folder"),
        ("eval --data eval.csv --model MODEL --adapter ./nowhere", "nowhere"),
        ("eval --data eval.csv --model MODEL --adapter other", "adapter_config.json"),
        ("merge --model other --adapter run --output merged", "was trained on"),
        ("eval --data eval.csv --model other --adapter run", "was trained on"),
        ("merge --model MODEL --adapter run --output run", "exists already"),
    ] {
        dir.loriot(arguments).refused(1, error, "");
        assert_eq!(dir.names(), files, "{arguments}");
    }
}

/// A limit on the size of a file stands for a full disk: a write beyond it fails in the middle.
#[test]
fn a_full_disk_leaves_no_half_of_a_model() {
    let dir = Dir::with_rows(32);
    dir.loriot(&TRAIN.replace("--output run", "--output whole")).ok();
    for (arguments, output) in [
        (TRAIN.to_owned(), "run"),
        ("merge --model MODEL --adapter whole --output merged".to_owned(), "merged"),
    ] {
        let command = dir.command(&arguments);
        let mut limited = std::process::Command::new("sh");
        limited.args(["-c", "trap '' XFSZ; ulimit -f 16; exec \"$0\" \"$@\""]);
        limited.arg(command.get_program()).args(command.get_args());
        let done = limited.current_dir(dir.path(".")).output().unwrap();
        let stderr = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("error: cannot write `"), "{stderr}");
        let left: Vec<_> = match dir.path(output).exists() {
            true => dir.contents(output).into_keys().collect(),
            false => Vec::new(),
        };
        assert!(!left.iter().any(|name| name.ends_with("model.safetensors")), "{left:?}");
        assert!(!left.iter().any(|name| name.contains(".tmp-")), "{left:?}");
    }
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let dir = Dir::with_rows(32);
    dir.write("file", "");
    let done = dir.loriot(&TRAIN.replace("--output run", "--output file/run"));
    assert_eq!(done.code, Some(1), "{}", done.stderr);
    assert!(done.stderr.contains("`file/run"), "{}", done.stderr);
}

#[test]
fn diverging_training_stops_with_a_remedy() {
    let dir = Dir::with_rows(64);
    let done = dir.loriot(&TRAIN.replace("5e-3", "1e38 --full"));
    done.refused(1, "training diverged at step", "lower `--learning-rate`");
    assert!(!dir.path("run/model.safetensors").exists());
}

#[test]
fn help_shows_examples_and_defaults() {
    let dir = Dir::with_rows(8);
    for (command, wanted) in
        [("train", "[default: 64]"), ("eval", "--adapter run/best"), ("merge", "--output merged")]
    {
        let help = dir.loriot(&format!("{command} --help")).ok().stdout;
        assert!(help.contains("Example") && help.contains(wanted), "{help}");
        // What is merged is exact: there is nothing to choose.
        assert_eq!(help.contains("--precision"), command != "merge", "{help}");
        assert_eq!(help.contains("int8"), command == "eval", "{help}");
    }
    let help = dir.loriot("--help").ok().stdout.replace('\n', " ");
    assert!(help.contains("which is from 0 (irrelevant) to 1 (relevant)"), "{help}");
    // Some containers say that a terminal has no width.
    let help = |columns: &str| {
        let done = dir.command("train --help").env("COLUMNS", columns).output().unwrap();
        String::from_utf8(done.stdout).unwrap()
    };
    assert_eq!(help("0"), help("80"));
}
