"""What language vectors are worth: models that read texts alone, beside models that read none.

Texts through all-MiniLM-L6-v2 for every dataset (titles of half the items on Amazon Baby, brand and
categories on Amazon Sports), with and without cold items. Each model that reads texts stands beside two
controls: its vectors shuffled among the items, and random vectors; RLMRec, which adds a term to LightGCN,
also beside itself without the term. On the three small datasets every model has eight trials, on the two
large ones its defaults.

``transfer`` takes AlphaRec's map from one dataset to the texts of another: no training there, users are the
means of their items. It stands beside the zero-shot ranker, beside the map as it was before any training, and
beside the map trained there.

    python -m experiments.language_models --tables language_amazon_scientific
    python -m experiments.language_models --tables language_amazon_baby --rows EASE AlphaRec
    python -m experiments.language_models --tables transfer     # trains AlphaRec where it is not there yet
    python -m experiments.language_models --quick               # one epoch, one seed
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

import graphrec as gr
from experiments import amazon_baby, amazon_scientific, amazon_sports, movielens_small, xwines
from experiments.content import text_features
from experiments.harness import Experiment, Row, Study, arguments, run
from experiments.recording import RESULTS, write_result
from experiments.rendering import spread
from experiments.rows import controlled, defaults
from graphrec.core.environment import environment
from graphrec.features import FeatureTable
from graphrec.models import model as model_class

COMMAND = "python -m experiments.language_models"
LABELS = (
    "Popularity", "EASE", "ItemKNN (content)", "ContentEASE", "LightGCN", "Zero-shot", "AlphaRec",
    "RLMRec-Con", "RLMRec-Gen",
)  # fmt: skip
TRANSFER = "transfer"
METRICS = ("recall@20", "ndcg@20")
ALONE = {"RLMRec-Con": {"language_weight": 0.0}, "RLMRec-Gen": {"language_weight": 0.0}}
"""What switches a model's use of texts off."""


@dataclass(frozen=True)
class Catalog:
    """A dataset of the study.

    Attributes:
        reader: its registered name.
        train: options of training.
        trials: tuning budget of every model; 0 takes the defaults.
    """

    reader: str
    train: gr.TrainConfig
    trials: int

    @property
    def name(self) -> str:
        """Of its table."""
        return f"language_{self.reader.replace('-', '_')}"


CATALOGS = (
    Catalog("amazon-scientific", amazon_scientific.TRAIN, 8),
    Catalog("movielens-small", movielens_small.TRAIN, 8),
    Catalog("xwines", xwines.TRAIN, 8),
    Catalog("amazon-baby", amazon_baby.TRAIN, 0),
    Catalog("amazon-sports", amazon_sports.TRAIN, 0),
)
SEEDS = range(3)


def experiments(
    catalog: Catalog, data: gr.Dataset, tables: Mapping[str, FeatureTable]
) -> tuple[Experiment, Experiment]:
    """The tables of a dataset, without and with cold items."""
    main = [row for row in defaults(catalog.train) if row.label in LABELS]
    alone = [
        replace(row, label=f"{row.label}, no texts", like=row.label, change=ALONE[row.label], group="parts")
        for row in main
        if row.label in ALONE
    ]
    controls = [*controlled(main), *controlled(main, "noise"), *alone]
    pairs = [(str(row.like), row.label) for row in controls]
    rows = [*main, *controls]
    warm = Experiment(
        catalog.name, COMMAND, data, tables, rows, SEEDS, "EASE", catalog.trials, pairs, checked=1
    )
    cold = Experiment(
        f"{catalog.name}_cold", COMMAND, data.resplit("cold-items"), tables, rows, SEEDS, "EASE",
        pairs=pairs, tuned_as=warm, checked=1,
    )  # fmt: skip
    return warm, cold


def transferred(
    studies: Mapping[str, Study], source: str, target: str, row: Row, seed: int
) -> dict[str, float]:
    """Test metrics on one dataset of the map that was trained on another; from ``""``, of an untrained one.

    Args:
        studies: by reader, with the trained runs.
        source: reader of the dataset the map is from.
        target: reader of the dataset it is used on.
        row: AlphaRec's.
        seed: of the training.
    """
    there = studies[target]
    data, tables = there.data, dict(there.experiment.features)
    if source == target:
        return there.one(row, there.chosen(row)[0], seed)[0]["test"]
    if source:
        own = studies[source]
        model = own.fitted(row, own.chosen(row)[0], seed).model.transfer(data, tables)
    else:
        cls = model_class(row.model)
        model = cls.build(data, tables, cls.Config(seed=seed))
    report = gr.evaluate(model, data.test, seen=data.train, metrics=("recall", "ndcg"), k=(20,))
    return {metric: report.mean()[metric] for metric in METRICS}


def transfer(studies: Mapping[str, Study], seeds: list[int]) -> dict[str, Any]:
    """From every dataset to every other, as a record."""
    label = "AlphaRec"
    found: dict[str, dict[str, Any]] = {}
    for target, there in studies.items():
        row = there.experiment.row(label)
        found[target] = {
            source or "untrained": [
                {m: values[m] for m in METRICS}
                for values in (transferred(studies, source, target, row, seed) for seed in seeds)
            ]
            for source in ("", *studies)
        }
        for other in ("Popularity", "Zero-shot", "EASE"):
            rival = there.experiment.row(other)
            facts, _ = there.one(rival, there.chosen(rival)[0], seeds[0])
            found[target][other] = [{m: facts["test"][m] for m in METRICS}]
        print(f"{target}: {found[target]}", flush=True)
    return {
        "experiment": "language_transfer", "command": f"{COMMAND} --tables {TRANSFER}", "seeds": seeds,
        "environment": environment(), "targets": found,
    }  # fmt: skip


def transfer_table(result: Mapping[str, Any]) -> str:
    """A column a dataset the map is used on, a row where it is from."""
    targets = result["targets"]
    sources = list(next(iter(targets.values())))
    lines = [f"| recall@20 | {' | '.join(targets)} |", "|---" * (len(targets) + 1) + "|"]
    for source in sources:
        cells = [spread([run[METRICS[0]] for run in found[source]]) for found in targets.values()]
        name = f"AlphaRec, map from {source}" if source in targets else source
        name = "AlphaRec, untrained map" if source == "untrained" else name
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + f"\n\n`{result['command']}`"


def main() -> None:
    """Runs the experiments."""
    options = arguments(__doc__ or "").parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    studies = {}
    for catalog in CATALOGS:
        own = {catalog.name, f"{catalog.name}_cold", TRANSFER}
        if options.tables and not own & set(options.tables):
            continue
        data = gr.load_dataset(catalog.reader, root=options.root)
        warm, cold = experiments(catalog, data, text_features(data, options.store, options.quick))
        for experiment in (warm, cold):
            run(experiment, options)
        studies[catalog.reader] = Study(warm, options.out, options.quick)
    if options.rows or (options.tables and TRANSFER not in options.tables):
        return
    if options.quick:
        print("transfer: not with --quick, whose encoder learns from each dataset")
        return
    result = transfer(studies, options.seeds or list(SEEDS))
    path = RESULTS / "language_transfer.json"
    write_result(path, result)
    print(f"{transfer_table(result)}\n\nwritten: {path}")


if __name__ == "__main__":
    main()
