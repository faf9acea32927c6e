"""Times sentence-transformers embedding titles in f32, sorted by length as its `encode` does. Prints one JSON line.

Every batch size is tried and the fastest reported; tokenisation is part of the time, as it is part of Loriot's.
"""

import argparse
import statistics
import time

import numpy
import peer
import torch
from sentence_transformers import SentenceTransformer
from transformers.utils import logging


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", required=True, help="`.csv` or `.csv.gz`")
    parser.add_argument("--column", default="product_title")
    parser.add_argument("--model", required=True, help="encoder folder")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--texts", type=int, default=2048, help="how many rows to embed")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--max-length", type=int, default=70)
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each batch size, after a short one that is not")
    parser.add_argument("--compare", help="`.npy` of another's vectors: report the largest difference")
    return parser.parse_args()


def main() -> None:
    args = parse()
    logging.disable_progress_bar()
    torch.set_num_threads(args.threads)
    texts = [row[args.column] for row in peer.read_rows(args.rows, args.texts)]
    model = SentenceTransformer(args.model, device="cpu", model_kwargs={"dtype": torch.float32})
    model.max_seq_length = args.max_length
    model.encode(texts[:128], show_progress_bar=False)
    milliseconds = {}
    for batch_size in args.batch_size:
        milliseconds[batch_size] = []
        for _ in range(args.repeats):
            start = time.perf_counter()
            model.encode(texts, batch_size=batch_size, show_progress_bar=False)
            milliseconds[batch_size].append(1e3 * (time.perf_counter() - start))
    more = {}
    if args.compare:
        vectors = model.encode(texts, show_progress_bar=False, normalize_embeddings=True)
        more["max_difference"] = float(abs(vectors - numpy.load(args.compare)).max())
    best = min(milliseconds, key=lambda batch_size: statistics.median(milliseconds[batch_size]))
    peer.report(
        "sentence-transformers embed, f32, sorted by length",
        milliseconds[best],
        threads=args.threads,
        texts=len(texts),
        texts_per_s=round(1e3 * len(texts) / statistics.median(milliseconds[best]), 1),
        batch_size=best,
        torch=torch.__version__,
        **more,
    )


if __name__ == "__main__":
    main()
