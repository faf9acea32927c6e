//! BERT-type encoders: files, tokens, forward and backward pass, LoRA.
//!
//! The same code runs in training, embedding and serving. It knows no catalogue, no loss and no
//! schedule. Texts lie packed, end to end; there is no padding anywhere.
//!
//! In reading order: [`config`] the architecture · [`modules`] the names of its linear layers ·
//! [`weights`] tensors from safetensors · [`folder`] what a model folder says beside the weights ·
//! [`hub`] a folder or a Hub id · [`tokenizer`] text to ids · [`batch`] ids, packed ·
//! [`adapter`] LoRA and its PEFT files · `model` packed weights · `depth` how far down a gradient goes ·
//! `tape` what a pass keeps ·
//! `forward`, `lora`, `backward`, `row_product`, `gradients` the passes · [`encoder`] text to unit vector ·
//! [`parameters`] trained tensors and Adam's moments · [`train_model`] what a training loop drives · [`mod@reference`] the same in f64, the definition.

pub mod config;
pub mod error;
pub mod modules;

pub mod weights;

pub mod folder;

pub mod hub;

pub mod tokenizer;

pub mod batch;

pub mod adapter;

mod model;

mod depth;

mod tape;

mod forward;

mod lora;

mod backward;

mod row_product;

mod gradients;

pub mod encoder;

pub mod parameters;

pub mod train_model;

pub mod reference;

pub mod workers;

pub use batch::{Side, Text, TextKey};
pub use encoder::{Encoder, EncoderOptions, OpenError};
pub use loriot_kernels::gemm::Precision;
pub use tape::DropoutRates;
pub use train_model::{NotTrainable, TrainModel, Trained};
