//! What `loriot eval` prints: tables for people, one JSON object for programs.

use crate::table;
use loriot_eval::{Ceiling, Comparison, Difference, Interval, Measured, Metric, Report};
use serde_json::{Map, Value, json};

/// What was measured on judged lists.
pub struct ListReport {
    /// One model, or two beside each other.
    pub models: Models,
    /// The measures of order of word overlap, as a model of its own.
    pub overlap: Report,
    /// What the labels' own noise allows.
    pub ceiling: Option<Ceiling>,
    /// What the tables call the base, and the model beside it.
    pub names: [&'static str; 2],
}

/// One model, or two beside each other.
pub enum Models {
    /// A model that has no base to compare it with.
    Alone(Report),
    /// A model and its base.
    BesideBase(Comparison),
}

impl ListReport {
    fn model(&self) -> &Report {
        match &self.models {
            Models::Alone(report) => report,
            Models::BesideBase(comparison) => &comparison.model,
        }
    }

    /// One JSON object.
    pub fn to_json(&self) -> Map<String, Value> {
        let mut object = report_json(self.model());
        let overlap = self.overlap.metrics.iter();
        let overlap: Map<String, Value> =
            overlap.map(|m| (m.metric.to_string(), m.value.into())).collect();
        object.insert("word_overlap_roc_auc".into(), overlap["roc_auc"].clone());
        object.insert("word_overlap".into(), overlap.into());
        if let Models::BesideBase(comparison) = &self.models {
            object.insert("base".into(), report_json(&comparison.base).into());
            object.insert("difference".into(), differences_json(&comparison.differences).into());
            if let Some(verdict) = comparison.verdict() {
                object.insert("verdict".into(), verdict.name().into());
                object.insert("verdict_sentence".into(), verdict.to_string().into());
            }
        }
        if let Some(ceiling) = &self.ceiling {
            let Ceiling { n_repeats, noise, within, reader, panel } = ceiling;
            object.insert(
                "ceiling".into(),
                json!({
                    "repeats": n_repeats,
                    "noise_variance": noise,
                    "variance_within_queries": within,
                    "reader": {"roc_auc": reader.pooled, "roc_auc_per_query": reader.per_query},
                    "panel": {"roc_auc": panel.pooled, "roc_auc_per_query": panel.per_query},
                }),
            );
        }
        object
    }

    /// Tables, the verdict after the first.
    pub fn to_text(&self) -> String {
        let Report { n_rows, n_positive, n_queries, .. } = self.model();
        let mut text = format!(
            "{n_rows} rows, {n_positive} positive, {} queries; intervals 95 %\n\n",
            n_queries.unwrap_or(0)
        );
        text += &self.order_table();
        if let Some(ceiling) = &self.ceiling {
            text += &ceiling_text(ceiling);
        }
        if let Models::BesideBase(comparison) = &self.models
            && let Some(verdict) = comparison.verdict()
        {
            text += &format!("\nverdict: {verdict}\n");
        }
        text += "\n";
        text += &match &self.models {
            Models::Alone(report) => alone_table(report),
            Models::BesideBase(comparison) => comparison_tables(comparison, self.names),
        };
        text + &self.thresholds_text()
    }

    /// How word overlap, the base and the model order the rows.
    pub fn order_table(&self) -> String {
        let overlap = |metric: Metric| number(self.overlap.value(metric));
        let difference =
            |d: &Difference| d.value.map_or_else(|| "–".into(), |x| format!("{x:+.4}"));
        let of_order = |metric: &Metric| Metric::OF_ORDER.contains(metric);
        match &self.models {
            Models::Alone(report) => {
                let measured = report.metrics.iter().filter(|m| of_order(&m.metric));
                let row = |m: &Measured| {
                    vec![
                        m.metric.to_string(),
                        overlap(m.metric),
                        number(m.value),
                        range(m.interval),
                    ]
                };
                let header = ["order", "word overlap", "model", "interval"];
                table::render(&header, &measured.map(row).collect::<Vec<_>>())
            }
            Models::BesideBase(Comparison { model, base, differences }) => {
                let row = |((m, b), d): ((&Measured, &Measured), &Difference)| {
                    vec![
                        m.metric.to_string(),
                        overlap(m.metric),
                        number(b.value),
                        number(m.value),
                        difference(d),
                        range(d.interval),
                    ]
                };
                let rows = model.metrics.iter().zip(&base.metrics).zip(differences);
                let rows = rows.filter(|((m, _), _)| of_order(&m.metric)).map(row);
                let [base, name] = self.names;
                let header = ["order", "word overlap", base, name, "difference", "interval"];
                table::render(&header, &rows.collect::<Vec<_>>())
            }
        }
    }

    /// Whose thresholds the best F1 and accuracy are.
    fn thresholds_text(&self) -> String {
        let cuts = |report: &Report| -> Vec<_> {
            report.metrics.iter().filter_map(|m| Some((m.metric, m.threshold?))).collect()
        };
        let cuts_of = cuts(self.model());
        if cuts_of.is_empty() {
            return String::new();
        }
        let mut text = String::from(
            "\nbest_f1 and best_accuracy are at the thresholds that are best on these very rows\n",
        );
        match &self.models {
            Models::Alone(_) => {
                for (metric, cut) in cuts_of {
                    text += &format!("{metric}: positive from a score of {cut:.4} on\n");
                }
            }
            Models::BesideBase(comparison) => {
                text += "(each model's own):\n";
                for ((metric, cut), (_, base_cut)) in
                    cuts_of.into_iter().zip(cuts(&comparison.base))
                {
                    let [base, name] = self.names;
                    text += &format!(
                        "{metric}: positive from {base_cut:.4} on ({base}), {cut:.4} on ({name})\n"
                    );
                }
            }
        }
        text
    }
}

fn ceiling_text(ceiling: &Ceiling) -> String {
    let Ceiling { n_repeats, noise, within, reader, panel } = ceiling;
    format!(
        "\n{n_repeats} repeated judgements differ by a variance of {noise:.3}, of {within:.3} within queries.\n\
         So a perfect reader of titles would score about {:.2} pooled and {:.2} per query,\n\
         a second panel of such judges {:.2} and {:.2}\n",
        reader.pooled, reader.per_query, panel.pooled, panel.per_query
    )
}

/// The metrics that [`ListReport::order_table`] has not.
fn others(report: &Report) -> impl Iterator<Item = &Measured> {
    report.metrics.iter().filter(|m| !Metric::OF_ORDER.contains(&m.metric))
}

fn alone_table(report: &Report) -> String {
    let rows = others(report)
        .map(|m| vec![m.metric.to_string(), number(m.value), range(m.interval), number(random(m))]);
    table::render(&["metric", "value", "interval", "random order"], &rows.collect::<Vec<_>>())
}

/// What differs, with its interval, and below it the intervals of each: side by side they would need more than
/// the 80 columns of a terminal.
fn comparison_tables(comparison: &Comparison, names: [&str; 2]) -> String {
    let [base_name, name] = names;
    let Comparison { model, base, differences } = comparison;
    let differences = differences.iter().filter(|d| !Metric::OF_ORDER.contains(&d.metric));
    let rows = others(model).zip(others(base)).zip(differences).map(|((m, b), d)| {
        vec![
            m.metric.to_string(),
            number(b.value),
            number(m.value),
            d.value.map_or_else(|| "–".into(), |value| format!("{value:+.4}")),
            range(d.interval),
            number(random(m)),
        ]
    });
    let header = ["metric", base_name, name, "difference", "interval", "random order"];
    let mut text = table::render(&header, &rows.collect::<Vec<_>>());
    let both = || model.metrics.iter().zip(&base.metrics);
    let has_interval = both().any(|(m, b)| m.interval.is_some() || b.interval.is_some());
    if has_interval {
        let rows =
            both().map(|(m, b)| vec![m.metric.to_string(), range(b.interval), range(m.interval)]);
        let header = ["interval of", base_name, name];
        text += &format!("\n{}", table::render(&header, &rows.collect::<Vec<_>>()));
    }
    text
}

/// The value of a random order, of metrics for which it depends on the data.
fn random(measured: &Measured) -> Option<f64> {
    measured.random_order
}

/// Four decimals, or a dash.
pub fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "–".into(), |value| format!("{value:.4}"))
}

/// Both ends of an interval.
pub fn range(interval: Option<Interval>) -> String {
    interval.map_or_else(String::new, |range| format!("{:.4}…{:.4}", range.low, range.high))
}

/// `{"roc_auc":…,…,"intervals":{"roc_auc":[…,…]},"thresholds":{…},"random_order":{…},…}`.
fn report_json(report: &Report) -> Map<String, Value> {
    let mut object = Map::new();
    let named = |value: fn(&Measured) -> Option<Value>| -> Map<String, Value> {
        let named = |m: &Measured| Some((m.metric.to_string(), value(m)?));
        report.metrics.iter().filter_map(named).collect()
    };
    object.extend(report.metrics.iter().map(|m| (m.metric.to_string(), m.value.into())));
    object.insert("intervals".into(), named(|m| m.interval.map(interval_json)).into());
    object.insert("thresholds".into(), named(|m| m.threshold.map(Value::from)).into());
    object.insert("random_order".into(), named(|m| m.random_order.map(Value::from)).into());
    object.insert("n_queries_of".into(), named(|m| m.n_queries.map(Value::from)).into());
    object.insert("rows".into(), report.n_rows.into());
    object.insert("positive".into(), report.n_positive.into());
    object.insert("queries".into(), report.n_queries.into());
    object
}

/// `{"roc_auc":…,…,"intervals":{…}}`.
pub fn differences_json(differences: &[Difference]) -> Map<String, Value> {
    let mut object: Map<String, Value> =
        differences.iter().map(|d| (d.metric.to_string(), d.value.into())).collect();
    let intervals =
        differences.iter().filter_map(|d| Some((d.metric.to_string(), interval_json(d.interval?))));
    let intervals: Map<String, Value> = intervals.collect();
    object.insert("intervals".into(), intervals.into());
    object
}

/// `[low, high]`.
pub fn interval_json(interval: Interval) -> Value {
    json!([interval.low, interval.high])
}

#[cfg(test)]
mod tests {
    use super::*;
    use loriot_eval::noise::Order;
    use loriot_eval::{Judged, Options, compare, evaluate};

    /// Both forms of the text, of 40 rows of 8 queries.
    fn texts() -> [String; 2] {
        let scores: Vec<f64> = (0..40).map(|row| f64::from(row * 7 % 40) / 40.0).collect();
        let base_scores: Vec<f64> = (0..40).map(|row| f64::from(row * 3 % 40) / -40.0).collect();
        let labels: Vec<f64> = (0..40).map(|row| f64::from(row % 3 == 0)).collect();
        let queries: Vec<u32> = (0..40).map(|row| row / 5).collect();
        let words: Vec<Vec<u32>> = (0..40).map(|row| vec![row]).collect();
        let judged = Judged {
            scores: &scores,
            labels: &labels,
            queries: Some(&queries),
            grades: None,
            titles: Some(&words),
        };
        let options = Options { n_bootstrap: 100, ..Options::default() };
        let beside = Models::BesideBase(compare(&judged, &base_scores, &options));
        let alone = Models::Alone(evaluate(&judged, &options));
        let order = Order { pooled: 0.8, per_query: 0.7 };
        let ceiling =
            Ceiling { n_repeats: 892, noise: 0.15, within: 0.188, reader: order, panel: order };
        [alone, beside].map(|models| {
            let overlap = evaluate(&judged, &Options { only: Metric::OF_ORDER, ..options.clone() });
            ListReport { models, overlap, ceiling: Some(ceiling), names: ["base", "adapter"] }
                .to_text()
        })
    }

    #[test]
    fn the_tables_fit_a_terminal_of_80_columns() {
        for text in texts() {
            let widest = text.lines().max_by_key(|line| line.chars().count()).unwrap();
            assert!(widest.chars().count() <= 80, "{widest}\n{text}");
            assert!(text.contains("0.") && text.contains('…'), "{text}");
            assert!(text.contains("\nconcordance_unlike  "), "{text}");
            assert!(text.contains("892 repeated judgements"), "{text}");
        }
        assert!(texts()[1].contains("\nverdict: "), "a model beside its base has one");
    }

    #[test]
    fn a_threshold_says_whose_it_is_and_where_it_was_chosen() {
        let [alone, beside] = texts();
        for text in [&alone, &beside] {
            assert!(text.contains("at the thresholds that are best on these very rows"), "{text}");
        }
        let line =
            |text: &str| text.lines().find(|l| l.starts_with("best_f1: ")).unwrap().to_owned();
        assert!(line(&alone).starts_with("best_f1: positive from a score of 0."), "{alone}");
        let said = line(&beside);
        assert!(said.contains("(base), 0.") && said.ends_with("on (adapter)"), "{beside}");
        assert!(said.contains("positive from -0."), "each model has its own: {beside}");
    }
}
