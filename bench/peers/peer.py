"""What the peer benchmarks share: reading rows, the clock, peak memory, and the one JSON line that each prints."""

import csv
import gzip
import json
import os
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

N_CORES = os.cpu_count()
JIFFY_S = 1 / os.sysconf("SC_CLK_TCK")


def read_rows(path, limit: int) -> list[dict]:
    """The first `limit` rows of a `.csv` or `.csv.gz`, from the top again where there are fewer."""
    opener = gzip.open if str(path).endswith(".gz") else open
    with opener(path, "rt", newline="", encoding="utf-8") as file:
        rows = [row for _, row in zip(range(limit), csv.DictReader(file))]
    return [rows[at % len(rows)] for at in range(limit)]


def peak_rss_mb() -> float:
    """The most memory that this process ever held (VmHWM): each benchmark is a process of its own."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmHWM in /proc/self/status")


def machine_busy_s() -> float:
    """CPU seconds that all processes of the machine have used so far, and that a hypervisor took."""
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) * JIFFY_S


class Clock:
    """Times pieces of work, and says how much of the machine other processes used meanwhile."""

    def __init__(self):
        self.ms: list[float] = []
        self.others: list[float] = []

    def __enter__(self):
        self.start = machine_busy_s(), time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *_):
        wall_s = time.perf_counter() - self.start[2]
        others_s = machine_busy_s() - self.start[0] - (time.process_time() - self.start[1])
        self.ms.append(1e3 * wall_s)
        self.others.append(max(0.0, others_s) / (wall_s * N_CORES))


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def report(what: str, clock: Clock, **more) -> None:
    line = {
        "what": what,
        "median_ms": round(statistics.median(clock.ms), 3),
        "ms": [round(ms, 3) for ms in clock.ms],
        "others": [round(share, 2) for share in clock.others],
        "peak_rss_mb": round(peak_rss_mb()),
        **more,
    }
    print(json.dumps(line))
