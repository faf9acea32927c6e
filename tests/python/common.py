"""What the scripts share: determinism, the reference's embedding and loss, and reading and writing of small files."""

import csv
import hashlib
import json
import os
import re
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging

logging.disable_progress_bar()

REPOSITORY = Path(__file__).resolve().parents[2]
GOLDEN = REPOSITORY / "tests" / "golden"
MAX_LENGTH = 70


def deterministic(seed: int = 0) -> None:
    """One thread, fixed seeds, no kernel whose result depends on the run."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)


def load_encoder(folder, dtype=torch.float32, **config):
    """The bare encoder with dropout off and plain (eager) attention, whose gradients are the textbook's."""
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return AutoModel.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32, **(off | config)).to(dtype)


def tokenize(tokenizer, texts, max_length=MAX_LENGTH) -> list[list[int]]:
    """Token ids of each text, truncated and not padded."""
    return tokenizer(list(texts), truncation=True, max_length=max_length, padding=False)["input_ids"]


def pad(ids: list[list[int]]) -> dict:
    """A batch padded to its longest text, with its mask; `[PAD]` is 0 in every vocabulary used here."""
    length = max(len(text) for text in ids)
    rows = torch.tensor([text + [0] * (length - len(text)) for text in ids])
    mask = torch.tensor([[1] * len(text) + [0] * (length - len(text)) for text in ids])
    return {"input_ids": rows, "attention_mask": mask}


def mean_pool(hidden, mask):
    mask = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)


def unit(vectors):
    return torch.nn.functional.normalize(vectors, p=2, dim=1)


def embed_batch(model, ids: list[list[int]]):
    """Unit embeddings of one padded batch: mean of the real tokens, then L2 norm."""
    batch = pad(ids)
    return unit(mean_pool(model(**batch)[0], batch["attention_mask"]))


def embed_one_by_one(model, ids: list[list[int]], cls: bool = False):
    """Unit embeddings of texts that each go through the model alone: no padding, hence no mask to trust."""
    rows = []
    for text in ids:
        hidden = model(input_ids=torch.tensor([text]))[0]
        rows.append(hidden[:, 0] if cls else hidden.mean(1))
    return unit(torch.cat(rows))


def cosine_loss(cosines, labels):
    """The reference's loss: mean of (y·(1−cos) + max((1−y)·cos, 0))²."""
    return torch.mean(torch.square(labels * (1 - cosines) + torch.clamp((1 - labels) * cosines, min=0.0)))


def read_pairs(path) -> list[tuple[str, str, float]]:
    with open(path, newline="", encoding="utf-8") as file:
        return [(row["query"], row["product_title"], float(row["relevance_label"])) for row in csv.DictReader(file)]


def read_texts(path, column: str) -> list[str]:
    """Texts of a `.json` list of strings, or of one column of a `.csv`."""
    if str(path).endswith(".json"):
        return json.loads(Path(path).read_text(encoding="utf-8"))
    with open(path, newline="", encoding="utf-8") as file:
        return [row[column] for row in csv.DictReader(file)]


def sha256(path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def write_json(path, value) -> None:
    """Indented JSON in ASCII, with lists of numbers on one line."""
    text = json.dumps(value, indent=1)
    text = re.sub(r"\[\s+([-+.e\d,\s]+?)\s+\]", lambda match: "[" + " ".join(match[1].split()) + "]", text)
    Path(path).write_text(text + "\n", encoding="utf-8")


def write_tensors(path, tensors: dict) -> None:
    """A safetensors file of numpy arrays, float64 unless a tensor's own type says otherwise."""
    arrays = {}
    for name, tensor in tensors.items():
        array = tensor.detach().numpy() if isinstance(tensor, torch.Tensor) else np.asarray(tensor)
        arrays[name] = np.ascontiguousarray(np.atleast_1d(array))
    save_file(arrays, str(path))


def tokenizer_of(folder):
    return AutoTokenizer.from_pretrained(folder)
