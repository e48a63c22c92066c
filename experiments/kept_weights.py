"""What EASE and ContentEASE lose where only the largest weights of each item are kept, on validation.

Both models with their default options. ``all`` is the whole matrix; ``columns`` the largest weights as
``solver=columns`` finds them.

    python -m experiments.kept_weights [--store CACHE]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

import graphrec as gr
from experiments.content import ready_features, text_features
from graphrec.evaluation.ranking import HasScorer, evaluate
from graphrec.models.base import Features, Ranker
from graphrec.models.content_ease import ContentEASE
from graphrec.models.ease import EASE
from graphrec.models.item_weights import DenseItemWeightsRanker, ItemWeightsRanker

DATASETS = ("amazon-scientific", "movielens-small", "amazon-baby")
KEPT = (50, 100, 200, 500, 1000)
SOLVED = 500
"""Weights that ``solver=columns`` keeps here."""
METRICS = ("recall@20", "ndcg@20")


@dataclass(frozen=True)
class Kept:
    """A model by the weights alone that a recommender keeps of it."""

    model: DenseItemWeightsRanker

    @property
    def n_users(self) -> int:
        """Number of users."""
        return self.model.n_users

    @property
    def n_items(self) -> int:
        """Number of items."""
        return self.model.n_items

    def scorer(self) -> Callable[[Any], Tensor]:
        """See :class:`graphrec.evaluation.ranking.HasScorer`."""
        return ItemWeightsRanker.scorer(self.model)


def measured(data: gr.Dataset, model: HasScorer) -> list[float]:
    """The metrics on validation."""
    means = evaluate(model, data.valid, seen=data.train, metrics=METRICS, progress=False).mean()
    return [means[metric] for metric in METRICS]


def measured_by_kept(
    data: gr.Dataset, tables: Features, model_class: type[Ranker]
) -> Iterator[tuple[str, list[float]]]:
    """Yields what is kept, and the metrics; NaN where there are no more items than that."""
    model = model_class.build(data, tables, model_class.Config())
    assert isinstance(model, DenseItemWeightsRanker)
    options = model.config
    for kept in KEPT:
        model.config = options.replace(kept=kept)
        fewer = kept < data.n_items
        yield f"{kept:,}", measured(data, Kept(model)) if fewer else [float("nan")] * len(METRICS)
    yield "all", measured(data, model)
    solved = model_class.build(data, tables, options.replace(solver="columns", kept=SOLVED))
    yield f"{SOLVED:,}, columns", measured(data, solved)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", default=None, help="folder with the datasets")
    parser.add_argument("--store", type=Path, default=Path("cache"), help="the feature store")
    options = parser.parse_args()
    for name in DATASETS:
        data = gr.load_dataset(name, root=options.root)
        ready = name == "amazon-scientific"
        tables = ready_features(data, name, options.root) if ready else text_features(data, options.store)
        for model_class in (EASE, ContentEASE):
            found = dict(measured_by_kept(data, tables, model_class))
            if name == DATASETS[0] and model_class is EASE:
                print(f"| validation | {' | '.join(found)} |\n|---|{'---:|' * len(found)}")
            for metric, values in zip(METRICS, zip(*found.values(), strict=True), strict=True):
                numbers = " | ".join("" if math.isnan(v) else f"{v:.4f}" for v in values)
                print(f"| {name}, {model_class.__name__}, {metric} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
