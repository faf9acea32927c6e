"""Useful flops: of real tokens alone, and of the products alone that an answer needs. A multiply-add counts as two.

`d` width · `f` feed-forward width · `r` rank of the adapters on query, key and value · `n` tokens of a text
"""

import json
from pathlib import Path


class Encoder:
    """The shape of a BERT-type encoder."""

    def __init__(self, folder: Path, rank: int = 8):
        config = json.loads((Path(folder) / "config.json").read_text())
        self.d, self.f = config["hidden_size"], config["intermediate_size"]
        self.layers, self.r = config["num_hidden_layers"], rank

    def forward(self, lengths: list[int]) -> float:
        """Linear layers, and the two products of attention (n·n·d each)."""
        d, f = self.d, self.f
        return self.layers * sum(2 * n * (4 * d * d + 2 * d * f) + 2 * (2 * n * n * d) for n in lengths)

    def full_step(self, lengths: list[int]) -> float:
        """Forward; every linear layer's input and weight gradient; the four products of attention's backward pass."""
        d, f = self.d, self.f
        backward = self.layers * sum(4 * n * (4 * d * d + 2 * d * f) + 4 * (2 * n * n * d) for n in lengths)
        return self.forward(lengths) + backward

    def lora_step(self, lengths: list[int]) -> float:
        """Forward; input gradients down to the adapters of the lowest layer; attention's backward pass; the adapters."""
        d, f, r, n_tokens = self.d, self.f, self.r, sum(lengths)
        backward = self.layers * sum(2 * n * (4 * d * d + 2 * d * f) + 4 * (2 * n * n * d) for n in lengths)
        below = 2 * n_tokens * 3 * d * d  # Nothing below the lowest query, key and value is trained.
        # Forward x·Aᵀ and (x·Aᵀ)·Bᵀ; backward dB, dy·B, dA, and dx but in the lowest layer.
        adapters = 3 * 2 * n_tokens * d * r * (6 * self.layers - 1)
        return self.forward(lengths) + backward - below + adapters
