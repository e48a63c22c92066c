"""Steps of self-supervised models against LightGCN's, and their blocks against floors, on generated data of
Amazon Baby's size.

    python -m experiments.bench.self_supervision [--scale 1] [--threads 1] [--batch-size 2048]

Processor time of one step, after one that is not counted. The floor of a contrast is three products of the
batch with its pool (the similarities, and the gradients of both sides) at the speed of a matrix product in
the same run; that of noise is the time to copy its table three times. Hyperedges, intents, the view of low
rank and k-means have the floor of their products; weights of edges and attention that of two sparse products,
which read as many rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import graphrec as gr
from experiments.bench import catalog
from experiments.bench.measure import machine, matrix_product, processor_seconds, steps_parser, training_step
from graphrec.core.memory import keep_freed_memory
from graphrec.core.random import numpy_rng
from graphrec.graphs.attention import edge_attention
from graphrec.graphs.augmentation import adaptive_edges, drop_edges, drop_entries, drop_nodes
from graphrec.graphs.graph import Graph, bipartite
from graphrec.graphs.low_rank import low_rank_view
from graphrec.models import model
from graphrec.models.batches import EpochContext
from graphrec.models.losses import InfoNCE
from graphrec.models.self_supervision import (
    contrast,
    hypergraph,
    intents,
    prototypes,
    sign_noise,
    uniform_noise,
)

STEPS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("lightgcn", {"n_layers": 3}),
    ("sgl", {}),
    ("sgl", {"pool": "batch"}),
    ("simgcl", {}),
    ("xsimgcl", {}),
    ("lightgcl", {}),
    ("ncl", {}),
    ("hccf", {}),
    ("dccf", {}),
    ("autocf", {}),
    ("gformer", {}),
    ("directau", {}),
    ("directau", {"n_layers": 3}),
)
REPEATS = 5
HYPEREDGES, RANK, CLUSTERS = 128, 5, 1000


def milliseconds(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """Processor time of one call."""
    return 1e3 * processor_seconds(work, repeats)


def step_time(data: gr.Dataset, name: str, options: dict[str, Any], batch_size: int) -> float:
    """A step of a model: batch to updated parameters."""
    cls = model(name)
    trained = cls.build(data, None, cls.Config(**options))
    trained.start_epoch(np.random.default_rng(0))
    step = training_step(trained, batch_size)
    batch = next(iter(trained.batches(EpochContext(1, batch_size, 0))))
    return milliseconds(lambda: step(batch))


def blocks(data: gr.Dataset, batch_size: int, dim: int = 64) -> None:
    """Prints a line a block."""
    operations, product = matrix_product()
    speed = operations / (1e3 * product.cpu)  # operations a millisecond
    n, train = data.n_users + data.n_items, data.train
    table = torch.rand(n, dim)
    copy = milliseconds(table.clone)
    key = torch.tensor(0)
    drawn = milliseconds(lambda: uniform_noise(key, 1, (n, dim)))
    uniform = uniform_noise(key, 1, (n, dim))[0]
    added = milliseconds(lambda: sign_noise(table, uniform, 0.1))
    print(f"  noise of a layer: drawn in {drawn:.1f} ms, added in {added:.1f}; floor {3 * copy:.1f} ms")
    loss = InfoNCE(0.2)
    ids = torch.from_numpy(train.users[:: max(1, len(train) // batch_size)][:batch_size].astype(np.int64))
    one, other = (torch.rand(data.n_users, dim, requires_grad=True) for _ in range(2))
    for pool, rows, columns in (
        ("batch", len(ids.unique()), len(ids.unique())),
        ("all", len(ids), data.n_users),
    ):
        took = milliseconds(lambda pool=pool: contrast(loss, one, other, ids, pool).backward())  # type: ignore[misc]
        floor = 3 * 2 * rows * columns * dim / speed
        print(
            f"  contrast of {rows:,} users with {columns:,}: {took:.0f} ms, {took / floor:.1f} times the "
            f"floor of {floor:.0f} ms"
        )
    graph = bipartite(train)
    more_blocks(train, graph, table, speed)
    build = milliseconds(lambda: bipartite(train))
    for name, view in (
        ("edges", lambda: drop_edges(train, 0.1, numpy_rng(0, "bench"))),
        ("nodes", lambda: drop_nodes(train, 0.1, numpy_rng(0, "bench"))),
        ("entries", lambda: drop_entries(graph, 0.1, numpy_rng(0, "bench"))),
    ):
        print(f"  view without {name}: {milliseconds(view):.1f} ms; the whole graph is built in {build:.1f}")


def more_blocks(train: gr.Interactions, graph: Graph, table: torch.Tensor, speed: float) -> None:
    """Prints a line a block that is a few products, forward alone.

    Args:
        train: the interactions.
        graph: of users and items.
        table: embeddings of both ``(n, d)``.
        speed: of a matrix product, in operations a millisecond.
    """
    n, dim = table.shape
    product = milliseconds(lambda: graph @ table)
    incidence = torch.rand(n, HYPEREDGES)
    columns = torch.rand(dim, HYPEREDGES)
    view = low_rank_view(train, RANK)
    clusters = 2 * n * CLUSTERS * dim / speed
    for name, work, floor in (
        ("hyperedges", lambda: hypergraph(incidence, table), 4 * n * HYPEREDGES * dim / speed),
        ("intents", lambda: intents(table, columns), 4 * n * HYPEREDGES * dim / speed),
        ("a view of low rank", lambda: view @ table, 4 * n * RANK * dim / speed),
        ("weights of all edges", lambda: adaptive_edges(graph, table), 2 * product),
        ("attention over all edges", lambda: edge_attention(graph, table, table, table, 4), 2 * product),
        (
            f"k-means, {CLUSTERS} clusters, a start and five steps",
            lambda: prototypes(table, CLUSTERS, 5, torch.Generator().manual_seed(0)),
            7 * clusters,
        ),
    ):
        took = milliseconds(work, 3)
        print(f"  {name}: {took:.1f} ms, {took / floor:.1f} times the floor of {floor:.1f} ms", flush=True)


def main() -> None:
    """Prints the lines."""
    options = steps_parser(__doc__).parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as the Trainer does
    data = catalog.dataset(options.scale)
    print(machine())
    print(f"{data.n_users:,} users, {data.n_items:,} items, {len(data.train):,} interactions")
    reference = 0.0
    for name, settings in STEPS:
        took = step_time(data, name, settings, options.batch_size)
        reference = reference or took
        given = ", ".join(f"{key}={value}" for key, value in settings.items())
        print(f"  {name} {given}: {took:.0f} ms, {took / reference:.1f} times the first", flush=True)
    blocks(data, options.batch_size)


if __name__ == "__main__":
    main()
