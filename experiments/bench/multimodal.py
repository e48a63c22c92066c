"""An epoch of every multimodal model on generated data of Amazon Baby's exact size (19,445 users, 7,050
items, 118,551 train interactions, 4,096-d image and 384-d text features), with the floor of its steps.

    python -m experiments.bench.multimodal [--threads 1] [--models freedom mgcn ...] [--scale 1]

All models with their defaults and batches of 2,048, in one process; processor time. An epoch is what is drawn
or rebuilt at its start, its first step, and for each of the others the median of five. What is computed once,
before training, is ``build``. The floor of a step counts what it does: floating-point operations of its dense
products at the speed of a large matrix product in the same run, and edges times columns of its sparse
products at the speed of one product of the user-item graph with 64 columns.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import graphrec as gr
from experiments.bench import catalog
from experiments.bench.measure import machine, matrix_product, processor_seconds, steps_parser, training_step
from experiments.rows import MULTIMODAL, NAMES
from graphrec.core.memory import keep_freed_memory
from graphrec.core.random import numpy_rng
from graphrec.features import FeatureTable
from graphrec.graphs import graph as graphs
from graphrec.models import model
from graphrec.models.base import Model
from graphrec.models.batches import EpochContext

DIM, STEPS = 64, 5
LANGUAGE = ("zero-shot", "alpharec", "rlmrec-con", "rlmrec-gen")
"""Models that get texts alone."""
SEVERAL = ("diffmm",)
"""Models whose epochs have batches of several kinds, which one median does not tell."""


@contextmanager
def sparse_work() -> Iterator[list[int]]:
    """Collects edges times columns of every sparse product, those of gradients included."""
    counted: list[int] = []
    original = graphs._product

    def product(graph: graphs.Graph, x: Tensor) -> Tensor:
        counted.append(len(graph) * x[0].numel())
        return original(graph, x)

    graphs._product = product
    try:
        yield counted
    finally:
        graphs._product = original


def sparse_speed(data: gr.Dataset) -> float:
    """Edges times columns a second of one product of the user-item graph."""
    graph = graphs.bipartite(data.train)
    table = torch.rand(data.n_users + data.n_items, DIM)
    return len(graph) * DIM / processor_seconds(lambda: graph @ table, 10)


def epoch_of(
    trained: Model, batch_size: int, dense: float, sparse: float
) -> tuple[float, float, float, float]:
    """An epoch, after a step that is not counted.

    Args:
        trained: the model.
        batch_size: of its batches.
        dense: floating-point operations a second of a matrix product.
        sparse: edges times columns a second of a sparse product.

    Returns:
        seconds of the epoch, of its start, of the median step, and of the floor of that step.
    """
    step = training_step(trained, batch_size)

    def start(epoch: int) -> None:
        trained.start_epoch(numpy_rng(0, "bench/start_epoch", epoch))

    start(1)
    batches = iter(trained.batches(EpochContext(1, batch_size, 0)))
    step(next(batches))
    second = next(batches)
    with FlopCounterMode(display=False) as counter, sparse_work() as counted:
        step(second)
    floor = counter.get_total_flops() / dense + sum(counted) / sparse
    began = time.process_time()
    start(2)
    started = time.process_time() - began
    steps = []
    for batch in islice(trained.batches(EpochContext(2, batch_size, 0)), 1 + STEPS):
        before = time.process_time()
        step(batch)
        steps.append(time.process_time() - before)
    n_batches = sum(1 for _ in trained.batches(EpochContext(2, batch_size, 0)))
    median = statistics.median(steps[1:])
    return started + steps[0] + (n_batches - 1) * median, started, median, floor


def tables_of(data: gr.Dataset, folder: Path) -> dict[str, FeatureTable]:
    """Generated features, on disk as those of a cache."""
    catalog.save_features(data, folder)
    return gr.FeatureStore(folder).load_tables(data)


def main() -> None:
    """Prints a line a model."""
    parser = steps_parser(__doc__)
    known = [NAMES[label] for label in MULTIMODAL if NAMES[label] not in SEVERAL]
    parser.add_argument("--models", nargs="+", choices=known, default=known)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as the Trainer does
    data = catalog.dataset(options.scale)
    print(machine())
    print(f"{data.n_users:,} users, {data.n_items:,} items, {len(data.train):,} interactions")
    operations, product = matrix_product()
    dense, sparse = operations / product.cpu, sparse_speed(data)
    print(f"{dense / 1e9:.0f} GFLOP/s in a matrix product, {sparse / 1e9:.2f} billion edges x columns/s")
    with tempfile.TemporaryDirectory() as folder:
        tables = tables_of(data, Path(folder))
        for name in options.models:
            cls = model(name)
            began = time.process_time()
            given = {"text": tables["text"]} if name in LANGUAGE else tables
            built = cls.build(data, given, cls.Config())
            took = time.process_time() - began
            if not any(parameter.requires_grad for parameter in built.parameters()):
                continue  # it takes no steps
            epoch, start, step, floor = epoch_of(built, options.batch_size, dense, sparse)
            print(
                f"  {name}: epoch {epoch:.2f} s, its start {start:.2f} s; step {1e3 * step:.0f} ms, "
                f"{step / floor:.1f} times the floor of {1e3 * floor:.0f} ms; build {took:.1f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
