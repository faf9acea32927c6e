//! A model folder with one damaged file: configuration, weights, tokeniser, pooling, settings.

#![no_main]

use libfuzzer_sys::fuzz_target;
use loriot_encoder::folder::{ModelFolder, Settings};
use loriot_encoder::tokenizer::Tokenizer;
use loriot_encoder::weights::Weights;
use loriot_fuzz::{repository, with_one_file_replaced};

fuzz_target!(|input: &[u8]| {
    let good = repository("tests/golden/tiny_bert");
    let Some(folder) = with_one_file_replaced(&good, input) else { return };
    let _ = Settings::open(folder.path());
    let Ok(model) = ModelFolder::open(folder.path()) else { return };
    let _ = Weights::open(&model.path, &model.config);
    if let Ok(tokenizer) = Tokenizer::open(&model.path, model.config.vocab_size) {
        let _ = tokenizer.encode("a red kettle, 2 litres", 48);
    }
});
