//! BERT-type encoders: files, tokens, forward and backward pass, LoRA.
//!
//! The same code runs in training, embedding and serving. It knows no catalogue, no loss and no
//! schedule. Texts lie packed, end to end; there is no padding anywhere.
//!
//! In reading order: `family` roles and names of tensors · [`config`] the sizes of a
//! model · [`architecture`] its tensors by role ·
//! [`weights`] tensors from safetensors · [`folder`] what a model folder says beside the weights ·
//! [`hub`] a folder or a Hub id · [`tokenizer`] text to ids · `tokenizer_meaning` its identity · [`batch`] ids, packed ·
//! [`adapter`] LoRA and its PEFT files · `model` packed weights · `depth` how far down a gradient goes ·
//! `buffer` memory that is kept · `tape` what a pass keeps ·
//! `forward`, `head`, `lora`, `backward`, `row_product`, `gradients` the passes · [`base`] a model in memory, shared by
//! its encoders · [`encoder`] text to unit vector · [`identity`] what decides it · [`parameters`] trained tensors and Adam's moments ·
//! [`train_model`] what a training loop drives · [`mod@reference`] the same in f64, the definition.

mod family;

pub mod architecture;
pub mod config;
pub mod error;

pub mod weights;

pub mod folder;

pub mod hub;

pub mod tokenizer;

mod tokenizer_meaning;

pub mod batch;

pub mod adapter;

mod model;

mod depth;

mod buffer;

mod tape;

mod forward;

mod head;

mod lora;

mod backward;

mod row_product;

mod gradients;

pub mod base;
pub mod encoder;

pub mod identity;

pub mod parameters;

pub mod train_model;

pub mod reference;

pub mod workers;

pub use base::{Base, BaseOptions};
pub use batch::{Side, Text, TextKey};
pub use encoder::{Encoder, EncoderOptions, OpenError, Placement, Reading, embed_together};
pub use identity::Computation;
pub use loriot_kernels::gemm::Precision;
pub use tape::DropoutRates;
pub use train_model::{NotTrainable, TrainModel, Trained};
