//! The main job on the example shop, from a fresh clone to a tuned search.

use crate::{model, run};
use anyhow::Result;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// Searches of products, not of their accessories; no guitar was in the training rows.
const QUERIES: &[&str] = &[
    "couch for a small living room",
    "charger for my phone in the car",
    "acoustic guitar",
    "vacuum cleaner",
];

/// `cargo xtask quickstart [--profile NAME] [DIR]`: leaves everything in `runs/quickstart` and builds
/// with the `release` profile unless told otherwise.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let (profile, rest) = match arguments {
        [flag, profile, rest @ ..] if flag == "--profile" => (profile.as_str(), rest),
        rest => ("release", rest),
    };
    let output = rest.first().map_or("runs/quickstart", String::as_str);
    let root = run::root();
    step("build");
    run::checked(&mut run::cargo(&["build", "--profile", profile, "--package", "loriot"]))?;
    let folder = if profile == "dev" { "debug" } else { profile };
    let binary = target_dir(&root)?.join(folder).join(binary_name());
    let loriot = |arguments: &[&str]| {
        let mut command = Command::new(&binary);
        command.args(arguments).current_dir(&root);
        run::checked(&mut command)
    };

    let started = Instant::now();
    step("model");
    let model = model::hub_id_or_folder()?;
    let (adapter, tuned) = (format!("{output}/adapter"), format!("{output}/model"));
    let (before, after) = (format!("{output}/before"), format!("{output}/after"));
    let validation = "examples/shop/validation.csv";

    step("train LoRA on examples/shop");
    loriot(&[
        "train",
        "--model",
        &model,
        "--train",
        "examples/shop/train.csv",
        "--eval",
        validation,
        "--output",
        &adapter,
        "--overwrite",
    ])?;
    let best = format!("{adapter}/best");
    step("measure: word overlap, the model as it is, the model with the adapter");
    loriot(&["eval", "--model", &model, "--adapter", &best, "--data", validation])?;
    step("fold the adapter in");
    loriot(&["merge", "--model", &model, "--adapter", &best, "--output", &tuned, "--overwrite"])?;
    step("index the catalogue, before and after");
    for (model, index) in [(&model, &before), (&tuned, &after)] {
        loriot(&[
            "index",
            "--model",
            model,
            "--input",
            "examples/shop/catalogue.csv",
            "--output",
            index,
            "--overwrite",
        ])?;
    }
    for query in QUERIES {
        println!("\n\"{query}\"");
        for (label, index) in [("before", &before), ("after", &after)] {
            println!("  {label}:");
            loriot(&["search", index, query, "-k", "5"])?;
        }
    }
    println!(
        "\nDone in {:.0} s after the build. Try your own: {} search {after} \"…\"",
        started.elapsed().as_secs_f64(),
        binary.strip_prefix(&root).unwrap_or(&binary).display()
    );
    Ok(())
}

fn step(what: &str) {
    println!("\n== {what}");
}

fn binary_name() -> String {
    format!("loriot{}", std::env::consts::EXE_SUFFIX)
}

fn target_dir(root: &Path) -> Result<std::path::PathBuf> {
    let metadata = cargo_metadata::MetadataCommand::new().current_dir(root).no_deps().exec()?;
    Ok(metadata.target_directory.into_std_path_buf())
}
