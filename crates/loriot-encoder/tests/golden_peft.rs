//! What PEFT can do beside plain LoRA, against PEFT in f64 on the tiny model: `tests/golden/peft/`, `peft.safetensors`.

#![allow(clippy::unwrap_used, reason = "a failure in a test's helper is the test's")]

mod common;

use common::*;
use loriot_encoder::adapter::{
    Adapter, AdapterError, Combination, Factor, Init, LoraConfig, LoraModule, Start,
};
use loriot_encoder::workers::Workers;
use loriot_encoder::{
    Base, DropoutRates, Encoder, EncoderOptions, Placement, Precision, Reading, TrainModel,
    Trained, embed_together,
};
use loriot_kernels::adam::AdamStep;
use std::collections::BTreeSet;
use std::path::Path;

/// Adapters with biases, modules that are saved whole, every way to narrow the targets, and DoRA.
const KINDS: [&str; 9] = [
    "bias_lora_only",
    "bias_all",
    "saved",
    "saved_positions",
    "narrowed",
    "excluded_regex",
    "dora",
    "dora_all",
    "dora_outputs",
];

/// Starts that are taken out of the weights.
const STARTS: [(&str, Init); 3] =
    [("pissa", Init::Pissa), ("pissa_rslora", Init::Pissa), ("olora", Init::Olora)];

fn folder(kind: &str) -> String {
    golden_path(&format!("peft/{kind}")).to_str().unwrap().to_owned()
}

fn texts() -> (Vec<Vec<u32>>, Vec<f64>) {
    let golden = Golden::open("tiny_bert.safetensors");
    (golden.texts(), golden.floats("labels"))
}

fn adapter(kind: &str, encoder: &Encoder) -> Adapter {
    Adapter::open(folder(kind).as_ref(), &encoder.folder().config).unwrap()
}

#[test]
fn embeddings_are_pefts_folded_in_training_and_after_writing() {
    let (golden, (ids, _)) = (Golden::open("peft.safetensors"), texts());
    for isa in isas() {
        for kind in KINDS {
            let want = golden.floats(&format!("{kind}.embeddings"));
            let folded = EncoderOptions { adapter: Some(folder(kind)), ..options(&tiny(), isa) };
            let got = Encoder::open(&folded).unwrap().embed_ids(&ids);
            assert_close(&format!("{isa}, {kind}, folded in"), &got, &want, 1e-5, 2e-6);

            let encoder = open(&tiny(), isa);
            let adapter = adapter(kind, &encoder);
            let trained = Trained::Lora(adapter.clone());
            let model = TrainModel::new(encoder, trained, DropoutRates::NONE, 0).unwrap();
            let got = model.embed_ids(&ids);
            assert_close(&format!("{isa}, {kind}, in training"), &got, &want, 1e-5, 2e-6);

            let dir = tempfile::tempdir().unwrap();
            model.adapter().unwrap().write(dir.path()).unwrap();
            let names = |path: &Path| -> BTreeSet<String> {
                let bytes = std::fs::read(path.join("adapter_model.safetensors")).unwrap();
                let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
                tensors.names().into_iter().map(str::to_owned).collect()
            };
            let mut of_peft = names(folder(kind).as_ref());
            of_peft.retain(|name| !name.contains("pooler"));
            assert_eq!(names(dir.path()), of_peft, "{kind}");
            let again = Adapter::open(dir.path(), &model.encoder().folder().config).unwrap();
            assert_eq!(again.modules, adapter.modules, "{kind}");
            assert_eq!(again.whole, adapter.whole, "{kind}");
            assert_eq!(again.sha256(), adapter.sha256(), "{kind}");
        }
    }
}

#[test]
fn gradients_are_pefts() {
    let (golden, (ids, labels)) = (Golden::open("peft.safetensors"), texts());
    for isa in isas() {
        for kind in KINDS {
            let encoder = open(&tiny(), isa);
            let trained = Trained::Lora(adapter(kind, &encoder));
            let (loss, model) = gradients(encoder, trained, &ids, &labels);
            let want = golden.floats(&format!("{kind}.loss"))[0];
            assert!((loss - want).abs() <= 1e-5 * want, "{isa}, {kind}: {loss}, want {want}");
            assert_gradients(&format!("{isa}, {kind}"), &model, &golden, kind);
        }
    }
}

#[test]
fn dora_in_bf16_is_near_and_beside_shared_weights_the_same() {
    let (golden, (ids, _)) = (Golden::open("peft.safetensors"), texts());
    for isa in isas() {
        let want = golden.floats("dora.embeddings");
        let base = Base::open(&options(&tiny(), isa).base()).unwrap();
        let beside = Reading {
            adapter: Some(folder("dora")),
            placement: Placement::Beside,
            ..Reading::default()
        };
        let beside = base.read(&beside).unwrap();
        let bare =
            base.read(&Reading { placement: Placement::Beside, ..Reading::default() }).unwrap();
        let alone = beside.embed_ids(&ids);
        assert_close(&format!("{isa}, beside"), &alone, &want, 1e-5, 2e-6);
        let work: Vec<(usize, Vec<u32>)> =
            ids.iter().flat_map(|ids| [(0, ids.clone()), (1, ids.clone())]).collect();
        let together = embed_together(&[&beside, &bare], &work);
        let (d, bare) = (beside.dim(), bare.embed_ids(&ids));
        for (at, pair) in together.chunks_exact(2 * d).enumerate() {
            assert_eq!(
                pair[..d],
                alone[at * d..][..d],
                "{isa}, {at}: the same bits in any company"
            );
            assert_eq!(pair[d..], bare[at * d..][..d], "{isa}, {at}");
        }
        let options = EncoderOptions {
            adapter: Some(folder("dora")),
            precision: Precision::Bf16,
            ..options(&tiny(), isa)
        };
        let folded = Encoder::open(&options).unwrap().embed_ids(&ids);
        assert_close(&format!("{isa}, bf16"), &folded, &want, 0.0, 0.03);
    }
}

/// The adapter that PEFT made of the tiny model, with its start and what training left, as `golden` has them.
fn started(golden: &Golden, kind: &str, init: Init, encoder: &Encoder) -> Adapter {
    let converted = adapter(kind, encoder);
    let half = |pattern: &Vec<(String, usize)>| -> Vec<(String, usize)> {
        pattern.iter().map(|(key, r)| (key.clone(), r / 2)).collect()
    };
    let lora = LoraConfig {
        r: converted.config.r / 2,
        alpha: 8.0,
        rank_pattern: half(&converted.config.rank_pattern),
        init,
        ..converted.config.clone()
    };
    let weights = encoder.weights().unwrap();
    let workers = Workers::start(2).unwrap();
    let config = &encoder.folder().config;
    let mut adapter = Adapter::init(&lora, config, weights, &workers, 0).unwrap();
    for module in &mut adapter.modules {
        let site = module.site;
        let values = |part: &str, factor: Factor| -> Vec<f32> {
            let key = factor.key(config.family, site);
            golden.floats(&format!("{kind}.{part}.{key}")).iter().map(|&x| x as f32).collect()
        };
        assert_start(kind, module, &values("start", Factor::A), &values("start", Factor::B));
        module.start =
            Some(Start { a_ri: values("start", Factor::A), b_or: values("start", Factor::B) });
        module.a_ri = values("trained", Factor::A);
        module.b_or = values("trained", Factor::B);
    }
    adapter
}

/// `module` starts as PEFT's; a pair of singular vectors may have the other sign.
fn assert_start(kind: &str, module: &LoraModule, a_ri: &[f32], b_or: &[f32]) {
    let (r, i) = (module.r, module.a_ri.len() / module.r);
    for k in 0..r {
        let sign = (module.a_ri[k * i] * a_ri[k * i]).signum();
        assert!(sign == 1.0 || kind != "olora", "the signs of a QR decomposition are LAPACK's");
        let flipped = |got: &f32| sign * got;
        let row: Vec<f32> = module.a_ri[k * i..][..i].iter().map(flipped).collect();
        let want: Vec<f64> = a_ri[k * i..][..i].iter().map(|&x| f64::from(x)).collect();
        assert_close(&format!("{kind}, A {k}"), &row, &want, 1e-4, 1e-5);
        let column: Vec<f32> = module.b_or.iter().skip(k).step_by(r).map(flipped).collect();
        let want: Vec<f64> = b_or.iter().skip(k).step_by(r).map(|&x| f64::from(x)).collect();
        assert_close(&format!("{kind}, B {k}"), &column, &want, 1e-4, 1e-5);
    }
}

#[test]
fn starts_in_the_weights_are_pefts_train_as_its_and_are_written_as_it_converts_them() {
    let (golden, (ids, labels)) = (Golden::open("peft.safetensors"), texts());
    for (kind, init) in STARTS {
        let encoder = open(&tiny(), isas()[0]);
        let adapter = started(&golden, kind, init, &encoder);
        let converted = self::adapter(kind, &encoder);
        let (loss, mut model) = gradients(encoder, Trained::Lora(adapter), &ids, &labels);
        let want = golden.floats(&format!("{kind}.embeddings"));
        assert_close(&format!("{kind}, in training"), &model.embed_ids(&ids), &want, 1e-5, 2e-6);
        let want_loss = golden.floats(&format!("{kind}.loss"))[0];
        assert!((loss - want_loss).abs() <= 1e-5 * want_loss, "{kind}: {loss}, want {want_loss}");
        assert_gradients(kind, &model, &golden, kind);

        let dir = tempfile::tempdir().unwrap();
        model.adapter().unwrap().write(dir.path()).unwrap();
        let config = model.encoder().folder().config.clone();
        let written = Adapter::open(dir.path(), &config).unwrap();
        assert_eq!(
            (written.config.r, written.config.alpha),
            (converted.config.r, converted.config.alpha)
        );
        for (got, want) in written.modules.iter().zip(&converted.modules) {
            assert_eq!((got.r, &got.a_ri, &got.b_or), (want.r, &want.a_ri, &want.b_or), "{kind}");
            assert!((got.scale / want.scale - 1.0).abs() < 1e-6, "{kind}");
        }
        let alone = EncoderOptions {
            adapter: Some(dir.path().to_str().unwrap().into()),
            ..options(&tiny(), isas()[0])
        };
        let got = Encoder::open(&alone).unwrap().embed_ids(&ids);
        assert_close(&format!("{kind}, alone on the base"), &got, &want, 1e-5, 5e-6);

        // A run that goes on reads its parameters from the adapter that stands alone.
        let before: Vec<Vec<f32>> =
            model.parameters().iter().map(|parameter| parameter.value().into_owned()).collect();
        let tensors = std::fs::read(dir.path().join("adapter_model.safetensors")).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&tensors).unwrap();
        let read = |name: &str, shape: &[usize]| {
            let tensor = tensors.tensor(name).unwrap();
            assert_eq!(tensor.shape(), shape, "{name}");
            let values = tensor.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b));
            Ok::<_, std::convert::Infallible>(values.collect())
        };
        model.read_parameters(read).unwrap();
        let after = model.parameters().iter().map(|parameter| parameter.value().into_owned());
        assert!(after.eq(before), "{kind}");
    }
}

#[test]
fn a_start_in_the_weights_changes_no_vector() {
    let (ids, _) = texts();
    for (init, use_dora) in [(Init::Pissa, false), (Init::Olora, false), (Init::Pissa, true)] {
        let encoder = open(&tiny(), isas()[0]);
        let want: Vec<f64> = encoder.embed_ids(&ids).iter().map(|&x| f64::from(x)).collect();
        let lora = LoraConfig { init, use_dora, r: 6, ..LoraConfig::default() };
        let config = &encoder.folder().config;
        let weights = encoder.weights().unwrap();
        let start = |r, n_threads| {
            let lora = LoraConfig { r, ..lora.clone() };
            let workers = Workers::start(n_threads).unwrap();
            Adapter::init(&lora, config, weights, &workers, 0)
        };
        let error = start(33, 1).unwrap_err().to_string();
        assert!(error.contains("rank is 33, expected at most the smaller side"), "{error}");
        let adapter = start(6, 1).unwrap();
        assert_eq!(start(6, 2).unwrap(), adapter, "the same bits on any number of threads");
        let plain =
            Adapter::init(&LoraConfig::default(), config, weights, &Workers::start(1).unwrap(), 0);
        assert_ne!(adapter.sha256(), plain.unwrap().sha256());
        let without_start = adapter.modules.iter().cloned();
        let without_start =
            without_start.map(|module| LoraModule { start: None, ..module }).collect();
        let without_start = Adapter { modules: without_start, ..adapter.clone() };
        assert_ne!(adapter.sha256(), without_start.sha256());
        let model =
            TrainModel::new(encoder, Trained::Lora(adapter), DropoutRates::NONE, 0).unwrap();
        assert_close(&format!("{init:?}"), &model.embed_ids(&ids), &want, 1e-5, 5e-6);
    }
}

/// What an adapter adds to each layer's weight.
fn changes(adapter: &Adapter) -> Vec<(String, Vec<f32>)> {
    let change = |module: &LoraModule| {
        let (r, i) = (module.r, module.a_ri.len() / module.r);
        let rows = module.b_or.chunks_exact(r).flat_map(|b_r| {
            (0..i).map(move |at| {
                let terms = b_r.iter().zip(module.a_ri.chunks_exact(i));
                module.scale * terms.map(|(b, a_i)| b * a_i[at]).sum::<f32>()
            })
        });
        (format!("{:?}", module.site), rows.collect())
    };
    adapter.modules.iter().map(change).collect()
}

#[test]
fn adapters_are_combined_as_pefts() {
    let encoder = open(&tiny(), isas()[0]);
    let (a, b) = (adapter("part_a", &encoder), adapter("part_b", &encoder));
    let parts = [("a", &a, 0.7), ("b", &b, -0.4)];
    for how in [Combination::Linear, Combination::Cat, Combination::Svd] {
        let want = adapter(&format!("merged_{how}"), &encoder);
        let combined = Adapter::combine(&parts, how, None).unwrap();
        let dir = tempfile::tempdir().unwrap();
        combined.write(dir.path()).unwrap();
        let got = Adapter::open(dir.path(), &encoder.folder().config).unwrap();
        assert_eq!(got.modules, combined.modules, "{how}");
        let (got, want) = (changes(&got), changes(&want));
        assert_eq!(got.len(), want.len());
        for ((site, got), (want_site, want)) in got.iter().zip(&want) {
            assert_eq!(site, want_site);
            let want: Vec<f64> = want.iter().map(|&x| f64::from(x)).collect();
            assert_close(&format!("{how}, {site}"), got, &want, 1e-5, 1e-6);
        }
    }
    let cut = Adapter::combine(&parts, Combination::Svd, Some(1)).unwrap();
    assert!(cut.modules.iter().all(|module| module.r == 1));
    let wide = Adapter::combine(&parts, Combination::Svd, Some(20)).unwrap();
    let (got, want) =
        (changes(&wide), changes(&Adapter::combine(&parts, Combination::Cat, None).unwrap()));
    for ((site, got), (_, want)) in got.iter().zip(&want) {
        let want: Vec<f64> = want.iter().map(|&x| f64::from(x)).collect();
        assert_close(&format!("{site}, of more directions than there are"), got, &want, 1e-5, 1e-6);
    }
}

#[test]
fn what_is_not_plain_lora_is_not_combined_or_made_weaker() {
    let encoder = open(&tiny(), isas()[0]);
    for (kind, what) in [("dora", "DoRA's magnitudes"), ("bias_all", "biases or saved modules")] {
        let mut adapter = adapter(kind, &encoder);
        let errors: [AdapterError; 3] = [
            Adapter::combine(&[("it", &adapter, 1.0)], Combination::Cat, None).unwrap_err(),
            adapter.set_strength("it", 0.5).unwrap_err(),
            adapter.negated("it").unwrap_err(),
        ];
        for (error, to_do) in
            errors.iter().zip(["combine", "change the strength of", "take out of"])
        {
            let error = error.to_string();
            assert!(
                error.contains(what) && error.contains(to_do) && error.contains("`it`"),
                "{error}"
            );
        }
    }
    let (a, b) = (adapter("part_a", &encoder), adapter("narrowed", &encoder));
    let error = Adapter::combine(&[("a", &a, 1.0), ("b", &b, 1.0)], Combination::Linear, None);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("4 and 2 of `encoder.layer.0.attention.self.value`"), "{error}");
}

#[test]
fn half_the_strength_is_half_the_change_and_a_negated_adapter_takes_it_back() {
    let encoder = open(&tiny(), isas()[0]);
    let whole = adapter("narrowed", &encoder);
    let mut half = whole.clone();
    half.set_strength("it", 0.5).unwrap();
    let dir = tempfile::tempdir().unwrap();
    half.write(dir.path()).unwrap();
    let half = changes(&Adapter::open(dir.path(), &encoder.folder().config).unwrap());
    for ((_, half), (site, whole)) in half.iter().zip(&changes(&whole)) {
        let want: Vec<f64> = whole.iter().map(|&x| 0.5 * f64::from(x)).collect();
        assert_close(site, half, &want, 1e-6, 1e-9);
    }
    let weights = encoder.weights().unwrap();
    let mut changed = weights.clone();
    whole.merge_into(&mut changed).unwrap();
    whole.negated("it").unwrap().merge_into(&mut changed).unwrap();
    for name in weights.names() {
        let want: Vec<f64> = weights.get(name).iter().map(|&x| f64::from(x)).collect();
        assert_close(name, &changed.get(name), &want, 0.0, 1e-6);
    }
}

#[test]
fn lora_plus_steps_are_pefts() {
    let (golden, (ids, labels)) = (Golden::open("peft.safetensors"), texts());
    let encoder = open(&tiny(), isas()[0]);
    let d = encoder.dim();
    let trained = Trained::Lora(adapter("bias_lora_only", &encoder));
    let mut model = TrainModel::new(encoder, trained, DropoutRates::NONE, 0).unwrap();
    model.set_lora_plus(16.0);
    let mut moments = model.adam_moments();
    for step in 1..=3 {
        model.zero_gradients();
        let unit_bd = model.forward(&pair_texts(&ids), 0);
        let (_, dunit_bd) = loss_and_gradient(&unit_bd, &labels, d);
        model.backward(&dunit_bd);
        let step = AdamStep {
            learning_rate: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            step,
        };
        model.adam_step(&mut moments, &step);
    }
    for parameter in model.parameters().iter() {
        let want = golden.floats(&format!("loraplus.{}", parameter.name()));
        assert_close(parameter.name(), &parameter.value(), &want, 1e-4, 2e-5);
    }
}

#[test]
fn an_adapter_that_replaces_tensors_is_not_laid_beside_shared_weights() {
    let base = Base::open(&options(&tiny(), isas()[0]).base()).unwrap();
    let reading =
        |placement| Reading { adapter: Some(folder("bias_all")), placement, ..Reading::default() };
    let error = base.read(&reading(Placement::Beside)).err().unwrap().to_string();
    assert!(error.contains("cannot be laid beside"), "{error}");
    base.read(&reading(Placement::Folded)).unwrap();
}
