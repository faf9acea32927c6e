"""Makes the Python environment that the golden files, the round trips and the peer benchmarks run in.

    make_env.py [--with FILE ...]

Run with any Python from 3.11 on; it needs nothing but pip. `--with` adds further pinned requirements, such as bench/requirements.txt.
Prints the interpreter's path as the last line on stdout, all else on stderr. The environment lies outside the clone, in `$LORIOT_CACHE`, else `$XDG_CACHE_HOME/loriot`, else `~/.cache/loriot`,
under `python/<key>`, where the key is the hash of the requirements and of the interpreter's version: a second call finds it and
returns at once, a changed pin makes a new one. A folder without `.complete` was interrupted and is made anew.

`uv` installs the 6 GB in a fraction of pip's time (measured on 2 cores: 23 s against 102 s); where `uv` cannot be had or fails,
plain pip does the same work.
"""

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

UV = "uv==0.13.9"
REQUIREMENTS = Path(__file__).resolve().parent / "requirements.txt"
IMPORTS = "import torch, transformers, peft, sentence_transformers, sklearn"


def cache_folder() -> Path:
    """The folder of everything Loriot downloads, as the Rust side chooses it."""
    if os.environ.get("LORIOT_CACHE"):
        return Path(os.environ["LORIOT_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "loriot"


def run(*command, **env) -> None:
    """Runs a command with its output on stderr; raises if it fails."""
    print("+", *command, file=sys.stderr, flush=True)
    subprocess.run([str(part) for part in command], stdout=sys.stderr, check=True, env={**os.environ, **env})


def requirement_flags(requirements: list[Path]) -> list:
    return [part for path in requirements for part in ("-r", path)]


def install_with_uv(folder: Path, root: Path, requirements: list[Path]) -> None:
    """uv makes the environment itself, so that a Debian without python3-venv does too."""
    tool = root / UV.replace("==", "-")
    if not (tool / "bin" / "uv").exists():
        run(sys.executable, "-m", "pip", "install", "--quiet", "--target", tool, UV)
    env = {"UV_CACHE_DIR": str(root / "uv-cache")}
    if os.environ.get("PIP_INDEX_URL") and not os.environ.get("UV_DEFAULT_INDEX"):
        env["UV_DEFAULT_INDEX"] = os.environ["PIP_INDEX_URL"]
    run(tool / "bin" / "uv", "venv", "--quiet", "--python", sys.executable, folder, **env)
    python = folder / "bin" / "python"
    run(tool / "bin" / "uv", "pip", "install", "--quiet", "--python", python, *requirement_flags(requirements), **env)


def install_with_pip(folder: Path, requirements: list[Path]) -> None:
    run(sys.executable, "-m", "venv", folder)
    run(folder / "bin" / "python", "-m", "pip", "install", "--quiet", *requirement_flags(requirements))


def make(folder: Path, root: Path, requirements: list[Path]) -> None:
    """Makes the environment in `folder`, which does not exist or is incomplete."""
    shutil.rmtree(folder, ignore_errors=True)
    print(f"making the Python environment in `{folder}`: 6 GB, one to several minutes", file=sys.stderr, flush=True)
    try:
        install_with_uv(folder, root, requirements)
    except (subprocess.CalledProcessError, OSError) as error:
        print(f"uv cannot make it ({error}); going on with pip", file=sys.stderr, flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        install_with_pip(folder, requirements)
    run(folder / "bin" / "python", "-c", IMPORTS)
    (folder / ".complete").write_text("made by tests/python/make_env.py\n")


def main() -> None:
    if sys.version_info < (3, 11):
        sys.exit(f"error: Python 3.11 or newer is needed, this is {sys.version.split()[0]}\nhint: run it with a newer `python3`")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--with", dest="more", type=Path, nargs="+", default=[], metavar="FILE", help="further pinned requirements")
    requirements = [REQUIREMENTS, *parser.parse_args().more]
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    key = hashlib.sha256(b"".join(path.read_bytes() for path in requirements)).hexdigest()[:16]
    root = cache_folder().resolve() / "python"
    root.mkdir(parents=True, exist_ok=True)
    folder = root / f"{version}-{key}"
    with open(root / f"{folder.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # Two builds at once: the second waits, then finds it made.
        if not (folder / ".complete").exists():
            make(folder, root, requirements)
    print(folder / "bin" / "python")


if __name__ == "__main__":
    main()
