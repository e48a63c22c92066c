"""Every stage of a FREEDOM epoch against the least it could take on this machine.

    python -m experiments.bench.roofline [--markdown]

The floor of a stage is the longer of its bytes over the measured copy bandwidth and its FLOPs over the
measured float32 matrix product rate. Bytes are those that any implementation must read and write once:
arguments, results, gathered rows; not the temporaries of ours. Data as in ``experiments.bench.epoch``.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch

import graphrec as gr
from experiments.bench import catalog, measure
from graphrec.core.random import numpy_rng
from graphrec.evaluation.metrics import accuracy, metric_names, top_k
from graphrec.graphs.graph import Graph
from graphrec.models.batches import EpochContext, triplets
from graphrec.models.freedom import FREEDOM
from graphrec.models.layers import ItemFeatures
from graphrec.models.losses import bpr
from graphrec.training import checkpoint

BATCH, DIM, K = 2048, 64, 50


class Stage(NamedTuple):
    """One part of an epoch.

    Attributes:
        name: what it is.
        calls: times an epoch.
        bytes: moved by one call at least.
        flops: of one call.
        work: the call.
    """

    name: str
    calls: int
    bytes: float
    flops: float
    work: Callable[[], object]


def ceilings() -> tuple[float, float, float]:
    """Copy bandwidth in bytes a second, and float32 and bfloat16 products in FLOPs a second."""
    source = torch.ones(2**23)  # as large as the larger tables of a step
    target = torch.empty_like(source)
    bandwidth = 2 * source.nbytes / (measure.milliseconds(lambda: target.copy_(source)) / 1e3)
    square = torch.ones(4096, 4096)
    rates = []
    for kind in (torch.float32, torch.bfloat16):
        a = square.to(kind)
        rates.append(2 * 4096**3 / (measure.milliseconds(lambda a=a: a @ a, 5, 1) / 1e3))  # type: ignore[misc]
    return bandwidth, rates[0], rates[1]


def product_bytes(graph: Graph) -> float:
    """Least traffic of one sparse product: row, index and weight of each edge in, one row per node out."""
    return len(graph) * (4 * DIM + 8) + graph.n_target * 4 * DIM


def stages(data: gr.Dataset, model: FREEDOM, folder: Path) -> list[Stage]:
    """All of an epoch, in order."""
    train, n_steps = data.train, -(-len(data.train) // BATCH)
    model.start_epoch(numpy_rng(0, "bench", 1))
    batch = next(model.batches(EpochContext(1, BATCH, 0)))
    graph, items = model.epoch_graph, model.item_graph
    nodes = 4 * DIM * (data.n_users + data.n_items)
    table = 4 * DIM * data.n_items
    once = 2 * product_bytes(graph) + product_bytes(items) + nodes + table
    embeddings = [model.user_embedding.weight, model.item_embedding.weight]
    outputs = model.propagate(graph)
    ones = [torch.ones_like(o) for o in outputs]
    u = outputs[0].detach()[batch.users].requires_grad_(True)
    users, item_rows = (o.detach().requires_grad_(True) for o in outputs)

    def loss() -> None:
        rows = torch.nn.functional.embedding
        taken = rows(batch.users, users), rows(batch.positives, item_rows), rows(batch.negatives, item_rows)
        torch.autograd.grad(bpr((taken[0] * (taken[1] - taken[2])).sum(1)), [users, item_rows])

    found = [
        Stage("shuffle, one negative a pair", 1, len(train) * 8 * 6, 0,
              lambda: next(triplets(train, EpochContext(1, BATCH, 0)))),
        Stage("prune and normalize the graph", 1, len(train) * 16 + len(graph) * 12, 0,
              lambda: model.start_epoch(numpy_rng(0, "bench", 1))),
        Stage("propagate", n_steps, once, 0, lambda: _no_grad(lambda: model.propagate(graph))),
        Stage("propagate, backward", n_steps, once, 0,
              lambda: torch.autograd.grad(outputs, embeddings, ones, retain_graph=True)),
        Stage("BPR on embeddings, both ways", n_steps, 2 * 3 * BATCH * DIM * 4 + nodes, 0, loss),
    ]  # fmt: skip
    for m in model.weights:
        features = cast(ItemFeatures, model.features[m])
        layer = cast(torch.nn.Linear, model.projections[m])
        width = layer.in_features

        def project(f: ItemFeatures = features, layer: torch.nn.Linear = layer) -> None:
            content = f.projected_difference(layer.weight, batch.positives, batch.negatives)
            torch.autograd.grad(bpr((u * content).sum(1)), [layer.weight, u])

        found.append(
            Stage(f"{m}: gather, project, BPR, both ways", n_steps, 2 * BATCH * width * 4,
                  4 * BATCH * width * DIM, project),
        )  # fmt: skip
    parameters = list(model.parameters())
    size = sum(p.numel() for p in parameters)
    adam = torch.optim.Adam(parameters, fused=True)
    for p in parameters:
        p.grad = torch.ones_like(p)
    found.append(Stage("Adam", n_steps, 7 * 4 * size, 0, adam.step))
    write = Stage("checkpoint (fsync)", 1, 2 * 3 * 4 * size, 0,
                  lambda: checkpoint.write(folder, 1, model, adam))  # fmt: skip
    return [*found, *validation(data, model), write]


def validation(data: gr.Dataset, model: FREEDOM) -> list[Stage]:
    """Ranking all items for every user, in tiles as ``evaluate`` does it."""
    held, rows = np.flatnonzero(data.valid.user_degree), 1024
    scores = data.n_items * rows * 4
    calls = -(-len(held) // rows)
    users = torch.from_numpy(held[:rows])
    score = model.scorer()
    some = score(users)
    buffer = some.clone()
    seen = data.train.items_of_users(held[:rows])
    at = torch.from_numpy(seen[0] * data.n_items + seen[1])
    names = metric_names(("recall", "ndcg"), K)
    lists = top_k(some, K, held[:rows]).numpy()
    hits = data.valid.contains(held[:rows, None], lists)
    task = gr.RankingTask(data.valid, seen=data.train, k=K)
    whole = calls * scores * 2
    return [
        Stage("validate: scores", calls, scores, 2 * rows * data.n_items * DIM, lambda: score(users)),
        Stage("validate: hide train pairs", calls, len(at) * 12, 0,
              lambda: buffer.view(-1).index_fill_(0, at, -torch.inf)),
        Stage("validate: top 50", calls, scores, 0, lambda: top_k(some, K, held[:rows])),
        Stage("validate: hits and metrics", calls, rows * K * 9, 0,
              lambda: accuracy(data.valid.contains(held[:rows, None], lists), hits.sum(1) + 1, names)),
        Stage("validate: the whole", 1, whole, calls * 2 * rows * data.n_items * DIM, lambda: task(model)),
    ]  # fmt: skip


def _no_grad(work: Callable[[], Any]) -> Any:
    with torch.no_grad():
        return work()


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--markdown", action="store_true", help="as a table for docs/results/performance.md")
    markdown = parser.parse_args().markdown
    print(measure.machine())
    bandwidth, flops, half = ceilings()
    print(
        f"ceilings: copy {bandwidth / 1e9:.1f} GB/s, matrix product {flops / 1e9:.0f} GFLOP/s in float32, "
        f"{half / 1e9:.0f} in bfloat16"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        catalog.save(folder)
        data = gr.Dataset.load(folder / "dataset")
        model = FREEDOM.build(data, gr.FeatureStore(folder / "cache").load_tables(data))
        cells = [["stage", "calls", "MB", "GFLOP", "floor ms", "ms", "ratio", "ms an epoch"]]
        for stage in stages(data, model, folder / "run"):
            floor = 1e3 * max(stage.bytes / bandwidth, stage.flops / flops)
            took = measure.milliseconds(stage.work, 15)
            cells.append([
                stage.name, f"{stage.calls}", f"{stage.bytes / 1e6:.1f}", f"{stage.flops / 1e9:.2f}",
                f"{floor:.2f}", f"{took:.2f}", f"{took / floor:.1f}", f"{took * stage.calls:.0f}",
            ])  # fmt: skip
    width = max(len(c[0]) for c in cells)
    for number, (first, *rest) in enumerate(cells):
        if markdown:
            print(f"| {first} | {' | '.join(rest)} |" + ("\n|---" + "|---:" * len(rest) + "|") * (not number))
        else:
            print(f"{first:{width}s}" + "".join(f"{c:>12s}" for c in rest))


if __name__ == "__main__":
    main()
