"""Measures of the judged rows, none of which a good data set lets score well by itself."""

import re
from collections.abc import Callable, Iterable

Row = tuple[str, str, int, int]  # query, product_title, relevance_label, id


def roc_auc(scores: Iterable[float], labels: Iterable[int]) -> float:
    """The chance that a relevant row scores above an irrelevant one; a tie counts half."""
    ranked = sorted(zip(scores, labels, strict=True))
    positives = sum(label for _, label in ranked)
    negatives = len(ranked) - positives
    wins, below, start = 0.0, 0, 0
    while start < len(ranked):
        end = start
        while end < len(ranked) and ranked[end][0] == ranked[start][0]:
            end += 1
        relevant = sum(label for _, label in ranked[start:end])
        others = end - start - relevant
        wins += relevant * (below + others / 2)
        below += others
        start = end
    return wins / (positives * negatives)


def word_overlap(query: str, title: str) -> float:
    """The share of the query's distinct lower-cased alphanumeric words that stand in the title."""
    asked = set(re.findall(r"[a-z0-9]+", query.lower()))
    return len(asked & set(re.findall(r"[a-z0-9]+", title.lower()))) / max(1, len(asked))


# Cues that should say (nearly) nothing about a row's label, and the one that may say a little.
CUES: dict[str, Callable[[Row], float]] = {
    "word overlap": lambda row: word_overlap(row[0], row[1]),
    "title length": lambda row: len(row[1]),
    "query length": lambda row: len(row[0]),
    "product id": lambda row: row[3],
}


def cue_auc(cue: str, rows: list[Row]) -> float:
    """The ROC-AUC of one cue alone."""
    return roc_auc((CUES[cue](row) for row in rows), (row[2] for row in rows))


def balance(rows: list[Row]) -> float:
    """The share of relevant rows."""
    return sum(row[2] for row in rows) / len(rows)


def both_labels(rows: list[Row]) -> float:
    """The share of queries that have relevant and irrelevant rows."""
    seen: dict[str, set[int]] = {}
    for query, _, label, _ in rows:
        seen.setdefault(query, set()).add(label)
    return sum(len(labels) == 2 for labels in seen.values()) / len(seen)
