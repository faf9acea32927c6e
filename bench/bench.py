"""Loriot beside its Python peers, in one run on one machine: `cargo xtask bench`.

    bench.py [--shared DIR] [--threads 2] [--repeats 3] [--texts 4096] [--output bench/records/NAME.csv]

Each repeat runs every contender once, in turn, so that a busy machine slows all of them. Before anything is timed the answers are
compared: the loss of the first step without dropout, and the vectors of the titles. Rows are those of Home Depot in the shared data,
or the bundled example where they are absent. Times are medians over all steps of all repeats (embedding: over the repeats; the whole process for Loriot, `encode` alone for
the peer); memory is the peak of a fresh process.
"""

import argparse
import csv
import gzip
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WARM_UP = 2
STEPS = 9


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shared = Path(os.environ.get("LORIOT_SHARED", ROOT / ".." / "shared"))
    parser.add_argument("--shared", type=Path, default=shared)
    parser.add_argument("--model", default=os.environ.get("LORIOT_MINILM"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--texts", type=int, default=4096)
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


def peer(script: str, *arguments) -> dict:
    command = [sys.executable, str(ROOT / "bench" / "peers" / script), *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


class Loriot:
    """The release binary, and what it needs to repeat the peers' work."""

    def __init__(self, args, rows: Path, folder: Path):
        self.args, self.rows, self.folder = args, rows, folder
        subprocess.run(["cargo", "build", "--release", "--package", "loriot"], cwd=ROOT, check=True)
        metadata = json.loads(
            subprocess.run(
                ["cargo", "metadata", "--no-deps", "--format-version", "1"], cwd=ROOT, check=True, stdout=subprocess.PIPE
            ).stdout
        )
        self.binary = Path(metadata["target_directory"]) / "release" / "loriot"

    def run(self, *arguments) -> tuple[float, str]:
        """Peak memory in MB, and what was printed on stderr."""
        with tempfile.TemporaryFile("w+") as log:
            command = [str(self.binary), *map(str, arguments)]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
            _, status, usage = os.wait4(process.pid, 0)
            log.seek(0)
            printed = log.read()
        if status != 0:
            raise SystemExit(f"error: {' '.join(command)}\n{printed}")
        return usage.ru_maxrss / 1024, printed

    def steps(self, *more) -> dict:
        """The first steps on the same rows in the same order, as `metrics.jsonl` timed them."""
        run = self.folder / "run"
        eval_rows = self.folder / "eval.csv"
        eval_rows.write_text("query,product_title,relevance_label\na,b,0\na,c,1\n")
        mb, _ = self.run(
            "train", "--model", self.args.model, "--train", self.rows, "--eval", eval_rows, "--output", run, "--overwrite",
            "--no-shuffle", "--max-steps", WARM_UP + STEPS, "--threads", self.args.threads, *more,
        )
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        steps = [line for line in lines if line["event"] == "step"]
        return {
            "ms": [step["ms"] for step in steps[WARM_UP:]],
            "tokens": sum(step["tokens"] for step in steps[WARM_UP:]),
            "first_loss": steps[0]["loss"],
            "peak_rss_mb": mb,
        }

    def embed(self, titles: Path) -> dict:
        """Embeds the titles; the time is that of the whole process, start-up and files included."""
        output = self.folder / "titles.npy"
        output.unlink(missing_ok=True)
        start = time.perf_counter()
        mb, _ = self.run(
            "embed", "--model", self.args.model, "--input", titles, "--output", output, "--max-length", 70,
            "--threads", self.args.threads,
        )
        ms = 1e3 * (time.perf_counter() - start)
        return {"ms": [ms], "peak_rss_mb": mb, "vectors": output}


def summary(what: str, samples: list[float], peak_mb: float, check: str) -> dict:
    return {
        "what": what,
        "median_ms": round(statistics.median(samples), 1),
        "min_ms": round(min(samples), 1),
        "max_ms": round(max(samples), 1),
        "samples": len(samples),
        "peak_rss_mb": round(peak_mb),
        "check": check,
    }


def check_vectors(args, titles: Path, vectors: Path) -> str:
    """The largest difference between Loriot's vectors and sentence-transformers'."""
    report = peer("embed.py", "--rows", titles, "--model", args.model, "--threads", args.threads, "--texts", args.texts,
                  "--repeats", 1, "--batch-size", 32, "--compare", vectors)
    if not report["max_difference"] <= 1e-5:
        raise SystemExit(f"error: vectors differ by {report['max_difference']:.1e}; nothing is timed")
    return f"vectors within {report['max_difference']:.1e}"


def check_loss(args, rows: Path, loriot: Loriot) -> str:
    """The loss of the first step without dropout; B is zero, so that A's start does not matter."""
    want = peer("train_step.py", "--rows", rows, "--model", args.model, "--threads", args.threads, "--no-dropout", "--steps", 1)
    got = loriot.steps("--dropout", 0)["first_loss"]
    if not abs(got - want["first_loss"]) <= 1e-4 * want["first_loss"]:
        raise SystemExit(f"error: first loss is {got}, torch's {want['first_loss']}; nothing is timed")
    return f"first loss within {abs(got / want['first_loss'] - 1):.0e}"


def main() -> None:
    args = parse()
    homedepot = args.shared / "data" / "homedepot" / "train.csv.gz"
    rows = homedepot if homedepot.exists() else ROOT / "examples" / "shop" / "train.csv"
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        loriot = Loriot(args, rows, folder)
        titles = folder / "titles.csv"
        opener = gzip.open if rows.suffix == ".gz" else open
        with opener(rows, "rt", newline="", encoding="utf-8") as source, titles.open("w", newline="", encoding="utf-8") as out:
            distinct = list(dict.fromkeys(row["product_title"] for row in csv.DictReader(source)))[: args.texts]
            writer = csv.writer(out)
            writer.writerow(["product_title"])
            writer.writerows([title] for title in distinct)
        args.texts = len(distinct)

        loss_check = check_loss(args, rows, loriot)
        vector_check = check_vectors(args, titles, loriot.embed(titles)["vectors"])

        contenders = {
            "LoRA step: torch+peft, padded to 70": lambda: peer_steps(args, rows, "--padding", "max_length"),
            "LoRA step: torch+peft, padded to the longest": lambda: peer_steps(args, rows, "--padding", "longest"),
            "LoRA step: Loriot": lambda: loriot.steps(),
            "full step: torch, padded to 70": lambda: peer_steps(args, rows, "--mode", "full"),
            "full step: Loriot": lambda: loriot.steps("--full", "--learning-rate", 2e-5),
            "embed: sentence-transformers, sorted": lambda: peer_embed(args, titles),
            "embed: Loriot": lambda: loriot.embed(titles),
        }
        samples = {name: [] for name in contenders}
        peaks = dict.fromkeys(contenders, 0.0)
        for repeat in range(args.repeats):
            for name, contender in contenders.items():
                result = contender()
                samples[name] += result["ms"]
                peaks[name] = max(peaks[name], result["peak_rss_mb"])
                print(f"repeat {repeat + 1}: {name}: {statistics.median(result['ms']):.0f} ms", file=sys.stderr, flush=True)
    table = [
        summary(name, samples[name], peaks[name], vector_check if name.startswith("embed") else loss_check) for name in contenders
    ]
    print_table(table)
    output = args.output or ROOT / "bench" / "records" / "beside-peers.csv"
    output.parent.mkdir(parents=True, exist_ok=True)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout.strip()
    with output.open("w", newline="", encoding="utf-8") as file:
        context = {"rows": rows.parent.name, "threads": args.threads, "processor": processor(), "commit": commit}
        writer = csv.DictWriter(file, [*table[0], *context])
        writer.writeheader()
        writer.writerows(line | context for line in table)


def peer_steps(args, rows, *more) -> dict:
    return as_result(peer("train_step.py", "--rows", rows, "--model", args.model, "--threads", args.threads, "--steps", STEPS, *more))


def peer_embed(args, titles) -> dict:
    return as_result(
        peer("embed.py", "--rows", titles, "--model", args.model, "--threads", args.threads, "--texts", args.texts, "--repeats", 1)
    )


def as_result(report: dict) -> dict:
    return {"ms": report["all_ms"], "peak_rss_mb": report["peak_rss_mb"]}


def processor() -> str:
    try:
        names = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        return names[0] if names else platform.processor()
    except OSError:
        return platform.processor()


def print_table(table: list[dict]) -> None:
    """A markdown table; each group's last line is Loriot's, the others say how many times slower they are."""
    loriot = {line["what"].split(":")[0]: line for line in table if line["what"].endswith("Loriot")}
    print("| work | median ms | spread | times Loriot's | peak MB | check |\n|---|---|---|---|---|---|")
    for line in table:
        ratio = line["median_ms"] / loriot[line["what"].split(":")[0]]["median_ms"]
        spread = f"{line['min_ms']:.0f}–{line['max_ms']:.0f}"
        print(f"| {line['what']} | {line['median_ms']:.0f} | {spread} | {ratio:.1f} | {line['peak_rss_mb']} | {line['check']} |")


if __name__ == "__main__":
    main()
