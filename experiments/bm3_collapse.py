"""Why BM3 falls behind LightGCN on dense data: its embeddings collapse, and how far depends on the density.

BM3 has no negatives, so nothing but dropout in its targets keeps embeddings apart. For each case: validation
recall@20 of the best epoch, the test recall@20 of that epoch, and there, of all items' embeddings: the
effective rank (exp of the entropy of the squared singular values of the centered table, of ``dim`` = 64) and
the mean cosine between two items. *Thinned* keeps a share of the train pairs, drawn at random, of a dense
dataset, and the same users, items, validation and test.

    python -m experiments.bm3_collapse              # three seeds
    python -m experiments.bm3_collapse --quick      # one epoch, one seed
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import normalize

import graphrec as gr
from experiments.content import features_of_dataset
from experiments.harness import folder_of, options_of_all
from experiments.recording import RESULTS, write_result
from experiments.rendering import seeds_in_words, spread
from graphrec.core.environment import environment
from graphrec.core.files import read_json, write_json
from graphrec.core.random import numpy_rng
from graphrec.models import model as model_class
from graphrec.models.base import Features

COMMAND = "python -m experiments.bm3_collapse"
SELECT = "recall@20"
TRAIN = gr.TrainConfig(batch_size=1024, epochs=300, patience=30, checkpoint_every=20)


@dataclass(frozen=True)
class Case:
    """A row: label, dataset, model, options, those of training, and the share of train pairs it keeps."""

    label: str
    data: str
    model: str = "bm3"
    options: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    keep: float = 1.0


# The options that tuning chose on MovieLens small (experiments/movielens_small.py).
CHOSEN = {"n_layers": 1, "dropout": 0.3, "reg_weight": 0.01}
FASTER = {"learning_rate": 2e-3}
LIGHTGCN = {"n_layers": 2, "reg_weight": 1e-4}


def _cases() -> list[Case]:
    films = "movielens-small"
    cases = [
        Case("LightGCN", films, "lightgcn", LIGHTGCN, FASTER),
        Case("BM3 as tuned", films, options=CHOSEN, train=FASTER),
        Case("learning rate 3e-4", films, options=CHOSEN, train={"learning_rate": 3e-4}),
        Case("learning rate 1e-2", films, options=CHOSEN, train={"learning_rate": 1e-2}),
        Case("patience 100", films, options=CHOSEN, train={**FASTER, "patience": 100}),
        Case("batches of 256", films, options=CHOSEN, train={**FASTER, "batch_size": 256}),
        Case("regularization 0", films, options={**CHOSEN, "reg_weight": 0.0}, train=FASTER),
        Case("regularization 10", films, options={**CHOSEN, "reg_weight": 10.0}, train=FASTER),
        Case("dropout 0", films, options={**CHOSEN, "dropout": 0.0}, train=FASTER),
        Case("dropout 0.9", films, options={**CHOSEN, "dropout": 0.9}, train=FASTER),
        Case("no losses on features", films, options={**CHOSEN, "cl_weight": 0.0}, train=FASTER),
        Case("features trained", films, options={**CHOSEN, "train_features": True}, train=FASTER),
    ]
    for keep in (0.5, 0.25, 0.125):
        name = f"thinned to {keep:.1%}"
        cases.append(Case(f"LightGCN, {name}", films, "lightgcn", LIGHTGCN, FASTER, keep))
        cases.append(Case(f"BM3, {name}", films, options=CHOSEN, train=FASTER, keep=keep))
    sparse = "amazon-scientific"
    return [
        *cases,
        Case("Scientific: LightGCN", sparse, "lightgcn", LIGHTGCN, FASTER),
        Case("Scientific: BM3", sparse, options=CHOSEN, train=FASTER),
    ]


CASES = _cases()


def main() -> None:
    """Trains all cases, records the result and prints the table."""
    parser = options_of_all(__doc__ or "", "1 epoch, 1 seed")
    parser.add_argument("--store", type=Path, default=Path("cache"), help="the feature store")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds to run")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    seeds = options.seeds[: 1 if options.quick else None]
    opened = {name: read(name, options) for name in dict.fromkeys(case.data for case in CASES)}
    rows = {
        case.label: {
            "data": case.data,
            "options": {**case.options, **{f"train.{k}": v for k, v in case.train.items()}},
            "keep": case.keep,
            "runs": [one(case, *opened[case.data], seed, options) for seed in seeds],
        }
        for case in CASES
    }
    result = {
        "experiment": "bm3_collapse",
        "command": COMMAND + (" --quick" if options.quick else ""),
        "seeds": seeds,
        "datasets": {name: data.summary() for name, (data, _) in opened.items()},
        "environment": environment(),
        "order": list(rows),
        "rows": rows,
    }
    path = (options.out / "quick" if options.quick else RESULTS) / "bm3_collapse.json"
    write_result(path, result)
    print(f"{table(read_json(path))}\n\nwritten: {path}")


def read(name: str, options: argparse.Namespace) -> tuple[gr.Dataset, Features]:
    """A dataset and its features."""
    data = gr.load_dataset(name, root=options.root)
    return data, features_of_dataset(data, options.root, options.store, options.quick)


def one(
    case: Case, data: gr.Dataset, features: Features, seed: int, options: argparse.Namespace
) -> dict[str, Any]:
    """One training and what became of its embeddings, read back if it is finished."""
    out = options.out / ("quick" if options.quick else "") / "bm3_collapse" / folder_of(case.label)
    out = out / f"seed-{seed}"
    if (out / "facts.json").exists():
        return dict(read_json(out / "facts.json"))
    if case.keep < 1:
        kept = numpy_rng(seed, "bm3_collapse/thin").random(len(data.train)) < case.keep
        data = data.with_splits(data.train.where(kept), data.valid, data.test)
    cls = model_class(case.model)
    model = cls.build(data, features, cls.Config(**{**case.options, "seed": seed}))
    train = TRAIN.replace(**case.train, seed=seed, **({"epochs": 1} if options.quick else {}))
    task = gr.RankingTask(data.valid, seen=data.train, k=20, metrics=("recall",))
    run = gr.Trainer(train, out=out).fit(model, task, SELECT, resume=True)
    report = gr.evaluate(run.model, data.test, seen=data.train, metrics=("recall",), k=20)
    with torch.no_grad():
        items = run.model.embed()[1]
    facts = {
        "seed": seed,
        "best_epoch": run.best_epoch,
        "epochs": len(run.history),
        "seconds": run.seconds,
        "valid": run.best_value,
        "recall": report.mean()[SELECT],
        **spread_of(items),
    }
    write_json(out / "facts.json", facts)
    return dict(read_json(out / "facts.json"))


def spread_of(items: torch.Tensor) -> dict[str, float]:
    """Effective rank and mean cosine between two rows of a table ``(n, d)``."""
    power = torch.linalg.svdvals(items - items.mean(0)).double().square()
    share = power / power.sum()
    entropy = -(share * share.clamp(min=1e-30).log()).sum()
    unit = normalize(items.double(), dim=1)
    n = len(unit)
    cosine = (unit.sum(0).square().sum() - n) / (n * (n - 1))
    return {"rank": float(entropy.exp()), "cosine": float(cosine)}


def table(result: Mapping[str, Any]) -> str:
    """The cases as Markdown."""
    heads = ("case", "best epoch", "valid R@20", "test R@20", "effective rank", "mean cosine")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for label in result["order"]:
        runs = result["rows"][label]["runs"]
        epochs = " / ".join(str(run["best_epoch"]) for run in runs)
        cells = [spread([run[key] for run in runs]) for key in ("valid", "recall")]
        rank = sum(run["rank"] for run in runs) / len(runs)
        cosine = sum(run["cosine"] for run in runs) / len(runs)
        lines.append(f"| {label} | {epochs} | {' | '.join(cells)} | {rank:.1f} | {cosine:.2f} |")
    seeds = seeds_in_words(len(result["seeds"]))
    over = f"Mean ± standard deviation over {seeds}" if len(result["seeds"]) > 1 else seeds.capitalize()
    lines += ["", f"{over}, epochs chosen on validation. `{result['command']}`"]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
