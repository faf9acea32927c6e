"""Builds and searches an hnswlib index over given vectors, as the guide does. Prints one JSON line.

    hnsw.py VECTORS QUERIES DIM THREADS [M]

The arguments, M, ef_construction, ef and k are those of crates/loriot-index/examples/index_speed.rs. Queries are asked one at a time.
"""

import json
import sys
import time

import hnswlib
import numpy

EF_CONSTRUCTION, EF, K = 200, 100, 10


def main() -> None:
    vectors_path, queries_path, dim, threads, *rest = sys.argv[1:]
    connectivity = int(rest[0]) if rest else 100
    vectors, queries = (numpy.fromfile(path, "<f4").reshape(-1, int(dim)) for path in (vectors_path, queries_path))
    index = hnswlib.Index(space="ip", dim=int(dim))
    index.set_num_threads(int(threads))
    index.init_index(max_elements=len(vectors), ef_construction=EF_CONSTRUCTION, M=connectivity)
    start = time.perf_counter()
    index.add_items(vectors)
    build_ms = 1e3 * (time.perf_counter() - start)
    index.set_ef(EF)
    found, query_ms = [], []
    for query in queries:
        start = time.perf_counter()
        ids, _ = index.knn_query(query, k=K, num_threads=1)
        query_ms.append(1e3 * (time.perf_counter() - start))
        found.append(ids[0])
    shares = []
    for query, ids in zip(queries, found):
        scores = vectors @ query
        worst = numpy.partition(scores, -K)[-K]
        # As Loriot counts: a vector as near as the worst true neighbour is found, up to the rounding of another order of addition.
        shares.append(min(K, int((scores[ids] >= worst - 1e-6).sum())) / K)
    print(json.dumps({"build_ms": build_ms, "query_ms": query_ms, "recall": float(numpy.mean(shares))}))


if __name__ == "__main__":
    main()
