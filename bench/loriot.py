"""Loriot's side of the benchmark: the release binary, and the examples that time it in process."""

import json
import subprocess
from pathlib import Path

import process
from rows import ROOT

EXAMPLES = {"embed_speed": "loriot-encoder", "gemm_peak": "loriot-kernels", "index_speed": "loriot-index"}


class Loriot:
    def __init__(self, folder: Path, tries: int):
        """Builds what is measured; `folder` is for what a measured process writes."""
        self.folder, self.tries = folder, tries
        self.cargo("build", "--release", "--package", "loriot")
        for example, package in EXAMPLES.items():
            self.cargo("build", "--release", "--package", package, "--example", example)
        metadata = self.cargo("metadata", "--no-deps", "--format-version", "1", stdout=subprocess.PIPE).stdout
        self.release = Path(json.loads(metadata)["target_directory"]) / "release"

    def cargo(self, *arguments: str, **more):
        return subprocess.run(["cargo", *arguments], cwd=ROOT, check=True, **more)

    def run(self, *command) -> process.Finished:
        try:
            return process.run(*command, tries=self.tries)
        except process.Failed as failed:
            raise SystemExit(f"error: {failed}") from None

    def example(self, name: str, *arguments) -> process.Finished:
        return self.run(self.release / "examples" / name, *arguments)

    def train(self, model, rows, precision: str, mode: str, threads: int, batch_size: int, n_steps: int, *more) -> dict:
        """The first steps on the rows in their order, as `metrics.jsonl` timed them, and the peak of the whole process."""
        output, eval_rows = self.folder / "run", self.folder / "eval.csv"
        eval_rows.write_text("query,product_title,relevance_label\na,b,0\na,c,1\n")
        command = [
            self.release / "loriot", "train", "--model", model, "--train", rows, "--eval", eval_rows, "--output", output,
            "--overwrite", "--no-shuffle", "--max-steps", n_steps, "--batch-size", batch_size, "--threads", threads,
            "--precision", precision, *more,
        ]
        if mode == "full":
            command += ["--full", "--learning-rate", 2e-5]
        finished = self.run(*command)
        lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
        steps = [line for line in lines if line["event"] == "step"]
        return {
            "ms": [step["ms"] for step in steps],
            "tokens": [step["tokens"] for step in steps],
            "first_loss": steps[0]["loss"],
            "peak_mb": finished.peak_mb,
            "others": finished.others,
        }

    def peak_gflops(self, precision: str) -> float:
        """The peak of one core at a precision, by a loop of independent multiply-adds, now."""
        return max(line["peak_gflops"] for line in self.gemm(precision, "64 rows, 384 to 384")[0])

    def gemm(self, precision: str, shapes: str = "") -> tuple[list[dict], float]:
        """What `gemm_peak --json` says of the forward products of one precision, or of some `shapes`, and what others used."""
        finished = self.example("gemm_peak", "--json", f"{precision} forward {shapes}")
        return [json.loads(line) for line in finished.stdout.splitlines()], finished.others
