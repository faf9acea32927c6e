"""Rows of the benchmark's result, as a markdown table, as csv, and as a picture."""

import csv
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path

import process
import svg


@dataclass
class Row:
    """One contender at one work; `ratio` says how many times Loriot's time it takes."""

    work: str
    contender: str
    threads: int
    check: str
    ms: list[float] = field(repr=False)
    peak_mb: float | None = None
    flops: float | None = None
    peak_gflops: float | None = None
    others: float = 0.0
    batches: str = ""
    ratio: float | None = None
    target: float | None = None
    target_mb: float | None = None
    quiet: bool = True

    @property
    def median_ms(self) -> float:
        return statistics.median(self.ms)

    @property
    def share_of_peak(self) -> float | None:
        """Useful flops over time, threads and the peak of one core."""
        if self.flops is None or self.peak_gflops is None:
            return None
        return self.flops / (self.median_ms * 1e6 * self.threads * self.peak_gflops)

    def record(self) -> dict:
        """What the csv says of it."""
        line = {key: value for key, value in asdict(self).items() if key not in ("ms", "flops")}
        times = {"median_ms": self.median_ms, "min_ms": min(self.ms), "max_ms": max(self.ms), "samples": len(self.ms)}
        gflop = None if self.flops is None else self.flops / 1e9
        return {key: shown(value) for key, value in (line | times | {"gflop": gflop, "share_of_peak": self.share_of_peak}).items()}


def shown(value):
    return "" if value is None else float(f"{value:.4g}") if isinstance(value, float) else value


def ratios(rows: list[Row], ours: str = "Loriot") -> None:
    """Sets every row's `ratio`, by Loriot's row of the same work, and whether the machine was theirs alone."""
    mine = {row.work: row for row in rows if row.contender == ours}
    for row in rows:
        if row.work in mine:
            row.ratio = row.median_ms / mine[row.work].median_ms
            row.quiet = max(row.others, mine[row.work].others) <= process.QUIET


def markdown(rows: list[Row]) -> str:
    lines = [
        "| work | contender | median ms | spread | times Loriot's | peak MB | share of peak | answers | others used |",
        "|---|---|--:|---|---|---|--:|---|--:|",
    ]
    for row in rows:
        digits = 0 if row.median_ms >= 100 else 2
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}" + against(row.target, row.ratio >= (row.target or 0), row.quiet)
        memory = "" if row.peak_mb is None else f"{row.peak_mb:.0f}"
        if row.peak_mb is not None and row.target_mb is not None:
            memory += against(row.target_mb, row.peak_mb <= row.target_mb)
        share = "" if row.share_of_peak is None else f"{100 * row.share_of_peak:.0f} %"
        spread = f"{min(row.ms):.{digits}f}–{max(row.ms):.{digits}f}"
        cells = [row.work, row.contender, f"{row.median_ms:.{digits}f}", spread, ratio, memory, share, row.check, f"{100 * row.others:.0f} %"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def against(target: float | None, met: bool, quiet: bool = True) -> str:
    """The target, and what to say of it: a time beside which others worked says nothing."""
    if target is None:
        return ""
    return f" (of {target:g}: {('met' if met else 'not met') if quiet else 'machine busy'})"


def write_csv(records: list[dict], path: Path, context: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        columns = list(dict.fromkeys(key for record in records for key in record))
        writer = csv.DictWriter(file, [*columns, *context])
        writer.writeheader()
        writer.writerows(record | context for record in records)


def read_csv(path: Path) -> list[dict]:
    """A record as it was written, or nothing where that section was never run."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def draw(records: list[dict], path: Path, title: str) -> None:
    """Every work in which Loriot took part: bars of time, Loriot's first, beside its peers' alone."""
    works = {}
    for record in records:
        if record["ratio"] and not record["contender"].startswith("Loriot,"):
            works.setdefault(record["work"], []).append(record)
    charts = []
    for work, members in works.items():
        members.sort(key=lambda record: record["contender"] != "Loriot")
        charts.append((work, [bar(record) for record in members]))
    if charts:
        path.write_text(svg.bar_chart(title, charts), encoding="utf-8")


def bar(record: dict) -> svg.Bar:
    ms, ours = float(record["median_ms"]), record["contender"] == "Loriot"
    shown_ms = f"{ms:,.{0 if ms >= 100 else 1}f} ms" if ms >= 1 else f"{ms:.2f} ms"
    return svg.Bar(record["contender"], ms, shown_ms, ours, "" if ours else f"{float(record['ratio']):.1f}×")
