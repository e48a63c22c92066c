"""What a split per user knows: the same models on random, per-user chronological and global-time splits.

Every dataset with times, cheap models with default options. Per user, eight tenths are to train, a tenth to
choose the epoch on and a tenth to test. With one time for all, three cuts take the place of the seeds: after
90, 80 and 70 percent of the interactions, the tenth before the cut is to choose on, and all after it is the
test. Users without train interactions are left out, as nothing is known of them. Also how much of train lies
after the first test interaction of a user.

    python -m experiments.time_splits             # three seeds
    python -m experiments.time_splits --quick     # one epoch, one seed, a small dataset
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

import graphrec as gr
from experiments.harness import QUICK, folder_of, options_of_all
from experiments.recording import RESULTS, write_result
from experiments.rendering import spread
from graphrec.core.environment import environment
from graphrec.core.files import read_json, write_json
from graphrec.models import model as model_class

COMMAND = "python -m experiments.time_splits"
DATASETS: dict[str, tuple[str, dict[str, Any]]] = {
    "Git histories, DB": ("oss-contrib", {"topic": "DB"}),
    "Git histories, FS": ("oss-contrib", {"topic": "FS"}),
    "MovieLens small": ("movielens-small", {}),
    "X-Wines": ("xwines", {}),
}
SPLITS: dict[str, dict[str, Any]] = {
    "random per user": {"name": "random", "valid": 0.1, "test": 0.1},
    "newest per user": {"name": "chronological", "valid": 0.1, "test": 0.1},
    "one time for all": {"name": "time", "valid": 0.1},
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "Popularity": ("popularity", {}),
    "Popularity, recent": ("popularity", {"half_life": 365.0}),
    "ItemKNN": ("itemknn", {}),
    "MF-BPR": ("mf", {}),
}
WITHOUT = {"X-Wines": ("MF-BPR",)}
"""Models that are left out on a dataset, as training them nine times takes long."""
CUTS = (0.1, 0.2, 0.3)
TRAIN = gr.TrainConfig(
    batch_size=2048, epochs=60, patience=5, patience_steps=0, learning_rate=5e-3, progress=False
)
METRICS = ("recall@20", "ndcg@20")


def main() -> None:
    """Prints and records the tables."""
    parser = options_of_all(__doc__ or "", "1 epoch, 1 seed, DB")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of models and splits")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    seeds = options.seeds[: 1 if options.quick else None]
    chosen = list(DATASETS)[:1] if options.quick else list(DATASETS)
    found = {name: measured(name, seeds, options) for name in chosen}
    result = {"command": COMMAND + (" --quick" if options.quick else ""), "seeds": seeds,
              "environment": environment(), "datasets": found}  # fmt: skip
    path = (options.out / "quick" if options.quick else RESULTS) / "time_splits.json"
    write_result(path, result)
    print(f"{table(read_json(path))}\n\nwritten: {path}")


def measured(name: str, seeds: list[int], options: argparse.Namespace) -> dict[str, Any]:
    """One dataset: facts of each split, and the metrics of each model on it, one a seed."""
    folder = options.out / ("quick" if options.quick else "") / "time_splits" / folder_of(name)
    labels = [label for label in MODELS if label not in WITHOUT.get(name, ())]
    found: dict[str, Any] = {}
    for split_name in SPLITS:
        models: dict[str, list[dict[str, float]]] = {label: [] for label in labels}
        facts: list[dict[str, float]] = []
        for seed in seeds:
            path = folder / folder_of(split_name) / f"seed-{seed}.json"
            if not path.exists():
                data = read(name, split_name, seed, options.root)
                path.parent.mkdir(parents=True, exist_ok=True)
                runs = {label: one(data, label, seed, options.quick) for label in labels}
                write_json(path, {"facts": facts_of(data), "models": runs})
            done = read_json(path)
            facts.append(done["facts"])
            for label in labels:
                models[label].append(done["models"][label])
        found[split_name] = {"facts": facts, "models": models}
        print(f"{name}, {split_name}: {facts[0]}", flush=True)
    return found


def read(name: str, split_name: str, seed: int, root: str | None) -> gr.Dataset:
    """A dataset with one of the splits; of one time for all, the cut that stands for the seed."""
    reader, given = DATASETS[name]
    split = SPLITS[split_name]
    if split["name"] == "time":
        split = {**split, "test": CUTS[seed % len(CUTS)]}
    return gr.load_dataset(reader, root=root, split=split, seed=seed, **given)


def one(data: gr.Dataset, label: str, seed: int, quick: bool) -> dict[str, float]:
    """The metrics of one model, for the users that have train interactions."""
    name, given = MODELS[label]
    cls = model_class(name)
    train = TRAIN.replace(seed=seed, **({"epochs": QUICK["epochs"]} if quick else {}))
    known_valid, known_test = (known(data, part) for part in (data.valid, data.test))
    task = gr.RankingTask(known_valid, seen=data.train, k=20, metrics=("recall", "ndcg"))
    run = gr.Trainer(train).fit(cls.build(data, None, cls.Config(**given, seed=seed)), task)
    report = gr.evaluate(run.model, known_test, seen=data.train + data.valid, k=(20,),
                         metrics=("recall", "ndcg"), progress=False)  # fmt: skip
    return {metric: report.mean()[metric] for metric in METRICS}


def known(data: gr.Dataset, part: gr.data.Interactions) -> gr.data.Interactions:
    """The held-out interactions of users that have train interactions."""
    return part.where(data.train.user_degree[part.users] > 0)


def facts_of(data: gr.Dataset) -> dict[str, float]:
    """Test users, and what train knows of the time after their first test interactions."""
    test = known(data, data.test)
    return {
        "train": len(data.train), "users": len(np.unique(test.users)), "test": len(test),
        "later": later_share(data.train, test),
        "new": float((data.train.item_degree[test.items] == 0).mean()),
    }  # fmt: skip


def later_share(train: gr.data.Interactions, test: gr.data.Interactions) -> float:
    """Share of train after a user's first test interaction, averaged over the users of the test."""
    first = np.full(test.n_users, np.inf)
    np.minimum.at(first, test.users, test.seconds)
    later = len(train) - np.searchsorted(np.sort(train.seconds), first[np.unique(test.users)], side="right")
    return float(later.mean() / len(train))


def table(result: Mapping[str, Any]) -> str:
    """One table a dataset: models by split, mean ± standard deviation over seeds."""
    parts = []
    for name in DATASETS:
        if name not in result["datasets"]:
            continue
        splits = {split: result["datasets"][name][split] for split in SPLITS}
        lines = [f"**{name}**", "", f"| recall@20 | {' | '.join(splits)} |", "|---" * (len(splits) + 1) + "|"]
        for label in (label for label in MODELS if label not in WITHOUT.get(name, ())):
            cells = [spread([run[METRICS[0]] for run in found["models"][label]]) for found in splits.values()]
            lines.append(f"| {label} | {' | '.join(cells)} |")
        for fact, words, form in (
            ("later", "train after a user's first test interaction", "{:.0%}"),
            ("new", "test pairs with an item that is not in train", "{:.0%}"),
            ("users", "test users", "{:,.0f}"),
        ):
            means = [float(np.mean([facts[fact] for facts in found["facts"]])) for found in splits.values()]
            lines.append(f"| {words} | {' | '.join(form.format(mean) for mean in means)} |")
        parts.append("\n".join(lines))
    seeds = len(result["seeds"])
    over = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    parts.append(f"{over[0].upper()}{over[1:]}, or as many cuts. `{result['command']}`")
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
