"""One contender is one process: its output, its peak memory, and how busy the machine was with others meanwhile."""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

MEASURED = Path(__file__).resolve().parent / "measured.py"
N_CORES = os.cpu_count()
JIFFY_S = 1 / os.sysconf("SC_CLK_TCK")
# A process beside which others used more than this share of the machine is run again.
QUIET = 0.05


class Failed(Exception):
    """A process that ended with an error, and what it printed."""


@dataclass
class Finished:
    stdout: str
    peak_mb: float
    others: float

    def json(self) -> dict:
        return json.loads(self.stdout.splitlines()[-1])


def machine_busy_s() -> float:
    """CPU seconds that all processes of the machine have used so far, and that a hypervisor took."""
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) * JIFFY_S


def run_once(command: list[str], env: dict) -> Finished:
    with tempfile.NamedTemporaryFile("r") as usage, tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as log:
        measured = [sys.executable, "-I", "-S", str(MEASURED), usage.name, *command]
        busy_s, start = machine_busy_s(), time.perf_counter()
        code = subprocess.run(measured, stdout=out, stderr=log, env={**os.environ, **env}).returncode
        wall_s = time.perf_counter() - start
        busy_s = machine_busy_s() - busy_s
        out.seek(0)
        log.seek(0)
        if code != 0:
            raise Failed(f"{' '.join(command)}\n{log.read()[-4000:]}")
        peak_mb, own_s = map(float, usage.read().split())
        return Finished(out.read(), peak_mb, max(0.0, busy_s - own_s) / (wall_s * N_CORES))


def run(*command, tries: int = 1, **env: str) -> Finished:
    """Runs a command to its end; where several tries are allowed, the first undisturbed one counts, else the least disturbed."""
    runs = []
    while len(runs) < tries and (not runs or runs[-1].others > QUIET):
        runs.append(run_once([str(part) for part in command], env))
    return min(runs, key=lambda finished: finished.others)


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
