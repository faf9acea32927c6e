//! The part of `loriot eval` that searches a whole catalogue for the queries of the rows.

use super::common::RowOptions;
use super::eval_text::{differences_json, interval_json, number, range};
use super::texts::{TextVectors, Texts};
use crate::message::message;
use crate::table;
use loriot_data::{LabelScale, Pair, read_texts};
use loriot_eval::retrieval::N_RESULTS;
use loriot_eval::{Measured, Retrieval, Retrieved};
use loriot_index::{Identity, Isa, Vectors, any_row, search_exact};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::path::PathBuf;

/// Queries that are searched for together: each takes 100 results in memory.
const BATCH_QUERIES: usize = 1024;

/// The titles of the files `paths`; where there are none, those of the rows.
pub fn titles(paths: &[PathBuf], pairs: &[Pair], rows: &RowOptions) -> anyhow::Result<Vec<String>> {
    if paths.is_empty() {
        return Ok(pairs.iter().map(|pair| pair.product_title.clone()).collect());
    }
    let read = read_texts(paths, "product_title", &rows.read_options()?)?;
    super::common::report_notes(&read);
    let (texts, skipped) = read.read_all()?;
    super::common::report_skipped(&skipped);
    Ok(texts.into_iter().map(|text| text.text).collect())
}

/// What the judgements call right.
#[derive(Clone, Copy, Debug)]
pub enum Right {
    /// A grade of at least this, on the scale of the rows' grades.
    Grade(f32),
    /// A label of at least this, from 0 to 1.
    Label(f32),
    /// A label above this.
    LabelAbove(f32),
}

impl Right {
    /// `--relevant-grade`, which is on the scale of the file: of its grades where every row has one, else of its
    /// labels, which were read on `scale`. `None` where it is not on that scale.
    pub fn of_grade(
        grade: f32,
        pairs: &[Pair],
        read: Option<LabelScale>,
        scale: LabelScale,
    ) -> Option<Right> {
        if pairs.iter().all(|pair| pair.grade.is_some()) {
            return match read {
                Some(scale) => scale.apply(grade).map(Right::Grade),
                None => Some(Right::Grade(grade)),
            };
        }
        scale.apply(grade).map(Right::Label)
    }

    /// The places of the titles that are right for each query. A title judged more than once is right if its
    /// judgements' mean is.
    fn titles(self, pairs: &[Pair], texts: &Texts<'_>) -> Vec<Vec<u32>> {
        let mut judged: Vec<HashMap<u32, (f64, u32)>> = vec![HashMap::new(); texts.queries.len()];
        for (row, pair) in pairs.iter().enumerate() {
            let value = match self {
                Right::Grade(_) => pair.grade.unwrap_or(0.0),
                Right::Label(_) | Right::LabelAbove(_) => pair.relevance_label,
            };
            let titles = &mut judged[texts.query_of[row] as usize];
            let (sum, n) = titles.entry(texts.title_of[row]).or_default();
            *sum += f64::from(value);
            *n += 1;
        }
        let is_right = |mean: f32| match self {
            Right::Grade(least) | Right::Label(least) => mean >= least,
            Right::LabelAbove(below) => mean > below,
        };
        let of_query = |titles: HashMap<u32, (f64, u32)>| -> Vec<u32> {
            let means = titles.into_iter().map(|(title, (sum, n))| (title, sum / f64::from(n)));
            means.filter(|(_, mean)| is_right(*mean as f32)).map(|(title, _)| title).collect()
        };
        judged.into_iter().map(of_query).collect()
    }
}

/// Is given a query's place, the places of its results and their cosines, and puts other scores in the place of those.
type Rescore<'a> = &'a dyn Fn(u32, &[u32], &mut [f64]);

/// The queries of some rows, and what is right for each in a catalogue.
pub struct Task<'a> {
    texts: &'a Texts<'a>,
    /// Places of titles.
    right: Vec<Vec<u32>>,
}

impl<'a> Task<'a> {
    /// What is right by `right`; says so where the catalogue lacks some of it.
    pub fn new(texts: &'a Texts<'a>, pairs: &[Pair], right: Right) -> Task<'a> {
        let right = right.titles(pairs, texts);
        let mut is_there = vec![false; texts.titles.len()];
        texts.catalogue.iter().for_each(|&title| is_there[title as usize] = true);
        let n_right = right.iter().flatten().count();
        let n_lacking = right.iter().flatten().filter(|title| !is_there[**title as usize]).count();
        if n_lacking > 0 {
            message!(
                "note: {n_lacking} of {n_right} right products are not in the catalogue, and count as not found"
            );
        }
        Task { texts, right }
    }

    /// Titles of the catalogue, each once.
    pub fn n_titles(&self) -> usize {
        self.texts.catalogue.len()
    }

    /// The results of each query with something right, by cosine or as `rescore` has it.
    pub fn results(
        &self,
        vectors: &TextVectors,
        isa: Isa,
        rescore: Option<Rescore<'_>>,
    ) -> Vec<Retrieved> {
        let dim = vectors.dim;
        let rows = self.texts.catalogue.iter().flat_map(|&title| vectors.title(title));
        let catalogue = Vectors::new(dim, Identity([0; 32]), rows.copied().collect());
        let asked = (0..self.right.len()).filter(|&query| !self.right[query].is_empty());
        let asked: Vec<usize> = asked.collect();
        let mut results = Vec::new();
        for queries in asked.chunks(BATCH_QUERIES) {
            let query_qd: Vec<f32> =
                queries.iter().flat_map(|&query| vectors.query(query as u32)).copied().collect();
            let hits = search_exact(isa, &catalogue, &query_qd, N_RESULTS, any_row);
            for (&query, hits) in queries.iter().zip(hits) {
                let titles: Vec<u32> =
                    hits.iter().map(|hit| self.texts.catalogue[hit.row.index()]).collect();
                let mut scores: Vec<f64> = hits.iter().map(|hit| f64::from(hit.score)).collect();
                if let Some(rescore) = rescore {
                    rescore(query as u32, &titles, &mut scores);
                }
                let mut order: Vec<usize> = (0..titles.len()).collect();
                order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
                let right = &self.right[query];
                results.push(Retrieved {
                    scores: order.iter().map(|&at| scores[at]).collect(),
                    relevant: order.iter().map(|&at| right.contains(&titles[at])).collect(),
                    n_relevant: right.len(),
                });
            }
        }
        results
    }
}

/// The table of what was found in a catalogue of `n_titles`; `names` are the base's and the model's.
pub fn to_text(found: &Retrieval, n_titles: usize, names: [&str; 2]) -> String {
    let head = format!(
        "\nwhole catalogue: {n_titles} titles, {} queries with something right\n\n",
        found.n_queries
    );
    let Some((base, differences)) = found.base.as_ref().zip(found.differences.as_ref()) else {
        let row = |m: &Measured| vec![m.metric.to_string(), number(m.value), range(m.interval)];
        let rows: Vec<_> = found.model.iter().map(row).collect();
        return head + &table::render(&["metric", "value", "interval"], &rows);
    };
    let rows = found.model.iter().zip(base).zip(differences).map(|((m, b), d)| {
        vec![
            m.metric.to_string(),
            number(b.value),
            number(m.value),
            d.value.map_or_else(|| "–".into(), |value| format!("{value:+.4}")),
            range(d.interval),
        ]
    });
    let header = ["metric", names[0], names[1], "difference", "interval"];
    head + &table::render(&header, &rows.collect::<Vec<_>>())
}

/// `{"titles":…,"queries":…,"recall@10":…,…,"intervals":{…},"base":{…},"difference":{…}}`.
pub fn to_json(found: &Retrieval, n_titles: usize) -> Value {
    let figures = |measured: &[Measured]| -> Map<String, Value> {
        let mut object: Map<String, Value> =
            measured.iter().map(|m| (m.metric.to_string(), m.value.into())).collect();
        let intervals: Map<String, Value> = measured
            .iter()
            .filter_map(|m| Some((m.metric.to_string(), interval_json(m.interval?))))
            .collect();
        object.insert("intervals".into(), intervals.into());
        object
    };
    let mut object = figures(&found.model);
    object.insert("titles".into(), json!(n_titles));
    object.insert("queries".into(), json!(found.n_queries));
    if let Some(base) = &found.base {
        object.insert("base".into(), figures(base).into());
    }
    if let Some(differences) = &found.differences {
        object.insert("difference".into(), differences_json(differences).into());
    }
    object.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(query: &str, title: &str, label: f32, grade: Option<f32>) -> Pair {
        Pair {
            query: query.into(),
            product_title: title.into(),
            relevance_label: label,
            id: None,
            grade,
            line: 1,
            file_idx: 0,
        }
    }

    #[test]
    fn a_grade_is_on_the_scale_of_the_file() {
        let graded = [pair("a", "x", 1.0, Some(2.67)), pair("a", "y", 0.0, Some(1.0))];
        let scale = LabelScale::new(1.0, 3.0).unwrap();
        let right = |pairs: &[Pair], grade, read, scale| {
            let texts = Texts::new(pairs, &[]);
            let right = Right::of_grade(grade, pairs, read, scale)?;
            Some(
                right
                    .titles(pairs, &texts)
                    .into_iter()
                    .map(|titles| titles.len())
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(right(&graded, 2.67, None, LabelScale::UNIT), Some(vec![1]));
        assert_eq!(right(&graded, 2.68, None, LabelScale::UNIT), Some(vec![0]));
        // Labels that were 1 to 3 in the file.
        let labelled =
            [pair("a", "x", scale.apply(2.33).unwrap(), None), pair("b", "x", 0.5, None)];
        assert_eq!(right(&labelled, 2.33, None, scale), Some(vec![1, 0]));
        assert_eq!(right(&labelled, 2.0, None, scale), Some(vec![1, 1]));
        assert_eq!(right(&labelled, 3.5, None, scale), None, "no such label");
    }

    #[test]
    fn a_title_judged_twice_is_right_by_its_mean() {
        let pairs =
            [pair("a", "x", 1.0, None), pair("a", "x", 0.0, None), pair("a", "y", 1.0, None)];
        let texts = Texts::new(&pairs, &[]);
        assert_eq!(Right::LabelAbove(0.5).titles(&pairs, &texts), [vec![1]]);
    }

    #[test]
    fn what_is_found_is_ordered_by_the_score_and_another_score_changes_the_order() {
        let pairs = [pair("a", "x", 0.0, None), pair("a", "y", 1.0, None)];
        let catalogue = ["x", "y", "z"].map(str::to_owned);
        let texts = Texts::new(&pairs, &catalogue);
        let vectors = TextVectors {
            query_qd: vec![1.0, 0.0],
            title_td: vec![1.0, 0.0, 0.8, 0.6, 0.0, 1.0],
            dim: 2,
        };
        let task = Task::new(&texts, &pairs, Right::LabelAbove(0.5));
        let isa = Isa::best();
        let [found] = &task.results(&vectors, isa, None)[..] else { panic!("one query") };
        assert_eq!((&found.relevant[..], found.n_relevant), (&[false, true, false][..], 1));
        let backwards = |_: u32, titles: &[u32], scores: &mut [f64]| {
            assert_eq!(titles, [0, 1, 2]);
            scores.copy_from_slice(&[0.1, 0.2, 0.15]);
        };
        let [found] = &task.results(&vectors, isa, Some(&backwards))[..] else {
            panic!("one query")
        };
        assert_eq!(found.relevant, [true, false, false]);
        assert_eq!(found.scores, [0.2, 0.15, 0.1]);
    }
}
