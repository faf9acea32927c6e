"""Round trips with the real Python packages: what Loriot writes must load there, and what they write must load in Loriot.

    python roundtrip.py adapter --model DIR --adapter DIR --texts FILE --embeddings FILE.npy
    python roundtrip.py merged  --model DIR --texts FILE --embeddings FILE.npy
    python roundtrip.py produce --model DIR --texts FILE --output DIR

`adapter` loads an adapter of Loriot's in PEFT, `merged` a folder of Loriot's in sentence-transformers; both compare the unit
vectors of the texts with those that Loriot wrote. `produce` writes PEFT adapters of several kinds for Loriot to load, each with
`embeddings.npy`. Texts are a `.json` list of strings or a `.csv` (`--column`). Prints one JSON object; on a difference one line
beginning `error:` and exit status 1.
"""

import argparse
import json
import sys
import warnings
from pathlib import Path

import common
import numpy as np
import torch
from transformers import AutoConfig

KINDS = ("qkv", "all_linear", "rslora", "patterns", "regex", "wrapped")


class Failed(Exception):
    """A round trip that does not hold, in one sentence."""


def embed(model, folder, texts: list[str], max_length: int) -> np.ndarray:
    """Unit vectors in batches of 32 texts of like length, cut to what the model has positions for."""
    max_length = min(max_length, AutoConfig.from_pretrained(folder).max_position_embeddings)
    ids = common.tokenize(common.tokenizer_of(folder), texts, max_length)
    order = sorted(range(len(ids)), key=lambda text: len(ids[text]))
    rows = [None] * len(ids)
    with torch.no_grad():
        for start in range(0, len(order), 32):
            chunk = order[start : start + 32]
            for text, vector in zip(chunk, common.embed_batch(model, [ids[text] for text in chunk])):
                rows[text] = vector.numpy()
    return np.stack(rows)


def compare(what: str, expected: np.ndarray, path, tolerance: float) -> dict:
    """The largest difference between Loriot's vectors in `path` and the expected ones."""
    got = np.load(path)
    if got.dtype != np.float32 or got.shape != expected.shape:
        raise Failed(f"`{path}` holds {got.dtype} {got.shape}, expected float32 {expected.shape}")
    differences = np.abs(got - expected).max(axis=1)
    worst = int(differences.argmax())
    if not differences[worst] <= tolerance:
        raise Failed(f"{what} differs by {differences[worst]:.2e} at text {worst}, allowed is {tolerance:.0e}")
    return {"texts": len(got), "dimensions": got.shape[1], "max_difference": float(differences[worst])}


def check_adapter(args) -> dict:
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors.torch import load_file

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(common.load_encoder(args.model), args.adapter).eval()
    written = load_file(str(Path(args.adapter) / "adapter_model.safetensors"))
    loaded = get_peft_model_state_dict(model, save_embedding_layers=False)
    if missing := sorted(set(loaded) - set(written)):
        raise Failed(f"PEFT misses {len(missing)} tensors, the first is `{missing[0]}`")
    if unexpected := sorted(set(written) - set(loaded)):
        raise Failed(f"PEFT does not know {len(unexpected)} tensors, the first is `{unexpected[0]}`")
    for name, tensor in loaded.items():
        if not torch.equal(tensor, written[name]):
            raise Failed(f"`{name}` is not what the file holds once PEFT has loaded it")
    for warning in caught:
        if issubclass(warning.category, UserWarning):
            raise Failed(f"PEFT warns: {str(warning.message):.300}")
    expected = embed(model, args.model, common.read_texts(args.texts, args.column), args.max_length)
    return compare("PEFT", expected, args.embeddings, args.tolerance) | {"tensors": len(written)}


def check_merged(args) -> dict:
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel

    _, report = AutoModel.from_pretrained(args.model, output_loading_info=True)
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if keys := sorted(report[problem]):
            raise Failed(f"transformers reports {len(keys)} {problem.replace('_', ' ')}, the first is `{keys[0]}`")
    model = SentenceTransformer(str(args.model), device="cpu")
    modules = [type(module).__name__ for module in model]
    if modules != ["Transformer", "Pooling", "Normalize"]:
        raise Failed(f"sentence-transformers sees the modules {', '.join(modules)}, expected Transformer, Pooling, Normalize")
    texts = common.read_texts(args.texts, args.column)
    expected = model.encode(texts, prompt_name=args.prompt_name, convert_to_numpy=True, show_progress_bar=False)
    result = compare("sentence-transformers", expected, args.embeddings, args.tolerance)
    return result | {"max_seq_length": model.max_seq_length, "prompts": model.prompts}


def produce(args) -> dict:
    from golden_tiny import KINDS as CONFIGS
    from golden_tiny import Wrapped
    from peft import LoraConfig, TaskType, get_peft_model

    output = Path(args.output)
    texts = common.read_texts(args.texts, args.column)
    for seed, kind in enumerate(KINDS):
        torch.manual_seed(seed)
        base = common.load_encoder(args.model)
        config = LoraConfig(r=8, lora_alpha=16, bias="none", task_type=TaskType.FEATURE_EXTRACTION, **CONFIGS[kind])
        model = get_peft_model(Wrapped(base) if kind == "wrapped" else base, config).eval()
        for name, tensor in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(tensor, std=0.03)
        model.save_pretrained(output / kind)
        np.save(output / kind / "embeddings.npy", embed(model, args.model, texts, args.max_length))
    base = common.load_encoder(args.model).eval()
    np.save(output / "embeddings.npy", embed(base, args.model, texts, args.max_length))
    return {"kinds": list(KINDS), "texts": len(texts)}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="check", required=True)
    for name, check, needs in (
        ("adapter", check_adapter, ("adapter", "embeddings")),
        ("merged", check_merged, ("embeddings",)),
        ("produce", produce, ("output",)),
    ):
        command = commands.add_parser(name)
        command.set_defaults(run=check)
        for option in ("model", "texts", *needs):
            command.add_argument(f"--{option}", required=True)
        command.add_argument("--column", default="product_title", help="of a `.csv` of texts")
        command.add_argument("--max-length", type=int, default=common.MAX_LENGTH, help="tokens a text is cut to")
        command.add_argument("--tolerance", type=float, default=1e-5, help="largest difference of any coordinate")
        command.add_argument("--prompt-name", help="of the merged folder's prompts")
    return parser.parse_args()


def main() -> None:
    args = parse()
    common.deterministic()
    try:
        result = args.run(args)
    except Failed as failure:
        print(f"error: {args.check}: {failure}", file=sys.stderr)
        sys.exit(1)
    print(json.dumps({"check": args.check} | result))


if __name__ == "__main__":
    main()
