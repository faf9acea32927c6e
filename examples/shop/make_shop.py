#!/usr/bin/env python3
"""Writes the example shop: `catalogue.csv`, `train.csv`, `validation.csv` and the tables of `README.md`.

Everything is invented here, nothing comes from a real shop: `categories/*.toml` say what is sold and asked for, `lexicon.py` how
colours, materials and sizes are worded, `shelves.py` makes products of that and `queries.py` judges them. The same files come out
every time. `make_shop.py --check` writes nothing: it fails if the committed files differ or do not keep what README.md promises.
"""

import csv
import io
import sys
from collections import Counter
from pathlib import Path
from random import Random

from measures import CUES, Row, balance, both_labels, cue_auc
from queries import Query, content, group, pick_rows, write_queries
from shelves import Product, Shop, read_shop, stock

HERE = Path(__file__).parent
SEED = "loriot shop 1"
HELD_OUT = "Musical Instruments"
VALIDATION_SHARE = 0.2
MARKS = ("<!-- figures -->\n", "<!-- end of figures -->")

# Searches to try, and the kinds that answer them: groups of queries like these are never trained on.
DEMONSTRATIONS = {
    "something to keep drinks cold while camping": ("cooler", "soft_cooler"),
    "couch for a small living room": ("loveseat",),
    "cordless tool to cut grass": ("mower", "string_trimmer"),
    "charger for my phone in the car": ("car_charger",),
}


def make() -> tuple[Shop, list[Product], list[Row], list[Row]]:
    """The shop, its products, and the judged rows for training and validation."""
    shop = read_shop()
    products = stock(shop, SEED)
    queries = write_queries(shop, products, SEED)
    shelves: dict[str, list[Product]] = {}
    for product in products:
        shelves.setdefault(product.kind.name, []).append(product)
    rng = Random(f"{SEED} rows")
    judged = {q.text: [row(q, p, right) for p, right in pick_rows(rng, shop, q, shelves, HELD_OUT)] for q in queries}
    train, validation = [], []
    groups = group(queries)
    Random(f"{SEED} split").shuffle(groups)
    groups.sort(key=lambda alike: not kept_from_training(alike))
    enough = VALIDATION_SHARE * sum(len(rows) for rows in judged.values())
    for alike in groups:
        rows = [row for query in alike for row in judged[query.text]]
        (validation if kept_from_training(alike) or len(validation) < enough else train).extend(rows)
    for name, rows in (("train", train), ("validation", validation)):
        Random(f"{SEED} {name}").shuffle(rows)
    return shop, products, train, validation


def row(query: Query, product: Product, right: bool) -> Row:
    return query.text, product.title, int(right), product.id


def kept_from_training(alike: list[Query]) -> bool:
    """Whether a group is of the held-out category or resembles a demonstration."""
    return any(query.category == HELD_OUT or resembles_demonstration(query) for query in alike)


def resembles_demonstration(query: Query) -> bool:
    if not query.noun and any(set(query.kinds) <= set(kinds) for kinds in DEMONSTRATIONS.values()):
        return True
    words = content(query.text)
    bags = (content(text) for text in DEMONSTRATIONS)
    return any(len(words & bag) >= 0.6 * len(words | bag) for bag in bags)


def as_csv(header: tuple[str, ...], rows: list[tuple]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def figures(shop: Shop, products: list[Product], train: list[Row], validation: list[Row]) -> str:
    """The tables of README.md."""
    lines = ["", "| file | rows | relevant | queries | with both labels |", "|---|---|---|---|---|"]
    for name, rows in (("train.csv", train), ("validation.csv", validation)):
        queries = len({row[0] for row in rows})
        lines.append(f"| {name} | {len(rows):,} | {balance(rows):.3f} | {queries:,} | {both_labels(rows):.3f} |")
    counts = Counter(product.kind.category for product in products)
    lines += ["", f"catalogue.csv: {len(products):,} products of {len(shop.kinds)} kinds in {len(counts)} categories.", ""]
    lines += ["| a cue alone, ROC-AUC | train | validation |", "|---|---|---|"]
    lines += [f"| {cue} | {cue_auc(cue, train):.3f} | {cue_auc(cue, validation):.3f} |" for cue in CUES]
    lines += ["", "| category | products |", "|---|---|"]
    lines += [f"| {category} | {count} |" for category, count in sorted(counts.items())]
    return "\n".join([*lines, ""])


def broken_promises(products: list[Product], train: list[Row], validation: list[Row]) -> list[str]:
    """What the data set claims and does not keep."""
    category = {product.id: product.kind.category for product in products}
    trained = {row[0] for row in train}
    rows = train + validation
    cues = {cue: cue_auc(cue, validation) for cue in CUES}
    promises = {
        "at least 1,500 products": len(products) >= 1500,
        "at least 25 categories": len(set(category.values())) >= 25,
        "titles are distinct": len({product.title for product in products}) == len(products),
        "at least 4,000 judged rows": len(rows) >= 4000,
        "no (query, product) is judged twice": len({(row[0], row[3]) for row in rows}) == len(rows),
        "no query stands in both files": trained.isdisjoint(row[0] for row in validation),
        "no query differs from one in the other file by small words or endings alone": {content(text) for text in trained}.isdisjoint(
            content(row[0]) for row in validation
        ),
        "no demonstration is trained on": trained.isdisjoint(DEMONSTRATIONS),
        f"{HELD_OUT} is left out of training": all(category[row[3]] != HELD_OUT for row in train),
        f"{HELD_OUT} is in validation": sum(category[row[3]] == HELD_OUT for row in validation) >= 80,
        "0.4 to 0.5 of the rows are relevant": all(0.4 <= balance(part) <= 0.5 for part in (train, validation)),
        "nine queries in ten have both labels": both_labels(rows) >= 0.9,
        "word overlap scores 0.55 to 0.70": 0.55 <= cues.pop("word overlap") <= 0.70,
    }
    promises |= {f"{cue} alone scores 0.45 to 0.55 (found {score:.3f})": 0.45 <= score <= 0.55 for cue, score in cues.items()}
    return [promise for promise, kept in promises.items() if not kept]


def main() -> None:
    shop, products, train, validation = make()
    judged = ("query", "product_title", "relevance_label", "id")
    shelf = [(p.id, p.title, p.kind.category, p.brand, p.price) for p in products]
    files = {
        "catalogue.csv": as_csv(("id", "product_title", "category", "brand", "price"), shelf),
        "train.csv": as_csv(judged, train),
        "validation.csv": as_csv(judged, validation),
    }
    readme = (HERE / "README.md").read_text(encoding="utf-8")
    before, after = readme.partition(MARKS[0])[0], readme.partition(MARKS[1])[2]
    files["README.md"] = before + MARKS[0] + figures(shop, products, train, validation) + "\n" + MARKS[1] + after

    problems = [f"broken promise: {promise}" for promise in broken_promises(products, train, validation)]
    if sys.argv[1:] == ["--check"]:
        for name, text in files.items():
            path = HERE / name
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                problems.append(f"`{name}` is not what make_shop.py makes: run it and commit the result")
    else:
        for name, text in files.items():
            (HERE / name).write_text(text, encoding="utf-8", newline="\n")
    print("\n".join(problems) or "the shop is in order")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
