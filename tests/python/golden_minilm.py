"""Golden files of all-MiniLM-L6-v2: unit embeddings of texts of every length and script, and its gradients, sampled.

The embeddings are transformers' own in float32, each text alone; the gradients are float64's. The model is not committed, so
what is stored names the SHA-256 of its weights.
"""

import shutil
import zlib
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from torch import nn

import common
from common import GOLDEN, MAX_LENGTH
from golden_tiny import peft_name, sort_lists
from texts import LONG_TEXT, MINILM_PAIRS, ODD_TEXTS, OVER_LONG_TEXTS

ADAPTER = GOLDEN / "minilm_adapter"
N_SAMPLES = 32


def text_of_length(tokenizer, words: list[str], length: int) -> str:
    """A window of whole words with exactly that many tokens, `[CLS]` and `[SEP]` included; a different one for each length."""
    for start in range(7 * length, 7 * length + len(words)):
        start %= len(words)
        for end in range(start + 1, min(start + length, len(words)) + 1):
            text = " ".join(words[start:end])
            if len(tokenizer(text)["input_ids"]) == length:
                return text
    raise ValueError(f"no window of {length} tokens")


def collect_texts(tokenizer) -> list[dict]:
    words = LONG_TEXT.split()
    texts = [
        {"note": f"{length} tokens", "text": text_of_length(tokenizer, words, length)} for length in range(3, MAX_LENGTH + 1)
    ]
    return texts + [{"note": note, "text": text} for note, text in (ODD_TEXTS | OVER_LONG_TEXTS).items()]


def write_embeddings(folder: Path) -> None:
    tokenizer = common.tokenizer_of(folder)
    texts = collect_texts(tokenizer)
    ids = common.tokenize(tokenizer, [text["text"] for text in texts])
    plain = load_plain_tokenizer(folder)
    for text, row in zip(texts, ids):
        assert row == plain.encode(text["text"]).ids, f"transformers and tokenizers disagree on {text['note']}"
        assert len(row) == MAX_LENGTH or "over-long" not in text["note"], text["note"]
    with torch.no_grad():
        embeddings = common.embed_one_by_one(common.load_encoder(folder).eval(), ids)
        exact = common.embed_one_by_one(common.load_encoder(folder, torch.float64).eval(), ids)
        error = (embeddings - exact).abs().max().item()
        assert error < 2e-6, f"float32 is {error} off float64"
        pair_ids = common.tokenize(tokenizer, pair_texts())
        adapted = common.embed_one_by_one(with_adapter(common.load_encoder(folder)).eval(), pair_ids)
    tensors = {
        "ids": np.concatenate([np.array(row, dtype=np.int64) for row in ids]),
        "lengths": np.array([len(row) for row in ids], dtype=np.int64),
        "embeddings": embeddings,
        "adapter.embeddings": adapted,
    }
    common.write_tensors(GOLDEN / "minilm.safetensors", tensors)
    header = {"weights_sha256": common.sha256(folder / "model.safetensors"), "max_length": MAX_LENGTH}
    common.write_json(GOLDEN / "minilm_texts.json", header | {"texts": texts})


def load_plain_tokenizer(folder: Path):
    """tokenizer.json by itself, its own truncation and padding replaced: what Loriot does."""
    from tokenizers import Tokenizer

    plain = Tokenizer.from_file(str(folder / "tokenizer.json"))
    plain.no_padding()
    plain.enable_truncation(MAX_LENGTH)
    return plain


def pair_texts() -> list[str]:
    return [query for query, _, _ in MINILM_PAIRS] + [title for _, title, _ in MINILM_PAIRS]


def write_adapter(folder: Path) -> None:
    """The adapter that the gradients and the traces start from: A as PEFT initialises it, B small and not zero."""
    shutil.rmtree(ADAPTER, ignore_errors=True)
    base = common.load_encoder(folder)
    base.name_or_path = base.config._name_or_path = "sentence-transformers/all-MiniLM-L6-v2"
    targets = ["query", "key", "value"]
    config = LoraConfig(r=8, lora_alpha=16, bias="none", task_type=TaskType.FEATURE_EXTRACTION, target_modules=targets)
    model = get_peft_model(base, config)
    for name, tensor in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(tensor, std=0.02)
    model.save_pretrained(ADAPTER, save_embedding_layers=False)
    (ADAPTER / "README.md").unlink(missing_ok=True)
    sort_lists(ADAPTER / "adapter_config.json")


def with_adapter(base, adapter: Path = ADAPTER):
    """The base under a saved adapter, which can be trained further."""
    return PeftModel.from_pretrained(base, str(adapter), is_trainable=True)


def sample(name: str, tensor) -> dict:
    """Norm and up to 32 entries of a tensor: its largest, and others drawn among those that are not zero."""
    flat = tensor.detach().double().flatten().numpy()
    largest = np.argsort(-np.abs(flat), kind="stable")[: N_SAMPLES // 2]
    others = np.setdiff1d(np.flatnonzero(flat), largest)
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    drawn = generator.choice(others, min(N_SAMPLES // 2, len(others)), replace=False)
    index = np.sort(np.concatenate([largest, drawn]))
    return {
        "shape": list(tensor.shape),
        "norm": float(np.linalg.norm(flat)),
        "index": index.tolist(),
        "value": flat[index].tolist(),
    }


def gradients(model, ids, labels) -> dict:
    embeddings = common.embed_one_by_one(model, ids)
    cosines = (embeddings[: len(labels)] * embeddings[len(labels) :]).sum(1)
    loss = common.cosine_loss(cosines, labels)
    loss.backward()
    trained = {peft_name(name): tensor.grad for name, tensor in model.named_parameters() if tensor.grad is not None}
    return {
        "cosines": cosines.tolist(),
        "loss": loss.item(),
        "gradients": {name: sample(name, gradient) for name, gradient in trained.items()},
    }


def write_gradients(folder: Path) -> None:
    ids = common.tokenize(common.tokenizer_of(folder), pair_texts())
    labels = torch.tensor([label for _, _, label in MINILM_PAIRS], dtype=torch.float64)
    lora = gradients(with_adapter(common.load_encoder(folder)).double().eval(), ids, labels)
    full = gradients(common.load_encoder(folder, torch.float64).eval(), ids, labels)
    pairs = [{"query": query, "product_title": title, "label": label} for query, title, label in MINILM_PAIRS]
    common.write_json(GOLDEN / "minilm_gradients.json", {"max_length": MAX_LENGTH, "pairs": pairs, "lora": lora, "full": full})


def generate(model) -> None:
    folder = Path(model)
    write_adapter(folder)
    write_embeddings(folder)
    write_gradients(folder)
