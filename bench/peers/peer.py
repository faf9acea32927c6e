"""What the peer benchmarks share: reading rows, peak memory, and the one JSON line that each prints."""

import csv
import gzip
import json
import os
import statistics
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def read_rows(path, limit: int) -> list[dict]:
    """The first `limit` rows of a `.csv` or `.csv.gz`."""
    opener = gzip.open if str(path).endswith(".gz") else open
    with opener(path, "rt", newline="", encoding="utf-8") as file:
        rows = [row for _, row in zip(range(limit), csv.DictReader(file))]
    if len(rows) < limit:
        raise SystemExit(f"error: `{path}` has {len(rows)} rows, expected at least {limit}")
    return rows


def peak_rss_mb() -> float:
    """The most memory that this process ever held (VmHWM): each benchmark is a process of its own."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmHWM in /proc/self/status")


def times(ms: list[float]) -> dict:
    return {
        "median_ms": round(statistics.median(ms), 2),
        "min_ms": round(min(ms), 2),
        "max_ms": round(max(ms), 2),
        "samples": len(ms),
    }


def report(what: str, ms: list[float], **more) -> None:
    print(json.dumps({"what": what, **times(ms), "all_ms": [round(t, 2) for t in ms], "peak_rss_mb": round(peak_rss_mb()), **more}))
