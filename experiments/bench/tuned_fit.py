"""A model in closed form tuned from nothing: wall and processor time of a whole study against its floor.

    python -m experiments.bench.tuned_fit amazon-scientific amazon-baby [--threads 2] [--trials 60]

A study changes one option at a time (``sampler=coordinate``), validates every trial and keeps the best model.
Features are read or extracted before the clock starts. The floor is the least that these trials have to
compute: n^3 operations for each run of trials with the same penalty and dropout, whose inverse is kept, and
the products of the histories of the users of validation with the weights, at the speed of a matrix product
in the same run. Ranking the scores is not in it.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits

import graphrec as gr
from experiments.bench.measure import machine, matrix_product, spent
from experiments.content import features_of_dataset
from experiments.rows import IN_TURN_TRIALS
from graphrec.runs.tuning.tuner import Trial, tune


def inverses(trials: Sequence[Trial]) -> int:
    """How many inverses the trials need, one after the other, where the last one is kept."""
    penalties = [(t.options["reg_weight"], t.options["dropout"]) for t in trials]
    return sum(n == 0 or penalties[n] != penalties[n - 1] for n in range(len(penalties)))


def measure(data: gr.Dataset, tables: dict[str, gr.FeatureTable], model: str, trials: int) -> None:
    """Tunes a model on a dataset and prints a line."""
    features = tables if model == "content-ease" else None
    with tempfile.TemporaryDirectory() as folder, spent() as used:
        study = tune(
            model, data, features, trials=trials, sampler="coordinate", out=Path(folder) / "study",
            select="recall@20",
        )  # fmt: skip
    made = inverses(study.trials)
    multiplied = 2 * len(data.train) * len(np.unique(data.valid.users)) / data.n_users * data.n_items
    operations = made * data.n_items**3 + len(study.trials) * multiplied
    in_products, product = matrix_product()
    floor = operations / in_products * product.seconds
    print(
        f"{data.name}, {model}: {used.seconds:.1f} s for {len(study.trials)} trials with {made} inverses, "
        f"{used.cpu:.1f} s of processor time; {used.seconds / floor:.1f} times the floor of {floor:.1f} s; "
        f"best recall@20 on validation {study.best.value:.4f}",
        flush=True,
    )


def main() -> None:
    """Prints a line for each dataset and model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("datasets", nargs="+", help="by name")
    parser.add_argument("--models", nargs="+", default=["ease", "content-ease"])
    parser.add_argument("--trials", type=int, default=IN_TURN_TRIALS)
    parser.add_argument("--root", default=None, help="folder with the datasets")
    parser.add_argument("--store", type=Path, default=Path("cache"), help="the feature store")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine())
    with threadpool_limits(options.threads):
        for name in options.datasets:
            data = gr.load_dataset(name, root=options.root)
            tables = features_of_dataset(data, options.root, options.store)
            for model in options.models:
                measure(data, tables, model, options.trials)


if __name__ == "__main__":
    main()
