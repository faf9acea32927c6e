"""The texts and pairs that are measured, and what the records say of the run."""

import csv
import gzip
import platform
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def pairs_path(shared: Path) -> Path:
    """Home Depot's training pairs, or the bundled example's where the shared data are absent."""
    homedepot = shared / "data" / "homedepot" / "train.csv.gz"
    return homedepot if homedepot.exists() else ROOT / "examples" / "shop" / "train.csv"


def catalogue_path(shared: Path) -> Path:
    """The shared catalogue's titles, or the bundled example's."""
    titles = shared / "data" / "catalogue" / "titles.csv.gz"
    return titles if titles.exists() else ROOT / "examples" / "shop" / "catalogue.csv"


def read_titles(path: Path) -> list[str]:
    """Distinct titles, one line each, in the order of the rows."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", newline="", encoding="utf-8") as file:
        return list(dict.fromkeys(" ".join(row["product_title"].split()) for row in csv.DictReader(file)))


def distinct(titles: list[str], n: int) -> list[str]:
    """The first titles; where they are too few, each is joined with its neighbour, then with the one after that, and so on."""
    found, distance = dict.fromkeys(titles[:n]), 1
    while len(found) < n:
        for at, title in enumerate(titles):
            found[f"{title} {titles[(at + distance) % len(titles)]}"] = None
            if len(found) == n:
                break
        distance += 1
    return list(found)


def context(pairs: Path) -> dict:
    """Where the figures come from."""
    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout.strip()
    names = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {"rows_of": pairs.parent.name, "processor": names[0] if names else platform.processor(), "commit": commit}
