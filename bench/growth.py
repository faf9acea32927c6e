"""How Loriot's cost grows: tokens of a text, pairs of a batch, layers, threads, texts of a catalogue. `cargo xtask growth`.

    growth.py [--only tokens,batch,layers,threads,texts] [--precision f32] [--largest 100000] [--repeats 3]

Nothing is compared with anybody here; bench.py does that, and checks the answers. `texts` stops at `--largest`: a million takes
hours, and is made from the titles of the shared data, each joined with another. Figures are medians of the repeats; they go to
records/growth.csv and growth.svg.
"""

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

import numpy
import process
import rows
import svg
import table
from loriot import ROOT, Loriot
from process import note

SECTIONS = ["tokens", "batch", "layers", "threads", "texts"]
WARM_UP, STEPS = 1, 3
N_QUERIES = 100


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shared = Path(os.environ.get("LORIOT_SHARED", ROOT / ".." / "shared"))
    parser.add_argument("--shared", type=Path, default=shared)
    parser.add_argument("--model", default=os.environ.get("LORIOT_MINILM"), help="encoder folder")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, separated by commas")
    parser.add_argument("--precision", default="f32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--largest", type=int, default=100_000, help="texts, from 1,000 on in tenfold steps")
    parser.add_argument("--records", type=Path, default=ROOT / "bench" / "records")
    args = parser.parse_args()
    args.only = args.only.split(",")
    if unknown := set(args.only) - set(SECTIONS):
        parser.error(f"no section `{', '.join(unknown)}`; there are: {', '.join(SECTIONS)}")
    return args


class Growth:
    def __init__(self, args, folder: Path):
        self.args, self.folder = args, folder
        self.loriot = Loriot(folder, tries=1)
        self.pairs = rows.pairs_path(args.shared)
        self.titles = rows.read_titles(self.pairs)
        self.records = []

    def record(self, section: str, x: float, what: str, values: list[float], unit: str, peak_mb: float) -> None:
        line = {"section": section, "x": x, "what": what, "median": statistics.median(values), "min": min(values), "max": max(values)}
        self.records.append({key: table.shown(value) for key, value in (line | {"unit": unit, "peak_mb": peak_mb}).items()})
        note(f"{section} {x:g}: {what}: {line['median']:.4g} {unit}")

    def write(self, texts: list[str]) -> Path:
        path = self.folder / "texts.txt"
        path.write_text("\n".join(texts) + "\n", encoding="utf-8")
        return path

    def embed(self, texts: list[str], *more, model=None, threads=None) -> tuple[dict, float]:
        path, threads = self.write(texts), threads or self.args.threads
        common = ["--model", model or self.args.model, "--input", path, "--threads", threads, "--precision", self.args.precision]
        finished = self.loriot.example("embed_speed", *common, *more)
        return finished.json(), finished.peak_mb

    def tokens(self) -> None:
        """Texts of one length, as many as come to 16,384 tokens."""
        for length in (4, 8, 16, 32, 64, 128, 256, 512):
            texts = [" ".join(self.titles[(at * 7 + k) % len(self.titles)] for k in range(4 + length // 4)) for at in range(16_384 // length)]
            more = ["--work", "padded", "--length", length, "--max-length", length, "--repeats", self.args.repeats]
            report, peak_mb = self.embed(texts, *more)
            n_tokens = sum(map(sum, report["lengths"]))
            self.record("tokens", length, "embedding", [1e3 * ms / n_tokens for ms in report["ms"]], "µs a token", peak_mb)

    def batch(self) -> None:
        """A LoRA step of so many pairs."""
        for pairs in (8, 16, 32, 64, 128, 256):
            self.step("batch", pairs, self.args.model, self.args.threads, pairs)

    def step(self, section: str, x: int, model, threads: int, pairs: int) -> None:
        ms, peak_mb = [], 0.0
        for _ in range(self.args.repeats):
            run = self.loriot.train(model, self.pairs, self.args.precision, "lora", threads, pairs, WARM_UP + STEPS)
            ms += run["ms"][WARM_UP:]
            peak_mb = max(peak_mb, run["peak_mb"])
        self.record(section, x, "LoRA step", ms, "ms", peak_mb)

    def layers(self) -> None:
        """Random encoders of MiniLM's width: a LoRA step of 64 pairs, and 512 titles embedded."""
        for layers in (3, 6, 12, 24):
            model = self.folder / f"layers-{layers}"
            shape = ["--layers", layers, "--width", 384, "--heads", 12, "--feed-forward", 1536]
            process.run(sys.executable, ROOT / "bench" / "peers" / "make_shape.py", "--tokenizer", self.args.model, "--output", model, *shape)
            self.step("layers", layers, model, self.args.threads, 64)
            report, peak_mb = self.embed(self.titles[:512], "--repeats", self.args.repeats, model=model)
            self.record("layers", layers, "512 titles", report["ms"], "ms", peak_mb)

    def threads(self) -> None:
        """A LoRA step of 64 pairs, and 1,024 titles embedded, on 1 thread to as many as there are cores."""
        for threads in range(1, os.cpu_count() + 1):
            self.step("threads", threads, self.args.model, threads, 64)
            report, peak_mb = self.embed(self.titles[:1024], "--repeats", self.args.repeats, threads=threads)
            self.record("threads", threads, "1,024 titles", report["ms"], "ms", peak_mb)

    def texts(self) -> None:
        """Embedding a catalogue, building its index, asking it."""
        titles = rows.read_titles(rows.catalogue_path(self.args.shared))
        n_texts = 1_000
        while n_texts <= self.args.largest:
            vectors = self.folder / "vectors.f32"
            report, peak_mb = self.embed(rows.distinct(titles, n_texts), "--repeats", 1, "--vectors", vectors)
            self.record("texts", n_texts, "embedding", [ms / 1e3 for ms in report["ms"]], "s", peak_mb)
            vectors_cd = numpy.memmap(vectors, "<f4", "r").reshape(n_texts, -1)
            queries = self.folder / "queries.f32"
            numpy.ascontiguousarray(vectors_cd[:: n_texts // N_QUERIES]).tofile(queries)
            finished = self.loriot.example("index_speed", vectors, queries, vectors_cd.shape[1], self.args.threads)
            built = finished.json()
            self.record("texts", n_texts, "index", [built["build_ms"] / 1e3], "s", finished.peak_mb)
            self.record("texts", n_texts, "query, graph", [ms / 1e3 for ms in built["query_ms"]], "s", finished.peak_mb)
            self.record("texts", n_texts, "query, exact", [ms / 1e3 for ms in built["exact_ms"]], "s", finished.peak_mb)
            n_texts *= 10


CHARTS = [
    ("tokens", "Embedding, by the length of the texts", "tokens of a text"),
    ("batch", "A LoRA step, by its batch", "pairs"),
    ("layers", "By the number of layers", "layers"),
    ("threads", "By the number of threads", "threads"),
    ("texts", "A catalogue, by its size", "texts"),
]


def draw(records: list[dict], path: Path, title: str) -> None:
    charts = []
    for section, name, x_name in CHARTS:
        mine = [record for record in records if record["section"] == section]
        lines = {}
        for record in mine:
            lines.setdefault(record["what"], []).append((record["x"], record["median"]))
        if any(len(line) > 1 for line in lines.values()):
            charts.append((name, x_name, mine[0]["unit"], lines))
    if charts:
        path.write_text(svg.line_charts(title, charts), encoding="utf-8")


def main() -> None:
    args = parse()
    with tempfile.TemporaryDirectory() as folder:
        growth = Growth(args, Path(folder))
        for section in SECTIONS:
            if section in args.only:
                getattr(growth, section)()
    about = rows.context(growth.pairs) | {"precision": args.precision, "threads": args.threads}
    table.write_csv(growth.records, args.records / "growth.csv", about)
    draw(growth.records, args.records.parent / "growth.svg", f"Loriot's cost, {args.precision}, {args.threads} threads, {about['processor']}")


if __name__ == "__main__":
    main()
