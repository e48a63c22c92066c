"""How long should the embedding of a cold item be? The mean of its content neighbors is shorter than each of
them, so that it scores below warm items for no reason of its own.

FREEDOM on three datasets with a tenth of the items kept out of train, measured on **validation**: the mean as
it is (0), and scaled toward the mean length of the neighbors (1 reaches it).

    python -m experiments.cold_items
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import graphrec as gr
from experiments.content import features_of_dataset
from experiments.recording import RESULTS, write_result
from experiments.rendering import seeds_in_words, spread
from graphrec.core.files import read_json
from graphrec.evaluation.ranking import warm_cold
from graphrec.features import FeatureTable

RESULT = RESULTS / "cold_items.json"
POWERS = (0.0, 0.5, 1.0, 1.5)
BATCH = {"amazon-scientific": 512, "movielens-small": 1024, "xwines": 2048}
CONFIG = {"dropout": 0.5, "reg_weight": 0.1}
COLUMNS = ("all", "items/warm", "items/cold", "items/cold/within")


class _Scorer:
    """Embeddings as they are."""

    def __init__(self, users: Tensor, items: Tensor) -> None:
        self.users, self.items, self.n_users, self.n_items = users, items, len(users), len(items)

    def scorer(self) -> Any:
        """See :meth:`graphrec.models.base.Ranker.scorer`."""
        return lambda batch: self.users[batch] @ self.items.T


def scaled(model: Any, power: float) -> Tensor:
    """Item embeddings ``(n_items, d)``, cold ones as long as the neighbors' mean times a power of what it
    lacks.
    """
    _, items = model.propagate(model.full_graph)
    graph, warm = model.cold_items.graph, model.cold_items.warm
    mean = graph @ items
    length = mean.norm(dim=1, keepdim=True).clamp(min=1e-12)
    wanted = graph @ items.norm(dim=1, keepdim=True)
    result: Tensor = torch.where(warm, items, mean * (wanted / length) ** power)
    return result


def opened(name: str, root: str | None, store: Path) -> tuple[gr.Dataset, dict[str, FeatureTable]]:
    """A dataset with a tenth of its items cold, and its features by field."""
    if name == "amazon-scientific":
        data = gr.load_dataset(name, root=root).resplit("cold-items")
    else:
        data = gr.load_dataset(name, root=root, split="cold-items")
    return data, features_of_dataset(data, root, store)


@torch.no_grad()
def measured(data: gr.Dataset, tables: Any, batch_size: int, seed: int) -> dict[str, dict[str, float]]:
    """Validation recall@20 by power and group of items, for one training."""
    cls = gr.models.FREEDOM
    model = cls.build(data, tables, cls.Config(**CONFIG, seed=seed))
    settings = gr.TrainConfig(
        epochs=200, patience_steps=0, batch_size=batch_size, learning_rate=5e-3, seed=seed, progress=False
    )
    with torch.enable_grad():
        task = gr.RankingTask(data.valid, seen=data.train, k=20, metrics=("recall",))
        model = gr.Trainer(settings).fit(model, validate=task).model
    users, _ = model.propagate(model.full_graph)
    found = {}
    for power in POWERS:
        report = gr.evaluate(
            _Scorer(users, scaled(model, power)), data.valid, seen=data.train, k=20, metrics=("recall",),
            item_groups=warm_cold(data.train), within=True, progress=False,
        )  # fmt: skip
        groups = {name: part.mean()["recall@20"] for name, part in report.groups.items()}
        found[str(power)] = {"all": report.mean()["recall@20"], **groups}
    return found


def table(result: Any) -> str:
    """The recorded numbers as markdown."""
    head = (
        f"dataset ({seeds_in_words(len(result['seeds']))})",
        "scaled",
        "all",
        "warm",
        "cold",
        "cold among cold",
    )
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, runs in result["datasets"].items():
        for power in map(str, result["powers"]):
            cells = [spread([run[power][column] for run in runs]) for column in COLUMNS]
            lines.append(f"| {name} | {power} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Prints and records the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", default=None, help="folder with the datasets")
    parser.add_argument("--store", type=Path, default=Path("cache"), help="the feature store")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    found: dict[str, list[Any]] = {}
    for name, batch_size in BATCH.items():
        data, tables = opened(name, options.root, options.store)
        found[name] = [measured(data, tables, batch_size, seed) for seed in options.seeds]
    write_result(RESULT, {"seeds": options.seeds, "powers": POWERS, "datasets": found})
    print(table(read_json(RESULT)))


if __name__ == "__main__":
    main()
