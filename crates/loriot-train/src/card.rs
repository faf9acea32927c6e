//! `README.md` of a trained model: what it is, how it was made, how good it is. No times and no
//! paths, so that the same run gives the same bytes.

use crate::evaluation::{BestMetric, Evaluation};
use crate::state::{DataIdentity, State, TrainedIdentity, as_json};
use serde_json::Value;
use std::fmt::Write;

/// The model card. `base` is the base model as the user named it.
pub(crate) fn model_card(base: &str, state: &State) -> String {
    let settings = &state.run.settings;
    let is_lora = matches!(state.run.trained, TrainedIdentity::Lora { .. });
    let (library, kind) = match is_lora {
        true => ("peft", "A LoRA adapter"),
        false => ("sentence-transformers", "A fully fine-tuned encoder"),
    };
    let mut card = format!(
        "---\n\
         base_model: {}\n\
         library_name: {library}\n\
         pipeline_tag: sentence-similarity\n\
         tags:\n\
         - semantic-search\n\
         - loriot\n\
         ---\n\n\
         # {kind} for product search\n\n\
         Queries and product titles become unit vectors whose inner product says how well the \
         product answers the query. Trained with Loriot on `{base}`.\n\n",
        Value::from(base),
    );
    card += "## Results\n\n";
    card += &results(settings.best_metric, &state.evaluations);
    card += "\n## Data\n\n| rows | number | SHA-256 of texts and labels |\n|---|---|---|\n";
    for (name, data) in [("training", &state.run.train), ("evaluation", &state.run.eval)] {
        let DataIdentity { rows, sha256 } = data;
        card += &format!("| {name} | {rows} | `{sha256}` |\n");
    }
    card += "\n## Settings\n\n| setting | value |\n|---|---|\n";
    for (name, value) in settings_rows(state) {
        let _ = writeln!(card, "| {name} | {value} |");
    }
    card
}

fn results(best_metric: BestMetric, evaluations: &[Evaluation]) -> String {
    let best = best_metric.best(evaluations).map(|best| best.epoch);
    let mut table = "| epoch | ROC-AUC | per query | average precision | loss |\n\
                     |---|---|---|---|---|\n"
        .to_owned();
    for evaluation in evaluations {
        let epoch = match evaluation.epoch {
            -1 => "before training".to_owned(),
            epoch if Some(epoch) == best => format!("**{epoch}** (best {best_metric})"),
            epoch => epoch.to_string(),
        };
        let per_query = evaluation.roc_auc_per_query;
        let per_query = per_query.map_or_else(|| "–".to_owned(), |value| format!("{value:.4}"));
        let _ = writeln!(
            table,
            "| {epoch} | {:.4} | {per_query} | {:.4} | {:.4} |",
            evaluation.roc_auc, evaluation.average_precision, evaluation.loss
        );
    }
    table
}

fn settings_rows(state: &State) -> Vec<(String, String)> {
    let to_map = |value| match value {
        Value::Object(map) => map,
        _ => serde_json::Map::new(),
    };
    let run = &state.run;
    let mut rows = Vec::new();
    let mut model = to_map(as_json(&run.model));
    let computation = to_map(model.remove("computation").unwrap_or_default());
    let parts = [model, to_map(as_json(&run.trained)), to_map(as_json(&run.settings))];
    for (name, value) in parts.into_iter().flatten().chain(computation) {
        if !value.is_null() {
            rows.push((name, format!("`{value}`")));
        }
    }
    rows.push(("instruction set".into(), format!("`{}`", state.isa)));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::tests::evaluation;
    use crate::state::tests::state;

    #[test]
    fn the_card_tells_base_results_data_and_settings() {
        let evaluations = vec![evaluation(-1, 0.61, 0.3), evaluation(0, 0.75, 0.2)];
        let card = model_card("org/base", &State { step: 3, epoch: 1, evaluations, ..state() });
        for expected in [
            "base_model: \"org/base\"\nlibrary_name: peft\n",
            "| before training | 0.6100 | – | 0.5000 | 0.3000 |\n",
            "| **0** (best roc_auc) | 0.7500 | – | 0.5000 | 0.2000 |\n",
            "| training | 10 | `dddd",
            "| rank | `8` |\n",
            "| learning_rate | `0.0005` |\n",
            "| precision | `\"f32\"` |\n",
            "| hidden_dropout | `0.1` |\n",
        ] {
            assert!(card.contains(expected), "{expected} is not in\n{card}");
        }
    }
}
