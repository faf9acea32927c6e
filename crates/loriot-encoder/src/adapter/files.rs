//! An adapter's folder: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! ```text
//! base_model.model.<module>.lora_A.weight    (r, i)
//! base_model.model.<module>.lora_B.weight    (o, r)
//! base_model.model.<module>.lora_magnitude_vector (o), of DoRA
//! base_model.model.<module>.base_layer.bias  (o), an adapted layer's bias where biases are trained
//! base_model.model.<tensor of the model>     other biases, and modules that are trained whole
//! ```
//!
//! A module's name may begin with what its training wrapped the model in: `model.`, `bert.`,
//! `0.auto_model.`. Numbers are read from f32, f16 and bf16 and written in f32.

use super::config::LoraConfig;
use super::rules::{self, Plan};
use super::whole::{self, WholeTensor};
use super::{Adapter, Factor, LoraModule, ROOT};
use crate::architecture::{Family, LinearSite, Role, TensorSpec};
use crate::config::Config;
use crate::error::AdapterError;
use crate::weights::tensor_file::{TensorFile, write_tensors};
use loriot_files::OutputError;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

const FILE: &str = "adapter_model.safetensors";

impl Adapter {
    /// Reads the adapter in `dir`, which must fit a model of this configuration exactly.
    pub fn open(dir: &Path, config: &Config) -> Result<Adapter, AdapterError> {
        let (lora, mut notes) = LoraConfig::open(dir)?;
        let path = dir.join(FILE);
        if !path.exists() && dir.join("adapter_model.bin").exists() {
            return Err(AdapterError::Pickle { dir: dir.to_owned() });
        }
        let file = TensorFile::open(&path)?;
        let found = Found::collect(&file, config, lora.use_dora)?;
        let plan = rules::plan(&lora, config, &found.prefix)?;
        found.check_coverage(&file, &plan, config.family)?;
        if found.pooler {
            notes.push(format!(
                "`{}` also trains the pooler, which embeddings do not use: left out",
                path.display()
            ));
        }
        let modules = plan.modules.iter().map(|planned| {
            let (o, i) = planned.site.kind.shape(config);
            let name = config.family.module_name(planned.site);
            let module = format!("{ROOT}{}{name}", found.prefix);
            let numbers = |factor: Factor, shape: &[usize]| -> Result<Vec<f32>, AdapterError> {
                let name = format!("{module}{}", factor.end());
                file.check_shape(&name, shape)?;
                file.check_finite(&name)?;
                Ok(file.f32s(&name).into_owned())
            };
            Ok(LoraModule {
                site: planned.site,
                r: planned.r,
                scale: lora.scale(planned.r, planned.alpha),
                a_ri: numbers(Factor::A, &[planned.r, i])?,
                b_or: numbers(Factor::B, &[o, planned.r])?,
                magnitude_o: match lora.use_dora {
                    true => Some(numbers(Factor::Magnitude, &[o])?),
                    false => None,
                },
                start: None,
            })
        });
        let whole = plan.whole.iter().map(|TensorSpec { role, shape, .. }| {
            let key = &found.whole[role];
            file.check_shape(key, shape)?;
            file.check_finite(key)?;
            Ok(WholeTensor {
                role: *role,
                shape: shape.clone(),
                values: file.f32s(key).into_owned(),
            })
        });
        Ok(Adapter {
            family: config.family,
            modules: modules.collect::<Result<_, AdapterError>>()?,
            whole: whole.collect::<Result<_, AdapterError>>()?,
            config: rules::canonical(&lora, &plan, config)?,
            notes,
        })
    }

    /// Writes both files, of the adapter as it stands alone, into the existing folder `dir`.
    pub fn write(&self, dir: &Path) -> Result<(), OutputError> {
        let adapter = self.standing_alone();
        adapter.config.write(dir)?;
        let mut shapes = Vec::new();
        let mut values: HashMap<String, &[f32]> = HashMap::new();
        for module in &adapter.modules {
            for factor in module.factors() {
                let key = factor.key(self.family, module.site);
                shapes.push((key.clone(), module.shape(factor)));
                values.insert(key, module.factor(factor));
            }
        }
        for tensor in &adapter.whole {
            let key = self.key(tensor.role);
            shapes.push((key.clone(), tensor.shape.clone()));
            values.insert(key, &tensor.values);
        }
        write_tensors(&dir.join(FILE), shapes, |name| Cow::Borrowed(values[name]))
    }

    /// The key in PEFT's files of a tensor that the adapter holds whole.
    pub(crate) fn key(&self, role: Role) -> String {
        whole::key(self.family, role, |site| self.modules.iter().any(|module| module.site == site))
    }
}

/// What the keys of a file say.
struct Found {
    /// What stands between [`ROOT`] and the names of a bare model.
    prefix: String,
    sites: BTreeSet<LinearSite>,
    /// Keys of tensors of the model.
    whole: BTreeMap<Role, String>,
    pooler: bool,
}

impl Found {
    fn collect(file: &TensorFile, config: &Config, is_dora: bool) -> Result<Found, AdapterError> {
        let family = config.family;
        let sites = family.linear_sites(config.n_layers);
        let sites: HashMap<String, LinearSite> =
            sites.map(|site| (family.module_name(site), site)).collect();
        let specs = family.tensors(config).into_iter();
        let mut tensors: HashMap<String, TensorSpec> =
            specs.map(|spec| (spec.name.clone(), spec)).collect();
        let mut found = Found {
            prefix: String::new(),
            sites: BTreeSet::new(),
            whole: BTreeMap::new(),
            pooler: false,
        };
        for (at, key) in file.names().enumerate() {
            let stranger = || Err(found_stranger(file, key));
            let Some(whole) = key.strip_prefix(ROOT) else { return stranger() };
            let factors =
                Factor::ALL.iter().filter(|&&factor| is_dora || factor != Factor::Magnitude);
            let factor = factors.into_iter().find_map(|factor| whole.strip_suffix(factor.end()));
            let name = family.unwrapped(factor.unwrap_or(whole));
            let prefix = &whole[..factor.unwrap_or(whole).len() - name.len()];
            if at == 0 {
                found.prefix = prefix.to_owned();
            }
            if prefix != found.prefix {
                return stranger();
            }
            if factor.is_some() {
                match sites.get(name) {
                    Some(&site) => _ = found.sites.insert(site),
                    None if name == family.pooler_name() => found.pooler = true,
                    None => return stranger(),
                }
                continue;
            }
            match tensors.remove(&name.replacen(whole::BASE_LAYER, "", 1)) {
                Some(TensorSpec { role: Role::Pooler(_), .. }) => found.pooler = true,
                Some(TensorSpec { role, .. }) => _ = found.whole.insert(role, key.to_owned()),
                None => return stranger(),
            }
        }
        Ok(found)
    }

    /// Refuses a configuration and tensors that mean different layers: PEFT would leave the ones
    /// without tensors as they started, and say so in a warning at best.
    fn check_coverage(
        &self,
        file: &TensorFile,
        plan: &Plan,
        family: &Family,
    ) -> Result<(), AdapterError> {
        let coverage = |problem, site: LinearSite| {
            let (path, module) = (file.path().to_owned(), family.module_name(site));
            Err(AdapterError::Coverage { path, problem, module })
        };
        let planned = |site: &LinearSite| plan.modules.iter().any(|planned| planned.site == *site);
        if let Some(site) = plan.modules.iter().find(|p| !self.sites.contains(&p.site)) {
            return coverage("there is no tensor for a target of the configuration,", site.site);
        }
        if let Some(&site) = self.sites.iter().find(|site| !planned(site)) {
            return coverage("there are tensors for what the configuration does not target,", site);
        }
        if self.sites.is_empty() {
            return Err(found_stranger(file, file.names().next().unwrap_or("none at all")));
        }
        if let Some(spec) = plan.whole.iter().find(|spec| !self.whole.contains_key(&spec.role)) {
            return Err(AdapterError::Coverage {
                path: file.path().to_owned(),
                problem: "there is no tensor for a bias or saved module of the configuration,",
                module: spec.name.clone(),
            });
        }
        let is_planned = |role: &Role| plan.whole.iter().any(|spec| spec.role == *role);
        match self.whole.iter().find(|(role, _)| !is_planned(role)) {
            Some((_, key)) => Err(found_stranger(file, key)),
            None => Ok(()),
        }
    }
}

fn found_stranger(file: &TensorFile, tensor: &str) -> AdapterError {
    AdapterError::Stranger { path: file.path().to_owned(), tensor: tensor.to_owned() }
}
