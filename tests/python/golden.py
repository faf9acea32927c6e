"""Makes the golden files of `tests/golden/` anew: by hand, through `cargo xtask golden`, in the environment of make_env.py.

    python golden.py [tiny] [adapters] [minilm] [traces] [losses] --model DIR --train FILE

Without a part's name all are made. The same pins, seed and machine give the same bytes; tests/golden/README.md says what is
in each file. `--model` is the folder of all-MiniLM-L6-v2, `--train` the rows that the training traces use: their first 1,280 are
copied to `tests/golden/train_rows.csv`, which is what the tests read, so that a later edit of the example leaves the golden alone.
"""

import argparse
import sys
import time

import common

PARTS = ("tiny", "adapters", "minilm", "traces", "losses")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--model", help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--train", default=common.REPOSITORY / "examples" / "shop" / "train.csv", help="training rows")
    args = parser.parse_args()
    parts = args.parts or list(PARTS)
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no part called `{unknown.pop()}`; there are: {', '.join(PARTS)}")
    if args.model is None and {"minilm", "traces"} & set(parts):
        parser.error("`--model` is needed, the folder of all-MiniLM-L6-v2")
    for part in parts:
        start = time.time()
        common.deterministic()
        if part == "tiny":
            import golden_tiny

            golden_tiny.generate()
        elif part == "adapters":
            import golden_adapters

            golden_adapters.generate()
        elif part == "minilm":
            import golden_minilm

            golden_minilm.generate(args.model)
        elif part == "losses":
            import golden_losses

            golden_losses.generate()
        else:
            import golden_traces

            golden_traces.generate(args.model, args.train)
        print(f"{part}: {time.time() - start:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
