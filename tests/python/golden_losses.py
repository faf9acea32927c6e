"""losses.json: sentence-transformers' losses and their gradients, of random vectors, in float64.

A case has `dim`, `queries` and `candidates` (unit vectors, flat, of each row and of each candidate), `n_candidates` of each row,
`labels` of each candidate, and of each loss `value`, `dqueries` and `dcandidates`: the derivatives by the vectors, of which the
losses see only the direction.
"""

import json

import common
import torch
from sentence_transformers.sentence_transformer import losses as st


class Columns(torch.nn.Module):
    """Stands for a model whose embeddings are given."""

    def forward(self, features):
        return {"sentence_embedding": features["embedding"]}


def units(generator, n, dim):
    return torch.nn.functional.normalize(torch.randn(n, dim, generator=generator, dtype=torch.float64), dim=1)


def measured(loss, columns, labels):
    """The loss of some columns of vectors, and the derivative by each column."""
    columns = [column.clone().requires_grad_() for column in columns]
    value = loss.compute_loss_from_embeddings(columns, labels)
    value.backward()
    return value.item(), [column.grad for column in columns]


def pairs(generator, dim, labels, losses):
    """Rows with one candidate each."""
    n = len(labels)
    columns = [units(generator, n, dim), units(generator, n, dim)]
    found = {}
    for name, loss in losses.items():
        value, grads = measured(loss, columns, torch.tensor(labels, dtype=torch.float64))
        found[name] = {"value": value, "dqueries": flat(grads[0]), "dcandidates": flat(grads[1])}
    return case(dim, columns[0], columns[1], [1] * n, labels, found)


def tuples(generator, dim, n, n_negatives, losses):
    """Rows with a positive and negatives."""
    columns = [units(generator, n, dim) for _ in range(2 + n_negatives)]
    found = {}
    for name, loss in losses.items():
        value, grads = measured(loss, columns, None)
        # Ours stand row by row.
        candidates = torch.stack(grads[1:], dim=1).reshape(-1, dim)
        found[name] = {"value": value, "dqueries": flat(grads[0]), "dcandidates": flat(candidates)}
    candidates = torch.stack(columns[1:], dim=1).reshape(-1, dim)
    labels = ([1.0] + [0.0] * n_negatives) * n
    return case(dim, columns[0], candidates, [1 + n_negatives] * n, labels, found)


def case(dim, queries, candidates, n_candidates, labels, found):
    vectors = {"queries": flat(queries), "candidates": flat(candidates)}
    return {"dim": dim, **vectors, "n_candidates": n_candidates, "labels": labels, "losses": found}


def flat(tensor):
    return tensor.flatten().tolist()


def generate() -> None:
    generator = torch.Generator().manual_seed(0)
    model = Columns()
    graded = [0.0, 1.0, 0.25, 0.7, 1.0, 0.0, 0.25, 0.5, 0.9, 0.1, 0.3]
    binary = [0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0]
    order = {"cosent": st.CoSENTLoss(model), "angle": st.AnglELoss(model)}
    by_pair = {"cosine-similarity": st.CosineSimilarityLoss(model), "contrastive": st.ContrastiveLoss(model)}
    online = {"online-contrastive": st.OnlineContrastiveLoss(model)}
    ranking = {
        "multiple-negatives-ranking": st.MultipleNegativesRankingLoss(model),
        "multiple-negatives-symmetric-ranking": st.MultipleNegativesSymmetricRankingLoss(model),
    }
    cases = [
        pairs(generator, 8, graded, order | by_pair),
        pairs(generator, 7, graded[::-1], order),
        pairs(generator, 8, binary, order | by_pair | online),
        pairs(generator, 8, [1.0] * 4, online),
        pairs(generator, 8, [0.0] * 4, online),
        tuples(generator, 8, 6, 0, ranking),
        tuples(generator, 8, 5, 2, ranking),
    ]
    (common.GOLDEN / "losses.json").write_text(json.dumps(cases) + "\n")
