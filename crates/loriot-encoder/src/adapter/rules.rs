//! Which linear layers a configuration means, and with what rank and alpha: PEFT's rules.
//!
//! ```text
//! "all-linear"               every linear layer but the pooler, which no vector here depends on
//! a string                   a regular expression that must match the whole name
//! a list                     each entry is a name, or what follows a dot in it
//! exclude_modules            the same, taken away
//! layers_to_transform        only layers of these numbers, unless a list has the whole name
//! rank_, alpha_pattern       the first key with `(.*\.)?KEY$` matching the name
//! bias, modules_to_save      tensors that are trained whole ([`whole`])
//! ```
//!
//! Names are those of the model as it was wrapped: `encoder.layer.0.…` after a prefix.

use super::config::LoraConfig;
use super::targets::{ALL_LINEAR, Targets};
use super::whole;
use crate::architecture::{Family, LinearKind, LinearSite, TensorSpec};
use crate::config::Config;
use crate::error::AdapterError;
use regex::Regex;
use std::collections::BTreeSet;

/// A layer that a configuration means.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Planned {
    pub(super) site: LinearSite,
    pub(super) r: usize,
    pub(super) alpha: f64,
}

/// What a configuration means in one model.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Plan {
    /// What the model's names begin with.
    prefix: String,
    /// In the order of the forward pass.
    pub(super) modules: Vec<Planned>,
    /// Tensors that are trained whole, in the order of the model's.
    pub(super) whole: Vec<TensorSpec>,
    /// Whether the rules pick the pooler as well.
    pub(super) pooler: bool,
}

/// Applies the rules to a model whose module names begin with `prefix`.
pub(super) fn plan(lora: &LoraConfig, model: &Config, prefix: &str) -> Result<Plan, AdapterError> {
    let family = model.family;
    let rules = Rules::new(lora)?;
    let ranks = Patterns::new(&lora.rank_pattern)?;
    let alphas = Patterns::new(&lora.alpha_pattern)?;
    let planned = |site: LinearSite| {
        let name = format!("{prefix}{}", family.module_name(site));
        rules.pick(&name).then(|| Planned {
            site,
            r: ranks.find(&name).unwrap_or(lora.r),
            alpha: alphas.find(&name).unwrap_or(lora.alpha),
        })
    };
    let modules: Vec<Planned> = family.linear_sites(model.n_layers).filter_map(planned).collect();
    let saved = whole::saved(&lora.modules_to_save, model, prefix)?;
    Ok(Plan {
        prefix: prefix.to_owned(),
        whole: whole::roles(lora.bias, &saved, &modules, model),
        modules,
        pooler: lora.targets != Targets::AllLinear
            && rules.pick(&format!("{prefix}{}", family.pooler_name())),
    })
}

/// Refuses targets, as a user gives them, that mean nothing in this model.
pub(super) fn check_asked(
    lora: &LoraConfig,
    plan: &Plan,
    model: &Config,
) -> Result<(), AdapterError> {
    let (family, n_layers) = (model.family, model.n_layers);
    let kinds: Vec<LinearKind> = family.linear_kinds().collect();
    let no_target = |target: &str| AdapterError::NoTarget {
        target: target.to_owned(),
        available: format!("{}, {ALL_LINEAR}", short_names(family, &kinds).join(", ")),
    };
    let sites: Vec<String> =
        family.linear_sites(n_layers).map(|site| family.module_name(site)).collect();
    if let Targets::Names(names) = &lora.targets {
        let stranger = names.iter().find(|name| !sites.iter().any(|site| ends_with(site, name)));
        if let Some(stranger) = stranger {
            return Err(no_target(stranger));
        }
    }
    whole::check_asked(&lora.modules_to_save, model)?;
    let beyond = lora.layers.iter().flatten().find(|&&layer| layer >= n_layers);
    if let Some(layer) = beyond {
        return Err(AdapterError::Range {
            what: "`layers_to_transform`",
            found: format!("{layer} in a model of {n_layers} layers"),
            expected: "numbers from 0 of layers that the model has",
        });
    }
    match (&lora.targets, plan.modules.is_empty()) {
        (_, false) => Ok(()),
        (Targets::AllLinear, true) => Err(no_target(ALL_LINEAR)),
        (Targets::Pattern(pattern), true) => Err(no_target(pattern)),
        (Targets::Names(names), true) => Err(no_target(&names.join(","))),
    }
}

/// `lora` rewritten, where it must be, so that it means `plan` and no more in a model without a
/// prefix, also for PEFT after the file's keys have been sorted.
///
/// PEFT matches a bare `dense` with `pooler.dense` too and would then miss that adapter's tensors;
/// an expression written for a wrapped model would match nothing without the wrapper.
pub(super) fn canonical(
    lora: &LoraConfig,
    wanted: &Plan,
    model: &Config,
) -> Result<LoraConfig, AdapterError> {
    let name = |planned: &Planned| model.family.module_name(planned.site);
    let mut config = lora.clone();
    config.rank_pattern.sort_by(|a, b| a.0.cmp(&b.0));
    config.alpha_pattern.sort_by(|a, b| a.0.cmp(&b.0));
    for targets in [Some(&mut config.targets), config.exclude.as_mut()].into_iter().flatten() {
        if let Targets::Names(names) = targets {
            names.sort();
            names.dedup();
        }
    }
    let sites = |plan: &Plan| plan.modules.iter().map(|planned| planned.site).collect::<Vec<_>>();
    let meant = plan(&config, model, "")?;
    let is_right = sites(&meant) == sites(wanted) && !meant.pooler;
    if !is_right || config.targets == Targets::AllLinear {
        config.targets = Targets::Names(names_of(&sites(wanted), model));
        (config.exclude, config.layers, config.layers_pattern) = (None, None, Vec::new());
    }
    config.modules_to_save = whole::canonical(&lora.modules_to_save, &wanted.prefix, model)?;
    if plan(&config, model, "")?.modules != wanted.modules {
        let differing = |differs: fn(&Planned, &LoraConfig) -> bool| {
            wanted.modules.iter().filter(move |planned| differs(planned, lora))
        };
        let ranks = differing(|planned, lora| planned.r != lora.r);
        config.rank_pattern = ranks.map(|planned| (name(planned), planned.r)).collect();
        let alphas = differing(|planned, lora| planned.alpha != lora.alpha);
        config.alpha_pattern = alphas.map(|planned| (name(planned), planned.alpha)).collect();
        config.rank_pattern.sort_by(|a, b| a.0.cmp(&b.0));
        config.alpha_pattern.sort_by(|a, b| a.0.cmp(&b.0));
    }
    Ok(config)
}

/// The shortest list that means these layers: names of kinds where they mean no others, else
/// whole names.
fn names_of(sites: &[LinearSite], model: &Config) -> Vec<String> {
    let family = model.family;
    let kinds: BTreeSet<LinearKind> = sites.iter().map(|site| site.kind).collect();
    let short = short_names(family, &kinds.into_iter().collect::<Vec<_>>());
    let means =
        |site: &LinearSite| short.iter().any(|name| ends_with(&family.module_name(*site), name));
    if family.linear_sites(model.n_layers).filter(means).eq(sites.iter().copied()) {
        return short;
    }
    let mut whole: Vec<String> = sites.iter().map(|&site| family.module_name(site)).collect();
    whole.sort();
    whole
}

/// What PEFT's users call these kinds, sorted: `query`, `attention.output.dense`.
fn short_names(family: &Family, kinds: &[LinearKind]) -> Vec<String> {
    let short = |&kind: &LinearKind| {
        let suffix = family.suffix(kind);
        suffix.strip_prefix(family.unsaid).unwrap_or(suffix).to_owned()
    };
    let mut names: Vec<String> = kinds.iter().map(short).collect();
    names.sort();
    names
}

/// Whether `name` is `end`, or ends with it after a dot.
fn ends_with(name: &str, end: &str) -> bool {
    name.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// The compiled rules of one configuration.
struct Rules {
    targets: Matcher,
    exclude: Option<Matcher>,
    layers: Option<(Vec<usize>, Vec<Regex>)>,
}

impl Rules {
    fn new(lora: &LoraConfig) -> Result<Rules, AdapterError> {
        let layers = match (&lora.layers, lora.layers_pattern.as_slice()) {
            (None, _) => None,
            (Some(layers), []) => Some((layers.clone(), vec![regex(r"^.*?\.[^.]*\.([0-9]+)\.")?])),
            (Some(layers), patterns) => {
                let before =
                    |pattern: &String| regex(&format!(r"^(?:|.*?\.){pattern}\.([0-9]+)\."));
                Some((layers.clone(), patterns.iter().map(before).collect::<Result<_, _>>()?))
            }
        };
        Ok(Rules {
            targets: Matcher::new(&lora.targets)?,
            exclude: lora.exclude.as_ref().map(Matcher::new).transpose()?,
            layers,
        })
    }

    fn pick(&self, name: &str) -> bool {
        if self.exclude.as_ref().is_some_and(|exclude| exclude.matches(name)) {
            return false;
        }
        self.targets.is_whole_name(name)
            || (self.targets.matches(name) && self.layers_include(name))
    }

    fn layers_include(&self, name: &str) -> bool {
        let Some((layers, patterns)) = &self.layers else { return true };
        let captures = patterns.iter().find_map(|pattern| pattern.captures(name));
        let layer = captures.and_then(|captures| captures.get(1)?.as_str().parse().ok());
        layer.is_some_and(|layer: usize| layers.contains(&layer))
    }
}

enum Matcher {
    All,
    Pattern(Regex),
    Names(Vec<String>),
}

impl Matcher {
    fn new(targets: &Targets) -> Result<Matcher, AdapterError> {
        Ok(match targets {
            Targets::AllLinear => Matcher::All,
            Targets::Pattern(pattern) => {
                // Alone first, so that no bracket of the pattern can close ours.
                regex(pattern)?;
                Matcher::Pattern(regex(&format!(r"\A(?:{pattern})\z"))?)
            }
            Targets::Names(names) => Matcher::Names(names.clone()),
        })
    }

    fn matches(&self, name: &str) -> bool {
        match self {
            Matcher::All => true,
            Matcher::Pattern(pattern) => pattern.is_match(name),
            Matcher::Names(names) => names.iter().any(|end| ends_with(name, end)),
        }
    }

    fn is_whole_name(&self, name: &str) -> bool {
        matches!(self, Matcher::Names(names) if names.iter().any(|whole| whole == name))
    }
}

/// The keys of a `rank_pattern` or `alpha_pattern`, compiled, in their order.
struct Patterns<T>(Vec<(Regex, T)>);

impl<T: Copy> Patterns<T> {
    fn new(patterns: &[(String, T)]) -> Result<Patterns<T>, AdapterError> {
        let compile = |(key, value): &(String, T)| {
            regex(key)?;
            Ok((regex(&format!(r"^(?:.*\.)?(?:{key})$"))?, *value))
        };
        patterns.iter().map(compile).collect::<Result<_, _>>().map(Patterns)
    }

    fn find(&self, name: &str) -> Option<T> {
        self.0.iter().find(|(pattern, _)| pattern.is_match(name)).map(|(_, value)| *value)
    }
}

fn regex(pattern: &str) -> Result<Regex, AdapterError> {
    Regex::new(pattern).map_err(|error| {
        // The error's text has several lines: a drawing of the place, then the problem.
        let text = error.to_string();
        let problem = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
        AdapterError::Pattern { pattern: pattern.to_owned(), problem: problem.to_owned() }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architecture::BERT;
    use crate::config::tests::config as model;

    fn names(list: &[&str]) -> Targets {
        Targets::Names(list.iter().map(|name| name.to_string()).collect())
    }

    fn lora(targets: Targets) -> LoraConfig {
        LoraConfig { targets, ..LoraConfig::default() }
    }

    /// What a configuration means in two layers, as `layer.suffix`.
    fn meant(lora: &LoraConfig) -> Vec<String> {
        let plan = plan(lora, &model(), "").unwrap();
        let short = |p: &Planned| format!("{}.{}", p.site.layer, BERT.suffix(p.site.kind));
        plan.modules.iter().map(short).collect()
    }

    #[test]
    fn a_list_matches_whole_names_and_what_follows_a_dot() {
        assert_eq!(
            meant(&lora(names(&["query"]))),
            ["0.attention.self.query", "1.attention.self.query"]
        );
        assert_eq!(meant(&lora(names(&["uery"]))), [""; 0]);
        assert_eq!(meant(&lora(names(&["dense"]))).len(), 6);
        // As in PEFT, the end `output.dense` is also that of attention's output.
        assert_eq!(meant(&lora(names(&["output.dense"]))).len(), 4);
        let whole = names(&["encoder.layer.1.output.dense"]);
        assert_eq!(meant(&lora(whole)), ["1.output.dense"]);
        assert_eq!(meant(&lora(Targets::AllLinear)).len(), 12);
    }

    #[test]
    fn a_string_must_match_the_whole_name() {
        let pattern = |text: &str| meant(&lora(Targets::Pattern(text.into())));
        assert_eq!(pattern(r".*\.1\..*(query|value)").len(), 2);
        assert_eq!(pattern("query"), [""; 0]);
        assert_eq!(pattern("encoder|.*query").len(), 2);
    }

    #[test]
    fn exclusions_and_layers_narrow_the_targets() {
        let mut config = lora(names(&["query", "value"]));
        config.exclude = Some(names(&["layer.0.attention.self.value"]));
        assert_eq!(meant(&config).len(), 3);
        config.exclude = Some(Targets::Pattern(".*query".into()));
        assert_eq!(meant(&config), ["0.attention.self.value", "1.attention.self.value"]);
        config.layers = Some(vec![1]);
        assert_eq!(meant(&config), ["1.attention.self.value"]);
        config.layers_pattern = vec!["layer".into()];
        assert_eq!(meant(&config), ["1.attention.self.value"]);
        config.layers_pattern = vec!["h".into()];
        assert_eq!(meant(&config), [""; 0]);
    }

    #[test]
    fn the_first_matching_key_gives_rank_and_alpha() {
        let mut config = lora(names(&["query", "key"]));
        config.rank_pattern = vec![("layer.0.attention.self.query".into(), 2), ("query".into(), 4)];
        config.alpha_pattern = vec![(r"^encoder\.layer\.1\..*".into(), 3.0)];
        let plan = plan(&config, &model(), "").unwrap();
        let found: Vec<_> = plan.modules.iter().map(|p| (p.r, p.alpha)).collect();
        assert_eq!(found, [(2, 8.0), (8, 8.0), (4, 3.0), (8, 3.0)]);
    }

    #[test]
    fn written_targets_mean_the_same_and_never_the_pooler() {
        let rewritten = |config: &LoraConfig, prefix: &str| {
            let wanted = plan(config, &model(), prefix).unwrap();
            let config = canonical(config, &wanted, &model()).unwrap();
            let again = plan(&config, &model(), "").unwrap();
            assert_eq!(again.modules, wanted.modules);
            assert!(!again.pooler);
            config
        };
        let dense = ["attention.output.dense", "intermediate.dense", "output.dense"];
        assert_eq!(rewritten(&lora(names(&["dense"])), "").targets, names(&dense));
        let all = [
            "attention.output.dense",
            "intermediate.dense",
            "key",
            "output.dense",
            "query",
            "value",
        ];
        assert_eq!(rewritten(&lora(Targets::AllLinear), "").targets, names(&all));
        assert_eq!(
            rewritten(&lora(names(&["value", "key"])), "").targets,
            names(&["key", "value"])
        );
        // A whole-name list where a short one would mean more.
        let outputs = Targets::Pattern(r".*\d\.output\.dense".into());
        assert_eq!(rewritten(&lora(outputs.clone()), "").targets, outputs);
        let wrapped = Targets::Pattern(r"model\.encoder\.layer\.\d\.output\.dense".into());
        let whole = ["encoder.layer.0.output.dense", "encoder.layer.1.output.dense"];
        assert_eq!(rewritten(&lora(wrapped), "model.").targets, names(&whole));
    }

    #[test]
    fn overlapping_patterns_keep_their_meaning_when_their_keys_are_sorted() {
        let mut config = lora(names(&["query"]));
        config.rank_pattern = vec![("query".into(), 4), (".*0.*query".into(), 2)];
        let wanted = plan(&config, &model(), "").unwrap();
        let written = canonical(&config, &wanted, &model()).unwrap();
        assert_eq!(plan(&written, &model(), "").unwrap(), wanted);
        assert_eq!(written.rank_pattern.len(), 2);
    }

    #[test]
    fn a_target_that_matches_nothing_names_what_there_is() {
        let config = lora(names(&["query", "q_proj"]));
        let error =
            check_asked(&config, &plan(&config, &model(), "").unwrap(), &model()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "target `q_proj` matches no linear layer; there are: attention.output.dense, \
             intermediate.dense, key, output.dense, query, value, all-linear"
        );
        for targets in [names(&["pooler.dense"]), Targets::Pattern("x".into()), names(&[])] {
            let config = lora(targets);
            assert!(check_asked(&config, &plan(&config, &model(), "").unwrap(), &model()).is_err());
        }
    }

    #[test]
    fn a_broken_expression_is_an_error_and_not_a_panic() {
        for pattern in ["(", "(?=look)", "a)(b", r"(\w{1000}){1000}{1000}"] {
            let error = plan(&lora(Targets::Pattern(pattern.into())), &model(), "").unwrap_err();
            assert!(error.to_string().contains("is not a regular expression"), "{error}");
        }
    }
}
