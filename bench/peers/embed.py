"""Times one peer embedding texts in process. Prints one JSON line.

`--work`, the same three as crates/loriot-encoder/examples/embed_speed.rs:
- `texts`: real texts, sorted by length and padded to the longest of each batch; tokenisation is part of the time.
- `padded`: texts that are exactly `--length` tokens long, tokenised before the clock starts.
- `query`: the first text that is exactly `--length` tokens long, alone, tokenised before the clock starts.

Every batch size is tried, and the fastest reported.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy
import peer
from tokenizers import Tokenizer


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--input", type=Path, required=True, help="one text a line")
    parser.add_argument("--model", required=True, help="encoder folder")
    parser.add_argument("--engine", choices=["sentence-transformers", "torch", "compiled", "onnxruntime"], required=True)
    parser.add_argument("--precision", choices=["f32", "bf16", "int8"], default="f32", help="bf16: weights and activations")
    parser.add_argument("--work", choices=["texts", "padded", "query"], default="texts")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--length", type=int, default=70, help="tokens of each text, of `padded` and `query`")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--max-length", type=int, default=70)
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each batch size, after one that is not; 0 times nothing")
    parser.add_argument("--vectors", help="`.npy` to write the vectors to, in the order of the texts")
    return parser.parse_args()


def dtype(torch, precision: str):
    return {"f32": torch.float32, "bf16": torch.bfloat16}[precision]


class Torch:
    """The encoder as transformers has it, mean of the real tokens, L2 norm; eager or compiled."""

    def __init__(self, args):
        import torch
        from torch._inductor import config
        from transformers import AutoModel

        torch.set_num_threads(args.threads)
        self.torch = torch
        encoder = AutoModel.from_pretrained(args.model, dtype=dtype(torch, args.precision)).eval()

        def embed(input_ids, attention_mask):
            hidden = encoder(input_ids=input_ids, attention_mask=attention_mask)[0]
            mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
            return torch.nn.functional.normalize(((hidden * mask).sum(1) / mask.sum(1)).float(), dim=1)

        if args.engine == "compiled":
            config.freezing = True  # Weights become constants, which oneDNN packs.
            embed = torch.compile(embed, dynamic=args.work == "texts")
        self.run = embed

    def embed(self, input_ids, attention_mask) -> numpy.ndarray:
        with self.torch.no_grad():
            return self.run(self.torch.from_numpy(input_ids), self.torch.from_numpy(attention_mask)).numpy()


class Onnxruntime:
    """onnxruntime on the graph of export_onnx.py."""

    def __init__(self, args):
        import export_onnx
        import onnxruntime

        self.onnxruntime = onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = args.threads
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "encoder.onnx"
            export_onnx.write(Path(args.model), path, args.precision)
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def embed(self, input_ids, attention_mask) -> numpy.ndarray:
        inputs = {"input_ids": input_ids.astype(numpy.int32), "attention_mask": attention_mask.astype(numpy.int32)}
        return self.session.run(None, inputs)[0]


class Padded:
    """What sentence-transformers does around an engine: tokenise, sort by length, pad each batch to its longest."""

    def __init__(self, args, engine):
        self.engine = engine
        self.tokenizer = Tokenizer.from_file(str(Path(args.model) / "tokenizer.json"))
        self.tokenizer.enable_truncation(args.max_length)
        self.tokenizer.no_padding()

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]

    def embed(self, ids: list[list[int]], batch_size: int) -> numpy.ndarray:
        order = sorted(range(len(ids)), key=lambda text: -len(ids[text]))
        vectors = [None] * len(ids)
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            longest = len(ids[batch[0]])
            input_ids = numpy.zeros((len(batch), longest), numpy.int64)
            mask = numpy.zeros_like(input_ids)
            for row, text in enumerate(batch):
                input_ids[row, : len(ids[text])] = ids[text]
                mask[row, : len(ids[text])] = 1
            for text, vector in zip(batch, self.engine.embed(input_ids, mask)):
                vectors[text] = vector
        return numpy.stack(vectors)

    def embed_texts(self, texts: list[str], batch_size: int) -> numpy.ndarray:
        return self.embed(self.tokenize(texts), batch_size)


class SentenceTransformers:
    """`SentenceTransformer.encode`, which sorts by length itself."""

    def __init__(self, args):
        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(args.threads)
        self.torch = torch
        self.model = SentenceTransformer(args.model, device="cpu", model_kwargs={"dtype": dtype(torch, args.precision)})
        self.model.max_seq_length = args.max_length

    def embed_texts(self, texts: list[str], batch_size: int) -> numpy.ndarray:
        vectors = self.model.encode(texts, batch_size=batch_size, show_progress_bar=False, normalize_embeddings=True)
        return vectors.astype(numpy.float32)


def main() -> None:
    args = parse()
    texts = args.input.read_text(encoding="utf-8").splitlines()
    padded = Padded(args, None)
    ids = padded.tokenize(texts)
    if args.engine == "sentence-transformers":
        engine = SentenceTransformers(args)
    else:
        padded.engine = engine = Onnxruntime(args) if args.engine == "onnxruntime" else Torch(args)
    n_calls, batch_sizes = 1, args.batch_size
    if args.work == "texts":
        embed = lambda size: (engine if args.engine == "sentence-transformers" else padded).embed_texts(texts, size)
    else:
        ids = [text for text in ids if len(text) == args.length]
        if not ids:
            raise SystemExit(f"error: `{args.input}` has no text of {args.length} tokens")
        if args.work == "query":
            ids, batch_sizes, n_calls = ids[:1], [1], 50
        embed = lambda size: padded.embed(ids, size)
    clocks = {size: peer.Clock() for size in batch_sizes}
    for batch_size, clock in clocks.items():
        vectors = embed(batch_size)
        for _ in range(args.repeats):
            with clock:
                for _ in range(n_calls):
                    embed(batch_size)
        clock.ms = [ms / n_calls for ms in clock.ms]
    best = min(clocks, key=lambda size: statistics.median(clocks[size].ms or [0.0]))
    if args.vectors:
        numpy.save(args.vectors, vectors)
    library = "onnxruntime" if args.engine == "onnxruntime" else "torch"
    peer.report(
        f"{args.engine}, {args.precision}, {args.work}",
        clocks[best],
        batch_size=best,
        lengths=[list(map(len, ids))],
        versions={library: getattr(engine, library).__version__},
    )


if __name__ == "__main__":
    main()
