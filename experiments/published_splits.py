"""Self-supervised models on the published splits of SSLRec's Yelp and RLMRec's Amazon-book and Yelp, with
SSLRec's protocol: validation every third epoch, the epoch chosen by recall at the first cutoff, train items
masked, validation items candidates at test.

The settings of LightGCN, SGL and NCL on SSLRec's Yelp are those its maintainer found by a grid
(https://github.com/HKUDS/SSLRec/issues/32); other models have our defaults at its size and batch. Trainings
are resumable, finished ones are read back, and only rows that are there are printed.

    python -m experiments.published_splits sslrec-yelp --rows LightGCN SGL --seeds 0
    python -m experiments.published_splits rlmrec-amazon-book --rows EASE GF-CF LightGCN
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch

import graphrec as gr
from graphrec.core.files import read_json, write_json
from graphrec.core.text_table import render
from graphrec.models import model as model_class

TRAIN = gr.TrainConfig(batch_size=4096, patience=5, patience_steps=0, validate_every=3, checkpoint_every=3)
SSLREC = {"readout": "sum", "regularizer": "all_squares", "dim": 32}


class Split(NamedTuple):
    """A published split: how it is read, and the cutoffs of its tables; the first chooses the epoch."""

    name: str
    options: dict[str, Any]
    cutoffs: tuple[int, ...]


class Row(NamedTuple):
    """A model, its options, and published recall by split and cutoff."""

    model: str
    options: dict[str, Any]
    published: Mapping[str, Mapping[int, float]] = MappingProxyType({})


SPLITS = {
    "sslrec-yelp": Split("sslrec-yelp", {}, (10, 20, 40)),
    "rlmrec-amazon-book": Split("rlmrec", {"catalog": "amazon-book"}, (5, 10, 20)),
    "rlmrec-yelp": Split("rlmrec", {"catalog": "yelp"}, (5, 10, 20)),
}
ROWS = {
    "Popularity": Row("popularity", {}),
    "EASE": Row("ease", {"reg_weight": 50.0}),
    "GF-CF": Row("gf-cf", {"rank": 256, "alpha": 0.3}),
    "LightGCN": Row(
        "lightgcn", {"dim": 32, "n_layers": 2, "reg_weight": 1e-4},
        {"sslrec-yelp": {10: 0.0450, 20: 0.0713, 40: 0.1085}},
    ),
    "SGL": Row(
        "sgl",
        {
            **SSLREC, "n_layers": 2, "views": "entries", "redraw": "step", "dropout": 0.5,
            "contrast_negatives": True, "contrast_weight": 1.0, "temperature": 0.5, "reg_weight": 1e-5,
        },
        {"sslrec-yelp": {10: 0.0556, 20: 0.0850, 40: 0.1293}},
    ),
    "NCL": Row(
        "ncl",
        {
            **SSLREC, "temperature": 1.0, "contrast_layer": 4, "contrast_weight": 1e-3,
            "prototype_weight": 1e-2, "reg_weight": 1e-7,
        },
        {"sslrec-yelp": {10: 0.0471, 20: 0.0753, 40: 0.1142}},
    ),
    "SimGCL": Row("simgcl", {"dim": 32}),
    "XSimGCL": Row("xsimgcl", {"dim": 32}),
    "DirectAU": Row("directau", {"dim": 32}),
    "LightGCL": Row("lightgcl", {"dim": 32}),
    "HCCF": Row("hccf", {"dim": 32}),
    "DCCF": Row("dccf", {"dim": 32}),
    "AutoCF": Row("autocf", {"dim": 32}),
}  # fmt: skip


def trained(data: gr.Dataset, split: Split, row: Row, seed: int, out: Path) -> dict[str, Any]:
    """One training with its test metrics; a finished one is read back."""
    facts = out / "facts.json"
    if facts.exists():
        return dict(read_json(facts))
    cls = model_class(row.model)
    model = cls.build(data, None, cls.Config(**row.options, seed=seed))
    options = {k: v for k, v in cls.train_defaults.items() if k not in ("batch_size", "patience")}
    first = split.cutoffs[0]
    metrics = (f"recall@{first}", f"ndcg@{first}")
    run = gr.Trainer(TRAIN.replace(**options, seed=seed), out=out).fit(
        model,
        validate=gr.RankingTask(data.valid, seen=data.train, metrics=metrics),
        select=metrics[0],
        resume=True,
    )
    report = gr.evaluate(run.model, data.test, seen=data.train, metrics=("recall", "ndcg"), k=split.cutoffs)
    found = {
        "seed": seed, "best_epoch": run.best_epoch, "seconds": run.seconds, "valid": run.best_value,
        "test": report.mean(),
    }  # fmt: skip
    write_json(facts, found)
    return found


def cells_of(name: str, split: Split, row: Row, runs: list[dict[str, Any]]) -> list[str]:
    """A row of the printed table: mean over seeds, in brackets what was published."""
    cells = []
    for metric in ("recall", "ndcg"):
        for k in split.cutoffs:
            values = [run["test"][f"{metric}@{k}"] for run in runs]
            known = row.published.get(name, {}).get(k) if metric == "recall" else None
            cells.append(f"{np.mean(values):.4f}" + (f" ({known:.4f})" if known else ""))
    return [*cells, str(len(runs)), f"{np.mean([run['seconds'] for run in runs]):.0f}"]


def main() -> None:
    """Trains the rows that are named, and prints all that are there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("split", choices=list(SPLITS))
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--root", default=None, help="folder with the datasets")
    parser.add_argument("--out", type=Path, default=Path("runs/experiments"), help="where runs are kept")
    parser.add_argument("--threads", type=int, help="torch threads")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    split = SPLITS[options.split]
    data = gr.load_dataset(split.name, root=options.root, **split.options)
    lines = []
    for label in options.rows:
        row = ROWS[label]
        folder = options.out / options.split / label
        runs = [trained(data, split, row, seed, folder / f"seed-{seed}") for seed in options.seeds]
        lines.append([label, *cells_of(options.split, split, row, runs)])
        print(label, lines[-1], flush=True)
    heads = [f"{metric}@{k}" for metric in ("recall", "ndcg") for k in split.cutoffs]
    print(render(["model (published)", *heads, "seeds", "seconds"], lines, "plain"))


if __name__ == "__main__":
    main()
