"""Gowalla in the split of LightGCN: closed-form models beside their published rows, test users, train masked.

This split has no validation part. The settings are those that the authors give for this dataset, and how they
were chosen is unknown or was by the test pairs; so these rows show that the formulas are the published ones,
and say nothing about which model is best.

    python -m experiments.gowalla              # GF-CF and BSPM-EM, some minutes
    python -m experiments.gowalla --ease       # EASE too: 6.7 GB, and half an hour or more on one core
    python -m experiments.gowalla --steps 20   # how long LightGCN and UltraGCN would take, from some steps
"""

from __future__ import annotations

import argparse
import itertools
import time
from typing import Any, NamedTuple

import torch

import graphrec as gr
from graphrec.core.memory import keep_freed_memory
from graphrec.core.text_table import render
from graphrec.models import model as model_class
from graphrec.models.batches import EpochContext

COMMAND = "python -m experiments.gowalla"
METRICS = ("recall@20", "ndcg@20")


class Row(NamedTuple):
    """A row: label, registered name, options, and the published values of :data:`METRICS`."""

    label: str
    model: str
    options: dict[str, Any]
    published: tuple[float, float]


ROWS = (
    Row("GF-CF", "gf-cf", {"rank": 256, "alpha": 0.3}, (0.1849, 0.1518)),
    Row("BSPM-EM", "bspm", {"rank": 448, "beta": 0.2, "time": 2.5}, (0.1920, 0.1597)),
)
"""GF-CF: the BARS leaderboard (https://openbenchmark.github.io/BARS). BSPM-EM: the table of the paper
(https://arxiv.org/abs/2211.09324)."""
EASE = Row("EASE", "ease", {"reg_weight": 15.9}, (0.1765, 0.1467))
"""The BARS leaderboard; its penalty is that of
https://github.com/sisinflab/Graph-RSs-Reproducibility."""
TRAINED = (
    (Row("LightGCN", "lightgcn", {"n_layers": 3, "reg_weight": 1e-4}, (0.1830, 0.1554)), 2048, 1000),
    (Row("UltraGCN", "ultragcn", {}, (0.1862, 0.1580)), 512, 634),
)
"""With batch size and epochs. LightGCN: https://github.com/gusye1234/LightGCN-PyTorch. UltraGCN: the best
epoch in the log of https://github.com/xue-pai/UltraGCN; it stops 150 epochs later."""


def measure(data: gr.Dataset, row: Row) -> list[str]:
    """Fits and evaluates a row; its cells in the printed table."""
    start = time.perf_counter()
    kind = model_class(row.model)
    model = kind.build(data, None, kind.Config(**row.options))
    fitted = time.perf_counter()
    report = gr.evaluate(model, data.test, seen=data.train, k=20)
    scored = time.perf_counter()
    found = [report[name].mean() for name in METRICS]
    cells = [f"{a:.4f} ({b:.4f}, {a / b - 1:+.1%})" for a, b in zip(found, row.published, strict=True)]
    return [row.label, *cells, f"{fitted - start:.0f}", f"{scored - fitted:.0f}"]


def training_time(data: gr.Dataset, row: Row, batch_size: int, epochs: int, steps: int) -> str:
    """How long the published number of epochs would take, from the processor time of some steps."""
    kind = model_class(row.model)
    model = kind.build(data, None, kind.Config(**row.options))
    optimizer = model.optimizer(gr.TrainConfig(batch_size=batch_size))
    batches = model.batches(EpochContext(1, batch_size, 0))
    started = time.process_time()
    for number, batch in enumerate(itertools.islice(batches, steps + 1)):
        if number == 1:  # the first allocates
            started = time.process_time()
        optimizer.zero_grad()
        torch.stack(list(model(batch).values())).sum().backward()
        optimizer.step()
    step = (time.process_time() - started) / steps
    per_epoch = -(-len(data.train) // batch_size)
    hours = step * per_epoch * epochs / 3600
    return (
        f"{row.label}: {step:.3f} s a step of {batch_size:,}, {per_epoch:,} steps an epoch, {epochs:,} "
        f"epochs: {hours:.0f} hours of processor time"
    )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--root", default=None, help="folder with the datasets (default: $GRAPHREC_DATA, else data)"
    )
    parser.add_argument(
        "--ease", action="store_true", help="EASE too: 6.7 GB, and half an hour or more on one core"
    )
    parser.add_argument("--steps", type=int, help="time this many steps of the models that are trained")
    options = parser.parse_args()
    data = gr.load_dataset("gowalla", root=options.root, valid_share=0)
    if options.steps:
        keep_freed_memory()  # as the Trainer does
        for trained in TRAINED:
            print(training_time(data, *trained, options.steps), flush=True)
        return
    rows = [measure(data, row) for row in (*ROWS, *([EASE] if options.ease else []))]
    print(f"{data.name}: {data.n_users:,} users, {data.n_items:,} items. The split has no validation part.")
    header = ["model", *(f"{name} (published)" for name in METRICS), "fit, s", "evaluation, s"]
    print(render(header, rows, "plain"))


if __name__ == "__main__":
    main()
