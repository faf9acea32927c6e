"""Golden files of a tiny random BERT: its folder, every tensor of one forward and backward pass, and PEFT adapters for it.

Everything is computed in float64, text by text without padding, from weights that are exactly representable in float32. What
the reference does instead (float32, padded to the maximum, a mask) is run beside it and must agree.
"""

import json
import shutil

import numpy as np
import torch
from peft import LoraConfig, TaskType, get_peft_model
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import nn

import common
from common import GOLDEN
from texts import TINY_PAIRS, TINY_SUFFIXES, TINY_WORDS

FOLDER = GOLDEN / "tiny_bert"
ADAPTERS = GOLDEN / "adapters"
MAX_LENGTH = 48  # As sentence_bert_config.json says; the model has 64 positions.
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ALL_LINEAR = ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"]

# Each is `LoraConfig`'s arguments; `qkv` and `all_linear` also have their gradients in tiny_bert.safetensors.
KINDS = {
    "qkv": {"target_modules": ["query", "key", "value"]},
    "all_linear": {"target_modules": ALL_LINEAR},
    "rslora": {"target_modules": ["query", "key", "value"], "use_rslora": True},
    "patterns": {
        "target_modules": ["query", "key", "value"],
        "rank_pattern": {"layer.0.attention.self.query": 8, "value": 2},
        "alpha_pattern": {"layer.1.attention.self.key": 32, r".*\.0\.attention\.self\.value": 1},
    },
    "regex": {"target_modules": r".*layer\.1\..*\.(query|dense)"},
    "wrapped": {"target_modules": ["query", "key", "value"]},
    "dora": {"target_modules": ["query", "key", "value"], "use_dora": True},
}


class Wrapped(nn.Module):
    """The reference's own module around the encoder: its adapters' keys read `base_model.model.model.encoder…`."""

    def __init__(self, encoder):
        super().__init__()
        self.model = encoder

    def forward(self, **inputs):
        return self.model(**inputs)


def vocabulary() -> list[str]:
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    words = [*letters, *TINY_WORDS, *".,-/()&"]
    pieces = [*letters, *(suffix for suffix in TINY_SUFFIXES if len(suffix) > 1)]
    return SPECIAL + words + [f"##{piece}" for piece in pieces]


def write_tokenizer(vocab: list[str]) -> None:
    """tokenizer.json as a BERT tokenizer has it, and the same vocabulary as vocab.txt."""
    tokenizer = Tokenizer(models.WordPiece({word: idx for idx, word in enumerate(vocab)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = [(word, vocab.index(word)) for word in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", special)
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.save(str(FOLDER / "tokenizer.json"))
    (FOLDER / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")


def write_model() -> None:
    """The folder of the tiny model, in the layout that sentence-transformers has written since its version 2."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    (FOLDER / "1_Pooling").mkdir(parents=True)
    vocab = vocabulary()
    write_tokenizer(vocab)
    names = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]"}
    config = {
        "architectures": ["BertModel"],
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": 32,
        "initializer_range": 0.02,
        "intermediate_size": 64,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 64,
        "model_type": "bert",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
        "type_vocab_size": 2,
        "vocab_size": len(vocab),
    }
    tokenizer_config = {"do_lower_case": True, "model_max_length": 64, "tokenizer_class": "BertTokenizer", **names}
    pooling = {
        "word_embedding_dimension": 32,
        "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": True,
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
    }
    modules = [
        {"idx": idx, "name": str(idx), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for idx, (path, kind) in enumerate([("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")])
    ]
    sentence_transformers = {
        "__version__": {"sentence_transformers": "2.0.0", "transformers": "4.6.1", "pytorch": "1.8.1"},
        "prompts": {},
        "default_prompt_name": None,
        "similarity_fn_name": "cosine",
    }
    common.write_json(FOLDER / "config.json", config)
    common.write_json(FOLDER / "tokenizer_config.json", tokenizer_config)
    common.write_json(FOLDER / "special_tokens_map.json", names)
    common.write_json(FOLDER / "modules.json", modules)
    common.write_json(FOLDER / "1_Pooling" / "config.json", pooling)
    common.write_json(FOLDER / "sentence_bert_config.json", {"max_seq_length": MAX_LENGTH, "do_lower_case": False})
    common.write_json(FOLDER / "config_sentence_transformers.json", sentence_transformers)
    write_weights(config)


def save_weights(weights: dict) -> None:
    save_file(weights, str(FOLDER / "model.safetensors"), metadata={"format": "pt"})


def write_weights(config: dict) -> None:
    """Random weights of a size that makes attention uneven, GELU bend and LayerNorm matter; no bias is zero."""
    from transformers import BertConfig, BertModel

    model = BertModel(BertConfig(**config))
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, tensor in sorted(model.state_dict().items()):
        noise = torch.randn(tensor.shape, generator=generator)
        if "embeddings.weight" in name:
            weights[name] = 0.6 * noise
        elif name.endswith("LayerNorm.weight"):
            weights[name] = 1.0 + 0.2 * noise
        else:
            weights[name] = (0.25 if name.endswith(".weight") else 0.1) * noise
    save_weights(weights)
    # A random encoder gives every text nearly the same vector. Taking their mean off the last bias spreads the cosines over both
    # signs, as the loss needs.
    ids = common.tokenize(common.tokenizer_of(FOLDER), [text for pair in TINY_PAIRS for text in pair[:2]], MAX_LENGTH)
    with torch.no_grad():
        encoder = common.load_encoder(FOLDER).eval()
        pooled = torch.cat([encoder(input_ids=torch.tensor([text]))[0].mean(1) for text in ids])
    weights["encoder.layer.1.output.LayerNorm.bias"] -= pooled.mean(0)
    save_weights(weights)


def make_adapter(name: str):
    """A PEFT model of that kind with B ≠ 0, saved under `adapters/` as PEFT saves it (without its model card)."""
    torch.manual_seed(1 + list(KINDS).index(name))
    base = common.load_encoder(FOLDER)
    base.name_or_path = base.config._name_or_path = "tiny_bert"
    config = LoraConfig(r=4, lora_alpha=8, bias="none", task_type=TaskType.FEATURE_EXTRACTION, **KINDS[name])
    model = get_peft_model(Wrapped(base) if name == "wrapped" else base, config)
    for key, tensor in model.named_parameters():
        if "lora_B" in key:
            nn.init.normal_(tensor, std=0.2)
        elif "lora_magnitude_vector" in key:
            tensor.data += 0.1 * torch.randn_like(tensor)
    model.save_pretrained(ADAPTERS / name, save_embedding_layers=False)
    (ADAPTERS / name / "README.md").unlink(missing_ok=True)
    sort_lists(ADAPTERS / name / "adapter_config.json")
    return model.eval()


def sort_lists(path) -> None:
    """PEFT keeps `target_modules` as a set and writes it in any order; the golden file is to be the same each time."""
    config = json.loads(path.read_text())
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def peft_name(name: str) -> str:
    """A parameter's name as the adapter file has it."""
    name = name.replace(".default", "").replace(".modules_to_save", "")
    return name.replace(".lora_magnitude_vector.weight", ".lora_magnitude_vector")


class Batch:
    """The pairs as token ids: queries first, then titles."""

    def __init__(self):
        tokenizer = common.tokenizer_of(FOLDER)
        self.texts = [query for query, _, _ in TINY_PAIRS] + [title for _, title, _ in TINY_PAIRS]
        self.ids = common.tokenize(tokenizer, self.texts, MAX_LENGTH)
        self.labels = torch.tensor([label for _, _, label in TINY_PAIRS], dtype=torch.float64)
        plain = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
        plain.enable_truncation(MAX_LENGTH)
        assert self.ids == [plain.encode(text).ids for text in self.texts], "transformers and tokenizers disagree"

    def cosines(self, embeddings):
        n_pairs = len(self.labels)
        return (embeddings[:n_pairs] * embeddings[n_pairs:]).sum(1)

    def forward(self, model):
        """Unit embeddings, cosines and loss in the precision of the model."""
        embeddings = common.embed_one_by_one(model, self.ids)
        cosines = self.cosines(embeddings)
        return embeddings, cosines, common.cosine_loss(cosines, self.labels.to(cosines.dtype))

    def check_against_padded(self, model, loss) -> None:
        """The reference's way: float32, two padded passes, a mask."""
        n_pairs, full = len(self.labels), [0] * MAX_LENGTH
        halves = []
        for texts in (self.ids[:n_pairs], self.ids[n_pairs:]):
            padded = common.pad([*texts, full])
            batch = {key: value[:-1] for key, value in padded.items()}
            halves.append(common.unit(common.mean_pool(model(**batch)[0], batch["attention_mask"])))
        padded_loss = common.cosine_loss((halves[0] * halves[1]).sum(1), self.labels.float())
        assert abs(padded_loss.item() - loss.item()) < 1e-6, (padded_loss.item(), loss.item())


def hidden_states(model, ids) -> list:
    """The embedding layer's and every layer's output, rows of all texts packed end to end."""
    outputs = [model(input_ids=torch.tensor([text]), output_hidden_states=True).hidden_states for text in ids]
    return [torch.cat([output[layer][0] for output in outputs]) for layer in range(len(outputs[0]))]


def forward_tensors(batch: Batch) -> dict:
    model = common.load_encoder(FOLDER, torch.float64).eval()
    tensors = {
        "ids": np.concatenate([np.array(text, dtype=np.int64) for text in batch.ids]),
        "lengths": np.array([len(text) for text in batch.ids], dtype=np.int64),
        "labels": batch.labels,
    }
    with torch.no_grad():
        for layer, hidden in enumerate(hidden_states(model, batch.ids)):
            tensors[f"hidden.{layer}"] = hidden
        embeddings, cosines, loss = batch.forward(model)
        tensors |= {"embeddings": embeddings, "cosines": cosines, "loss": loss}
        tensors["pooled"] = torch.cat([model(input_ids=torch.tensor([text]))[0].mean(1) for text in batch.ids])
        tensors["cls.embeddings"] = common.embed_one_by_one(model, batch.ids, cls=True)
        assert (cosines > 0.1).any() and (cosines < -0.1).any(), f"the loss must see both signs: {cosines}"
        batch.check_against_padded(common.load_encoder(FOLDER).eval(), loss)
        other = common.load_encoder(FOLDER, torch.float64, hidden_act="gelu_new").eval()
        for layer, hidden in enumerate(hidden_states(other, batch.ids)):
            tensors[f"gelu_new.hidden.{layer}"] = hidden
        tensors["gelu_new.embeddings"] = common.embed_one_by_one(other, batch.ids)
    return tensors


def gradients(model, batch: Batch, prefix: str) -> dict:
    """Embeddings, cosines, loss and each trained tensor's gradient, under `prefix`."""
    embeddings, cosines, loss = batch.forward(model)
    loss.backward()
    tensors = {f"{prefix}.embeddings": embeddings, f"{prefix}.cosines": cosines, f"{prefix}.loss": loss}
    for name, tensor in model.named_parameters():
        if tensor.grad is not None:
            tensors[f"{prefix}.grad.{peft_name(name)}"] = tensor.grad
    return tensors


def generate() -> None:
    write_model()
    batch = Batch()
    pairs = [{"query": query, "product_title": title, "label": label} for query, title, label in TINY_PAIRS]
    common.write_json(GOLDEN / "tiny_texts.json", {"max_length": MAX_LENGTH, "pairs": pairs})
    tensors = forward_tensors(batch)
    shutil.rmtree(ADAPTERS, ignore_errors=True)
    for name in KINDS:
        model = make_adapter(name)
        if name == "qkv":
            tensors |= gradients(model, batch, "f32.qkv")
            batch.check_against_padded(model, tensors["f32.qkv.loss"])
            model.zero_grad(set_to_none=True)
        model.double()
        if name in ("qkv", "all_linear"):
            tensors |= gradients(model, batch, name)
        else:
            with torch.no_grad():
                tensors[f"{name}.embeddings"] = common.embed_one_by_one(model, batch.ids)
    tensors |= gradients(common.load_encoder(FOLDER, torch.float64).eval(), batch, "full")
    common.write_tensors(GOLDEN / "tiny_bert.safetensors", tensors)
