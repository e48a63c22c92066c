"""How near does a list of items come to a user's own vector? Every user's train items, folded in.

MovieLens small, with the options and features recorded for its table, one training a model. Each user is
answered once as a known user and once as a stranger with the same items. Compared are the order of the items
that the user does not have (Spearman's rank correlation), the scores of all items (length of the difference
over that of the known user's scores), both as means over users, and the metrics on test.

    python -m experiments.fold_in             # one seed
    python -m experiments.fold_in --quick     # one epoch
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

import graphrec as gr
from experiments.content import features_of_dataset
from experiments.harness import SELECT, Experiment, Study, completed, options_of_all
from experiments.recording import RESULTS, read_result, write_result
from experiments.rows import defaults
from graphrec.core.files import read_json
from graphrec.data import Histories, Interactions, Query
from graphrec.models.base import Ranker

COMMAND = "python -m experiments.fold_in"
MODELS = ("LightGCN", "FREEDOM", "BM3", "MF-BPR", "VBPR", "LATTICE", "iALS", "EASE", "ContentEASE")
METRICS = {SELECT: "recall@20", "ndcg@20": "NDCG@20"}


class AsStrangers:
    """A model that answers users by their histories alone."""

    def __init__(self, model: Ranker, known: Interactions) -> None:
        self.model, self.histories = model, Histories.from_interactions(known)
        self.n_users, self.n_items = model.n_users, model.n_items

    def scorer(self) -> Callable[[Any], torch.Tensor]:
        """See :meth:`graphrec.models.base.Ranker.scorer`."""
        score = self.model.scorer()
        return lambda users: score(Query(histories=self.histories.take(users.numpy())))


@torch.no_grad()
def compared(model: Ranker, data: gr.Dataset) -> dict[str, Any]:
    """Rank correlation and relative error of the scores, and ``[known, folded in]`` of each metric."""
    strangers = AsStrangers(model, data.train)
    everybody = torch.from_numpy(np.flatnonzero(data.train.user_degree))
    own, folded = (one.scorer()(everybody).double().cpu().numpy() for one in (model, strangers))
    new = np.ones(own.shape, dtype=bool)
    new[data.train.items_of_users(everybody.numpy())] = False
    ranks = [spearmanr(a[kept], b[kept]).statistic for a, b, kept in zip(own, folded, new, strict=True)]
    errors = np.linalg.norm(folded - own, axis=1) / np.linalg.norm(own, axis=1)
    means = [
        gr.evaluate(one, data.test, seen=data.train, k=20, metrics=("recall", "ndcg"), progress=False).mean()
        for one in (model, strangers)
    ]
    metrics = {metric: [mean[metric] for mean in means] for metric in METRICS}
    return {"spearman": float(np.mean(ranks)), "error": float(np.mean(errors)), **metrics}


def measured(label: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """One model, trained with the options recorded for MovieLens small, and compared."""
    recorded = read_result(RESULTS / "movielens_small.json")
    data = gr.load_dataset("movielens-small", root=options.root)
    tables = features_of_dataset(data, options.root, options.store, options.quick)
    train = gr.TrainConfig(**completed(recorded["defaults"]["train"]), checkpoint_every=20, progress=False)
    experiment = Experiment("fold_in", COMMAND, data, tables, defaults(train), [seed], MODELS[0])
    study = Study(experiment, options.out, options.quick, recorded["rows"])
    row = experiment.row(label)
    return compared(study.fitted(row, study.chosen(row)[0], seed).model, study.data)


def main() -> None:
    """Trains every model once, records the result and prints the table."""
    parser = options_of_all(__doc__ or "", "1 epoch")
    parser.add_argument("--store", type=Path, default=Path("cache"), help="the feature store")
    parser.add_argument("--seed", type=int, default=0, help="seed of the trainings")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    rows = {}
    for label in MODELS:
        rows[label] = measured(label, options.seed, options)
        print(f"{label}: {rows[label]}", flush=True)
    result = {"command": COMMAND + (" --quick" if options.quick else ""), "seed": options.seed,
              "order": MODELS, "models": rows}  # fmt: skip
    path = (options.out / "quick" if options.quick else RESULTS) / "fold_in.json"
    write_result(path, result)
    print(f"{table(read_json(path))}\n\nwritten: {path}")


def table(result: Mapping[str, Any]) -> str:
    """The recorded numbers as Markdown."""
    heads = ["model", "rank correlation", "relative error"]
    heads += [f"{name}, {who}" for name in METRICS.values() for who in ("known", "folded in")]
    lines = [f"| {' | '.join(heads)} |", f"|---{'|---:' * (len(heads) - 1)}|"]
    for label in result["order"]:
        row = result["models"][label]
        values = [value for metric in METRICS for value in row[metric]]
        cells = [f"{row['spearman']:.3f}", f"{row['error']:.2f}", *(f"{value:.4f}" for value in values)]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"MovieLens small, one seed. `{result['command']}`"])


if __name__ == "__main__":
    main()
