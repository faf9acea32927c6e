//! An adapter's folder: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! ```text
//! base_model.model.<module>.lora_A.weight    (r, i)
//! base_model.model.<module>.lora_B.weight    (o, r)
//! ```
//!
//! A module's name may begin with what its training wrapped the model in: `model.`, `bert.`,
//! `0.auto_model.`. Numbers are read from f32, f16 and bf16 and written in f32.

use super::config::LoraConfig;
use super::rules::{self, Plan};
use super::{Adapter, Factor, LoraModule, ROOT};
use crate::architecture::{Family, LinearSite};
use crate::config::Config;
use crate::error::AdapterError;
use crate::weights::tensor_file::{TensorFile, write_tensors};
use loriot_files::OutputError;
use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
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
        let found = Found::collect(&file, config)?;
        let plan = rules::plan(&lora, config, &found.prefix)?;
        found.check_coverage(&file, &plan, config.family)?;
        if found.pooler {
            notes.push(format!(
                "`{}` also adapts the pooler, which embeddings do not use: left out",
                path.display()
            ));
        }
        let modules = plan.modules.iter().map(|planned| {
            let (o, i) = planned.site.kind.shape(config);
            let name = config.family.module_name(planned.site);
            let module = format!("{ROOT}{}{name}", found.prefix);
            let numbers = |factor: Factor, shape: [usize; 2]| -> Result<Vec<f32>, AdapterError> {
                let name = format!("{module}{}", factor.end());
                file.check_shape(&name, &shape)?;
                file.check_finite(&name)?;
                Ok(file.f32s(&name).into_owned())
            };
            Ok(LoraModule {
                site: planned.site,
                r: planned.r,
                scale: lora.scale(planned.r, planned.alpha),
                a_ri: numbers(Factor::A, [planned.r, i])?,
                b_or: numbers(Factor::B, [o, planned.r])?,
            })
        });
        Ok(Adapter {
            family: config.family,
            modules: modules.collect::<Result<_, AdapterError>>()?,
            config: rules::canonical(&lora, &plan, config)?,
            notes,
        })
    }

    /// Writes both files into the existing folder `dir`.
    pub fn write(&self, dir: &Path) -> Result<(), OutputError> {
        self.config.write(dir)?;
        let mut shapes = Vec::new();
        let mut values: HashMap<String, &[f32]> = HashMap::new();
        for module in &self.modules {
            for factor in Factor::ALL {
                let key = factor.key(self.family, module.site);
                shapes.push((key.clone(), module.shape(factor)));
                values.insert(key, module.factor(factor));
            }
        }
        write_tensors(&dir.join(FILE), shapes, |name| Cow::Borrowed(values[name]))
    }
}

/// What the keys of a file say.
struct Found {
    /// What stands between [`ROOT`] and the names of a bare model.
    prefix: String,
    sites: BTreeSet<LinearSite>,
    pooler: bool,
}

impl Found {
    fn collect(file: &TensorFile, config: &Config) -> Result<Found, AdapterError> {
        let family = config.family;
        let sites = family.linear_sites(config.n_layers);
        let sites: HashMap<String, LinearSite> =
            sites.map(|site| (family.module_name(site), site)).collect();
        let mut found = Found { prefix: String::new(), sites: BTreeSet::new(), pooler: false };
        for (at, key) in file.names().enumerate() {
            let stranger =
                || AdapterError::Stranger { path: file.path().to_owned(), tensor: key.to_owned() };
            let whole = key.strip_prefix(ROOT).ok_or_else(stranger)?;
            let end = |factor: Factor| whole.strip_suffix(factor.end());
            let whole = Factor::ALL.into_iter().find_map(end).ok_or_else(stranger)?;
            let name = family.unwrapped(whole);
            let prefix = &whole[..whole.len() - name.len()];
            if at == 0 {
                found.prefix = prefix.to_owned();
            }
            match sites.get(name) {
                _ if prefix != found.prefix => return Err(stranger()),
                Some(&site) => _ = found.sites.insert(site),
                None if name == family.pooler_name() => found.pooler = true,
                None => return Err(stranger()),
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
            let tensor = file.names().next().unwrap_or("none at all").to_owned();
            return Err(AdapterError::Stranger { path: file.path().to_owned(), tensor });
        }
        Ok(())
    }
}
