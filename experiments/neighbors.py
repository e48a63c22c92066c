"""Do content neighbors share their users? Why a modality helps FREEDOM, or does not.

For every kNN edge between two items with train interactions: how many users have both, against the number
expected if users chose independently, ``d_i d_j / n_users``, summed over all edges. Random edges between the
same items come out near the second column, which shuffles the targets and so keeps popularity (mean over
twenty shuffles).

    python -m experiments.neighbors
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

import graphrec as gr
from experiments.content import features_of_dataset
from experiments.recording import RESULTS, write_result
from graphrec.core.random import numpy_rng
from graphrec.features import FeatureTable
from graphrec.graphs.knn import knn

RESULT = RESULTS / "neighbors.json"
SHUFFLES = 20
"""Shuffles of the targets; a single one differs from the next by up to a third."""
DATASETS = ("amazon-baby", "amazon-scientific", "movielens-small", "xwines")


def opened(name: str, root: str | None, store: Path) -> tuple[gr.Dataset, Mapping[str, FeatureTable]]:
    """A dataset and its features by field."""
    split = {"split": "cold-items"} if name == "movielens-small" else {}
    data = gr.load_dataset(name, root=root, **split)
    return data, features_of_dataset(data, root, store)


def lift(data: gr.Dataset, source: np.ndarray, target: np.ndarray) -> float:
    """Users that the ends of edges share, over what independence would give."""
    train = data.train
    ones = np.ones(len(train), dtype=np.float32)
    by_item = csr_matrix((ones, (train.items, train.users)), shape=(data.n_items, data.n_users))
    shared = np.asarray(by_item[source].multiply(by_item[target]).sum(1)).ravel()
    degree = train.item_degree.astype(np.float64)
    return float(shared.sum() / (degree[source] * degree[target] / data.n_users).sum())


def row(data: gr.Dataset, table: FeatureTable, k: int = 10) -> dict[str, float]:
    """Lift of the kNN edges, and mean and standard deviation over shuffles of their targets."""
    edges = knn(table, k)
    source, target = edges.col.numpy(), edges.target.numpy()
    warm = data.train.item_degree > 0
    kept = (source != target) & warm[source] & warm[target]
    source, target = source[kept], target[kept]
    rng, shuffles = numpy_rng(0, "neighbors/shuffle"), []
    for _ in range(SHUFFLES):
        shuffled = rng.permutation(target)
        apart = source != shuffled
        shuffles.append(lift(data, source[apart], shuffled[apart]))
    return {
        "edges": len(source),
        "lift": lift(data, source, target),
        "shuffled": float(np.mean(shuffles)),
        "shuffled sd": float(np.std(shuffles, ddof=1)),
    }


def table(found: Mapping[str, Mapping[str, float]]) -> str:
    """The recorded numbers as markdown."""
    lines = [f"| features | edges | lift | shuffled {SHUFFLES} times |", "|---|---:|---:|---:|"]
    for name, row in found.items():
        shuffled = f"{row['shuffled']:.2f} ± {row['shuffled sd']:.2f}"
        lines.append(f"| {name} | {row['edges']:,} | {row['lift']:.2f} | {shuffled} |")
    return "\n".join(lines)


def main() -> None:
    """Prints and records the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", default=None, help="folder with the datasets")
    parser.add_argument("--store", type=Path, default=Path("cache"), help="the feature store")
    options = parser.parse_args()
    found = {}
    for name in DATASETS:
        data, tables = opened(name, options.root, options.store)
        found |= {f"{name} {modality}": row(data, table) for modality, table in sorted(tables.items())}
    write_result(RESULT, found)
    print(table(found))


if __name__ == "__main__":
    main()
