"""Writes a BERT of a given shape with random weights from a fixed seed: speed does not depend on what the weights are.

    make_shape.py --tokenizer FOLDER --output FOLDER --layers 24 --width 1024 --heads 16 --feed-forward 4096

Tokeniser, vocabulary and positions are those of the folder given.
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy
from safetensors.numpy import save_file

DEVIATION = 0.02  # BERT's own `initializer_range`.


def tensors(config: dict, rng: numpy.random.Generator) -> dict:
    d, f = config["hidden_size"], config["intermediate_size"]
    made = {}

    def random(name: str, *shape: int) -> None:
        made[name] = rng.standard_normal(shape, numpy.float32) * numpy.float32(DEVIATION)

    def linear(name: str, n_in: int, n_out: int) -> None:
        random(f"{name}.weight", n_out, n_in)
        made[f"{name}.bias"] = numpy.zeros(n_out, numpy.float32)

    def norm(name: str) -> None:
        made[f"{name}.weight"], made[f"{name}.bias"] = numpy.ones(d, numpy.float32), numpy.zeros(d, numpy.float32)

    random("embeddings.word_embeddings.weight", config["vocab_size"], d)
    random("embeddings.position_embeddings.weight", config["max_position_embeddings"], d)
    random("embeddings.token_type_embeddings.weight", config["type_vocab_size"], d)
    norm("embeddings.LayerNorm")
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            linear(f"{at}.attention.self.{part}", d, d)
        linear(f"{at}.attention.output.dense", d, d)
        norm(f"{at}.attention.output.LayerNorm")
        linear(f"{at}.intermediate.dense", d, f)
        linear(f"{at}.output.dense", f, d)
        norm(f"{at}.output.LayerNorm")
    linear("pooler.dense", d, d)
    return made


def write(tokenizer: Path, output: Path, **shape: int) -> None:
    shutil.copytree(tokenizer, output, ignore=shutil.ignore_patterns("*.safetensors", "*.bin", "*.onnx", "onnx", "openvino"))
    config = json.loads((output / "config.json").read_text()) | shape
    (output / "config.json").write_text(json.dumps(config, indent=2))
    pooling = output / "1_Pooling" / "config.json"
    if pooling.exists():
        pooling.write_text(json.dumps(json.loads(pooling.read_text()) | {"word_embedding_dimension": config["hidden_size"]}))
    save_file(tensors(config, numpy.random.default_rng(0)), output / "model.safetensors", {"format": "pt"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", type=Path, required=True, help="encoder folder")
    parser.add_argument("--output", type=Path, required=True, help="must not exist")
    for flag in ("layers", "width", "heads", "feed-forward"):
        parser.add_argument(f"--{flag}", type=int, required=True)
    args = parser.parse_args()
    shape = {"num_hidden_layers": args.layers, "hidden_size": args.width, "num_attention_heads": args.heads}
    write(args.tokenizer, args.output, **shape, intermediate_size=args.feed_forward)


if __name__ == "__main__":
    main()
