"""What the peer benchmarks share: reading rows, the clock, and the one JSON line that each prints."""

import csv
import gzip
import json
import os
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def read_rows(path, limit: int) -> list[dict]:
    """The first `limit` rows of a `.csv` or `.csv.gz`, from the top again where there are fewer."""
    opener = gzip.open if str(path).endswith(".gz") else open
    with opener(path, "rt", newline="", encoding="utf-8") as file:
        rows = [row for _, row in zip(range(limit), csv.DictReader(file))]
    return [rows[at % len(rows)] for at in range(limit)]


class Clock:
    """Times pieces of work."""

    def __init__(self):
        self.ms: list[float] = []

    def __enter__(self):
        self.start = time.perf_counter()
        return self

    def __exit__(self, *_):
        self.ms.append(1e3 * (time.perf_counter() - self.start))


def report(what: str, clock: Clock, **more) -> None:
    print(json.dumps({"what": what, "ms": [round(ms, 4) for ms in clock.ms], **more}))
