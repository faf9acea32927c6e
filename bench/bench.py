"""Loriot beside its Python peers, in one run on one machine: `cargo xtask bench`.

    bench.py [--only steps,e5,embed,padded,query,gemm,index] [--precision f32,bf16,int8] [--repeats 3] [--threads 2] [--texts 2048]

Each repeat runs every contender once, in turn, each in a process of its own, so that a busy machine slows all of them; a process
beside which others used the machine is run again. Before anything is timed the answers are compared: of training, the loss of the
first step without dropout; of embedding, the vectors. Rows are those of Home Depot in the shared data, or the bundled example
where they are absent. Only real tokens and useful flops count (flops.py), and the peak of a core is measured in the same run.
"""

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

import numpy
import process
import rows
import table
from flops import Encoder
from loriot import Loriot
from process import note
from rows import ROOT
from table import Row

SECTIONS = ["steps", "e5", "embed", "padded", "query", "gemm", "index"]
PICTURED = SECTIONS[:5]
WARM_UP, STEPS = 2, 9
LENGTH, QUERY_LENGTH = 70, 7
E5_SHAPE = ["--layers", 24, "--width", 1024, "--heads", 16, "--feed-forward", 4096]
QUERY = "red kettle for the kitchen"
# How far the first percentile of cosines to torch's f32 vectors may be from 1; f32 is held to the largest difference instead.
LEAST_COSINE = {"bf16": 0.999, "int8": 0.99}
MOST_DIFFERENCE = 1e-5
# How far a first loss may be from torch's in f32.
LOSS_TOLERANCE = {"f32": 1e-4, "bf16": 1e-2}


@dataclass
class Contender:
    """Somebody who does a piece of work: `run` times it once, in a fresh process."""

    work: str
    name: str
    precision: str
    run: Callable[[], dict]
    threads: int
    check: str
    flops: Callable[[dict], float]
    target: float | None = None
    target_mb: float | None = None
    results: list[dict] = field(default_factory=list)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shared = Path(os.environ.get("LORIOT_SHARED", ROOT / ".." / "shared"))
    parser.add_argument("--shared", type=Path, default=shared)
    parser.add_argument("--model", default=os.environ.get("LORIOT_MINILM"), help="encoder folder")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, separated by commas")
    parser.add_argument("--precision", default="f32,bf16,int8", help="precisions, separated by commas")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tries", type=int, default=3, help="of a process beside which others used the machine")
    parser.add_argument("--texts", type=int, default=2048)
    parser.add_argument("--vectors", type=int, default=20_000, help="of the index")
    parser.add_argument("--records", type=Path, default=ROOT / "bench" / "records")
    args = parser.parse_args()
    args.only, args.precision = args.only.split(","), args.precision.split(",")
    if unknown := set(args.only) - set(SECTIONS):
        parser.error(f"no section `{', '.join(unknown)}`; there are: {', '.join(SECTIONS)}")
    if not args.model:
        parser.error("`--model` is needed, or LORIOT_MINILM")
    return args


class Bench:
    def __init__(self, args, folder: Path):
        self.args, self.folder = args, folder
        self.loriot = Loriot(folder, args.tries)
        self.pairs = rows.pairs_path(args.shared)
        self.peaks: dict[str, list[float]] = {}
        titles = rows.distinct(rows.read_titles(self.pairs), max(args.texts, 300))
        self.inputs = {
            "texts": self.write_lines("titles.txt", titles[: args.texts]),
            # Some titles in a row are longer than `LENGTH`, and are cut to it.
            "padded": self.write_lines("long.txt", [" ".join(titles[at : at + 12]) for at in range(256)]),
            "query": self.write_lines("query.txt", [QUERY]),
        }

    def write_lines(self, name: str, lines: list[str]) -> Path:
        path = self.folder / name
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    def peer(self, script: str, *arguments) -> dict:
        try:
            finished = process.run(sys.executable, ROOT / "bench" / "peers" / script, *arguments, tries=self.args.tries)
        except process.Failed as failed:
            raise SystemExit(f"error: {failed}") from None
        return finished.json() | {"peak_mb": finished.peak_mb, "others": finished.others}

    def measure_peak(self, precisions: set[str]) -> None:
        for precision in precisions:
            self.peaks.setdefault(precision, []).append(self.loriot.peak_gflops(precision))

    def in_turn(self, contenders: list[Contender]) -> list[Row]:
        """Runs every contender once in each repeat."""
        for repeat in range(self.args.repeats):
            self.measure_peak({contender.precision for contender in contenders})
            for contender in contenders:
                result = contender.run()
                contender.results.append(result)
                note(f"repeat {repeat + 1}: {contender.work}: {contender.name}: {statistics.median(result['ms']):.4g} ms")
        found = [self.row(contender) for contender in contenders]
        table.ratios(found)
        return found

    def row(self, contender: Contender) -> Row:
        results = contender.results
        return Row(
            contender.work,
            contender.name,
            contender.threads,
            contender.check,
            ms=[ms for result in results for ms in result["ms"]],
            peak_mb=max(result["peak_mb"] for result in results),
            flops=contender.flops(results[0]),
            peak_gflops=statistics.median(self.peaks[contender.precision]),
            others=max(result["others"] for result in results),
            batches=batches(results[0]["lengths"]),
            target=contender.target,
            target_mb=contender.target_mb,
        )

    # --- training steps -------------------------------------------------------------------------------------------------------

    def steps(self) -> list[Row]:
        """The reference's step and torch's best beside Loriot's, and Loriot's on one thread."""
        least = {("lora", "f32"): (13, 4, 450), ("lora", "bf16"): (11, 3.5, 350), ("full", "f32"): (9, None, None), ("full", "bf16"): (8, None, None)}
        contenders = []
        for (mode, precision), targets in least.items():
            if precision in self.args.precision:
                contenders += self.step_contenders("", self.args.model, mode, precision, 64, STEPS, targets)
        found = self.in_turn(contenders)
        return found + self.against_itself(found)

    def e5(self) -> list[Row]:
        model = self.folder / "e5-shape"
        self.peer_quietly("make_shape.py", "--tokenizer", self.args.model, "--output", model, *E5_SHAPE)
        contenders = []
        for precision, targets in {"f32": (10, None, 2400), "bf16": (8, None, 1400)}.items():
            if precision in self.args.precision:
                contenders += self.step_contenders("e5-large shape, ", model, "lora", precision, 8, 3, targets)
        return self.in_turn(contenders)

    def peer_quietly(self, script: str, *arguments) -> None:
        """Runs a peer's script that times nothing."""
        process.run(sys.executable, ROOT / "bench" / "peers" / script, *arguments)

    def step_contenders(self, shape: str, model, mode: str, precision: str, batch: int, n_steps: int, targets) -> list[Contender]:
        work = f"{shape}{'LoRA' if mode == 'lora' else 'full'} step of {batch} pairs, {precision}"
        check = self.check_loss(model, mode, precision, batch)
        encoder = Encoder(model)
        count = encoder.lora_step if mode == "lora" else encoder.full_step
        flops = lambda result: statistics.mean(map(count, result["lengths"]))
        common = ["--rows", self.pairs, "--model", model, "--mode", mode, "--precision", precision, "--batch-size", batch]
        lengths = []

        def torch(*more) -> Callable[[], dict]:
            def run() -> dict:
                result = self.peer("train_step.py", *common, "--threads", self.args.threads, "--steps", n_steps, *more)
                lengths[:] = result["lengths"]
                return result

            return run

        def ours(threads: int) -> Callable[[], dict]:
            def run() -> dict:
                result = self.loriot.train(model, self.pairs, precision, mode, threads, batch, WARM_UP + n_steps)
                expected = [sum(step) for step in lengths]
                if result["tokens"][WARM_UP:] != expected:
                    raise SystemExit(f"error: Loriot took steps of {result['tokens'][WARM_UP:]} tokens, torch of {expected}")
                return result | {"ms": result["ms"][WARM_UP:], "lengths": list(lengths)}

            return run

        peft = "torch+peft" if mode == "lora" else "torch"
        cast = "" if precision == "f32" else ", autocast"
        versus_reference, versus_best, most_mb = targets
        found = [(f"{peft}{cast}, padded to {LENGTH}: the reference", torch(), self.args.threads, versus_reference, None)]
        if mode == "lora" and not shape:
            found += [
                (f"{peft}{cast}, padded to the longest", torch("--padding", "longest"), self.args.threads, versus_best, None),
                (f"{peft}{cast}, padded to the longest, compiled", torch("--padding", "longest", "--compile"), self.args.threads, versus_best, None),
            ]
        found.append(("Loriot", ours(self.args.threads), self.args.threads, None, most_mb))
        if not shape and self.args.threads > 1:
            found.append(("Loriot, 1 thread", ours(1), 1, 0.9 * self.args.threads, None))
        return [Contender(work, name, precision, run, threads, check, flops, *more) for name, run, threads, *more in found]

    def check_loss(self, model, mode: str, precision: str, batch: int) -> str:
        """The loss of the first step without dropout beside torch's in f32; B is zero, so that A's start does not matter."""
        got = self.loriot.train(model, self.pairs, precision, mode, self.args.threads, batch, 1, "--dropout", 0)["first_loss"]
        arguments = ["--rows", self.pairs, "--model", model, "--mode", mode, "--batch-size", batch, "--threads", self.args.threads]
        want = self.peer("train_step.py", *arguments, "--no-dropout", "--warm-up", 0, "--steps", 1)["first_loss"]
        error = abs(got / want - 1)
        if not error <= LOSS_TOLERANCE[precision]:
            raise SystemExit(f"error: the first loss is {got}, torch's {want}; nothing is timed")
        return f"first loss within {error:.0e}"

    def against_itself(self, found: list[Row]) -> list[Row]:
        """LoRA against Loriot's own full fine-tuning of the same batches: rows of full steps, with LoRA's time as the unit."""
        mine = {row.work: row for row in found if row.contender == "Loriot"}
        more = []
        for precision in self.args.precision:
            lora, full = (mine.get(f"{mode} step of 64 pairs, {precision}") for mode in ("LoRA", "full"))
            if lora and full:
                fields = {key: getattr(full, key) for key in ("threads", "check", "ms", "flops", "peak_gflops", "others", "batches")}
                row = Row(work=lora.work, contender="Loriot, full fine-tuning", peak_mb=full.peak_mb, **fields)
                row.ratio, row.target = full.median_ms / lora.median_ms, round(1 / 0.67, 2)
                row.quiet = lora.quiet and full.quiet
                more.append(row)
                note(f"LoRA over full, {precision}: time {lora.median_ms / full.median_ms:.2f} (at most 0.67), memory {lora.peak_mb / full.peak_mb:.2f} (at most 0.5)")
        return more

    # --- embedding ------------------------------------------------------------------------------------------------------------

    def embed(self) -> list[Row]:
        best = {"f32": 1.8, "bf16": 1.5}
        return self.embedding(
            "texts",
            f"embed {self.args.texts} titles",
            [
                ("sentence-transformers", "f32", None),
                ("torch", "f32", 2.7),
                ("compiled", "f32", best["f32"]),
                ("onnxruntime", "f32", best["f32"]),
                ("sentence-transformers", "bf16", None),
                ("torch", "bf16", 2.2),
                ("compiled", "bf16", best["bf16"]),
                ("onnxruntime", "int8", 1.8),
            ],
            1.8,
        )

    def padded(self) -> list[Row]:
        peers = [("onnxruntime", "f32", 1.1), ("compiled", "bf16", 1.1), ("torch", "bf16", None), ("onnxruntime", "int8", 1.1)]
        return self.embedding("padded", f"embed 256 texts of {LENGTH} tokens", peers, None)

    def query(self) -> list[Row]:
        peers = [
            ("torch", "f32", None),
            ("onnxruntime", "f32", None),
            ("torch", "bf16", round(1 / 0.18, 2)),
            ("compiled", "bf16", None),
            ("onnxruntime", "int8", round(1 / 0.7, 2)),
        ]
        return self.embedding("query", f"encode one query of {QUERY_LENGTH} tokens", peers, None)

    def embedding(self, work: str, title: str, peers: list[tuple], least_scaling: float | None) -> list[Row]:
        encoder, threads = Encoder(self.args.model), self.args.threads
        length = QUERY_LENGTH if work == "query" else LENGTH
        common = ["--input", self.inputs[work], "--model", self.args.model, "--work", work, "--length", length]
        flops = lambda result: sum(map(encoder.forward, result["lengths"]))
        truth = self.folder / "truth.npy"
        self.peer("embed.py", *common, "--engine", "torch", "--threads", threads, "--repeats", 0, "--vectors", truth)

        def peer_run(engine: str, precision: str, *more) -> Callable[[], dict]:
            return lambda: self.peer("embed.py", *common, "--engine", engine, "--precision", precision, "--threads", threads, *more)

        def our_run(precision: str, threads: int, *more) -> Callable[[], dict]:
            def run() -> dict:
                finished = self.loriot.example("embed_speed", *common, "--precision", precision, "--threads", threads, *more)
                return finished.json() | {"peak_mb": finished.peak_mb, "others": finished.others}

            return run

        contenders = []
        for precision in self.args.precision:
            at = f"{title}, {precision}"
            vectors = self.folder / "vectors"
            for engine, its_precision, target in peers:
                if its_precision == precision:
                    path = vectors.with_suffix(".npy")
                    peer_run(engine, precision, "--repeats", 0, "--batch-size", 64, "--vectors", path)()
                    check = compare(numpy.load(path), numpy.load(truth), precision, f"{engine}, {precision}")
                    contenders.append(Contender(at, engine, precision, peer_run(engine, precision), threads, check, flops, target))
            our_run(precision, threads, "--repeats", 0, "--vectors", vectors)()
            want = numpy.load(truth)
            check = compare(numpy.fromfile(vectors, "<f4").reshape(want.shape), want, precision, f"Loriot, {precision}")
            contenders.append(Contender(at, "Loriot", precision, our_run(precision, threads), threads, check, flops))
            if threads > 1 and least_scaling:
                alone = our_run(precision, 1)
                contenders.append(Contender(at, "Loriot, 1 thread", precision, alone, 1, check, flops, 0.9 * threads))
        return self.in_turn(contenders)

    # --- products -------------------------------------------------------------------------------------------------------------

    def gemm(self) -> list[dict]:
        """oneDNN's products with packed weights beside Loriot's, one thread each: the median of the repeats, shape by shape."""
        ours, theirs, peaks, others = defaultdict(list), defaultdict(list), defaultdict(list), defaultdict(float)
        for _ in range(self.args.repeats):
            for precision in self.args.precision:
                lines, mine = self.loriot.gemm(precision)
                sizes = sorted({line["m"] for line in lines})
                command = [sys.executable, ROOT / "bench" / "peers" / "gemm.py", "--precision", precision, "--m", *sizes]
                finished = process.run(*command, tries=self.args.tries)
                others[precision] = max(others[precision], mine, finished.others)
                for line in lines:
                    ours[shape_of(line)].append(line["gflops"])
                    peaks[precision].append(line["peak_gflops"])
                for line in map(json.loads, finished.stdout.splitlines()):
                    theirs[shape_of(line)].append(line["gflops"])
        records = []
        for shape in theirs.keys() & ours.keys():
            mine, peer, peak = (statistics.median(speeds) for speeds in (ours[shape], theirs[shape], peaks[shape[0]]))
            figures = {"loriot_gflops": mine, "onednn_gflops": peer, "ratio": round(mine / peer, 3)}
            shares = {"peak_gflops": round(peak, 1), "share_of_peak": round(mine / peak, 3)}
            spread = {"loriot_min": min(ours[shape]), "loriot_max": max(ours[shape]), "onednn_min": min(theirs[shape]), "onednn_max": max(theirs[shape])}
            records.append(dict(zip(("precision", "m", "k", "n"), shape)) | figures | shares | spread | {"others": round(others[shape[0]], 2)})
        records.sort(key=lambda line: tuple(line.values())[:4])
        print_products(records)
        return records

    # --- index ----------------------------------------------------------------------------------------------------------------

    def index(self) -> list[dict]:
        """hnswlib beside Loriot's index, over the same vectors of real titles."""
        titles = rows.distinct(rows.read_titles(rows.catalogue_path(self.args.shared)), self.args.vectors + 200)
        texts = self.write_lines("catalogue.txt", titles)
        embedded = self.folder / "catalogue.f32"
        command = ["--input", texts, "--model", self.args.model, "--threads", self.args.threads, "--repeats", 0, "--vectors", embedded]
        self.loriot.example("embed_speed", *command)
        dim = Encoder(self.args.model).d
        vectors = numpy.fromfile(embedded, "<f4").reshape(-1, dim)
        # Every so many titles is a query, and not in the index.
        is_query = numpy.zeros(len(vectors), bool)
        is_query[:: len(vectors) // 200] = True
        paths = self.folder / "vectors.f32", self.folder / "queries.f32"
        vectors[~is_query].tofile(paths[0])
        vectors[is_query].tofile(paths[1])
        arguments = [*paths, dim, self.args.threads]
        samples = {(name, connectivity): [] for connectivity in (100, 16) for name in ("hnswlib", "Loriot")}
        for _ in range(self.args.repeats):
            for (name, connectivity), runs in samples.items():
                if name == "hnswlib":
                    runs.append(process.run(sys.executable, ROOT / "bench" / "peers" / "hnsw.py", *arguments, connectivity))
                else:
                    runs.append(self.loriot.example("index_speed", *arguments, connectivity))
        records = []
        for (name, connectivity), runs in samples.items():
            reports = [run.json() for run in runs]
            builds = [report["build_ms"] for report in reports]
            queries = [ms for report in reports for ms in report["query_ms"]]
            records.append(
                {
                    "contender": name, "connectivity": connectivity, "threads": self.args.threads, "vectors": int((~is_query).sum()), "dim": dim, "queries": int(is_query.sum()),
                    "build_s": round(statistics.median(builds) / 1e3, 2),
                    "build_s_min": round(min(builds) / 1e3, 2), "build_s_max": round(max(builds) / 1e3, 2),
                    "recall_at_10": round(statistics.median(report["recall"] for report in reports), 4),
                    "query_ms": round(statistics.median(queries), 4),
                    "query_ms_p5": round(float(numpy.quantile(queries, 0.05)), 4), "query_ms_p95": round(float(numpy.quantile(queries, 0.95)), 4),
                    "peak_mb": round(max(run.peak_mb for run in runs)), "others": round(max(run.others for run in runs), 2),
                }
            )
        print_records(records)
        return records


def shape_of(line: dict) -> tuple:
    return line["precision"], line["m"], line["k"], line["n"]


def print_products(records: list[dict]) -> None:
    """Geometric means, as one line for each precision and size of M, then every shape."""
    print("| products, one thread | Loriot GFLOP/s | oneDNN packed | ratio | share of peak |\n|---|--:|--:|--:|--:|")
    for precision in dict.fromkeys(line["precision"] for line in records):
        for name, fits in (("M >= 512", lambda m: m >= 512), ("M <= 64", lambda m: m <= 64)):
            group = [line for line in records if line["precision"] == precision and fits(line["m"])]
            if group:
                mean = lambda key: math.exp(statistics.mean(math.log(line[key]) for line in group))
                cells = [f"{mean(key):.0f}" for key in ("loriot_gflops", "onednn_gflops")]
                print(f"| {precision}, {name} | {' | '.join(cells)} | {mean('ratio'):.2f} | {100 * mean('share_of_peak'):.0f} % |")
    print()
    print_records(records)


def print_records(records: list[dict]) -> None:
    if records:
        print("| " + " | ".join(records[0]) + " |\n" + "|---" * len(records[0]) + "|")
        print("\n".join("| " + " | ".join(map(str, record.values())) + " |" for record in records) + "\n")


def compare(got, want, precision: str, whose: str) -> str:
    """Vectors against torch's in f32. Peers and Loriot are held to the same."""
    difference = float(abs(got - want).max())
    if precision == "f32":
        if not difference <= MOST_DIFFERENCE:
            raise SystemExit(f"error: {whose}: vectors differ by {difference:.1e}; nothing is timed")
        return f"vectors within {difference:.0e}"
    cosine = float(numpy.quantile((got * want).sum(1), 0.01))
    if not cosine >= LEAST_COSINE[precision]:
        text = f"{whose}: the first percentile of cosines to f32 is {cosine:.4f}, expected {LEAST_COSINE[precision]}"
        if whose.startswith("Loriot"):
            raise SystemExit(f"error: {text}; nothing is timed")
        note(f"warning: {text}")
    return f"cosine to f32 {cosine:.4f} at 1 %"


def batches(lengths: list[list[int]]) -> str:
    """What was computed: how many batches, texts, real tokens, and how long the texts are."""
    texts = [length for batch in lengths for length in batch]
    spread = f"{min(texts)} to {max(texts)}, median {statistics.median(texts):g}"
    return f"{len(lengths)} x {len(lengths[0])} texts, {sum(texts)} tokens, lengths {spread}"


def main() -> None:
    args = parse()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args, Path(folder))
        about = rows.context(bench.pairs)
        for section in SECTIONS:
            if section in args.only:
                found = getattr(bench, section)()
                if section not in ("gemm", "index"):
                    print(table.markdown(found) + "\n", flush=True)
                    found = [row.record() for row in found]
                table.write_csv(found, args.records / f"{section}.csv", about)
    records = [record for section in PICTURED for record in table.read_csv(args.records / f"{section}.csv")]
    title = f"Time beside Python's, {args.threads} threads, {about['processor']}"
    table.draw(records, args.records.parent / "beside-peers.svg", title)


if __name__ == "__main__":
    main()
