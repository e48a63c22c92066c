"""Memory and time of an item-item graph as the items grow: FREEDOM's, which is frozen, LATTICE's, which is
learned, and LATTICE the way of today's toolboxes, with matrices of items x items.

    python -m experiments.bench.item_graph_memory [--items 7000 15000 ...] [--cases freedom lattice dense]

Generated data of Amazon Baby's proportions (2.8 users and 17 train interactions an item), 512-d image and
384-d text features: with 4,096-d ones the features, which all three hold, would hide the graphs. Each cell is
a process of its own that builds the model and takes one training step over a batch of 2,048, with the item
graph built in it where it is learned. ``extra`` is peak resident memory above that with dataset and features
read; ``/freedom`` is the ratio to FREEDOM's at the same size.

The row ``dense`` is written in this file: per modality a matrix of all cosines, the ten largest of each row
kept in another one, sums of rows, dense mixing, a dense product, gradients through all of it. A size at which
it would not fit is left out; what it would need is the last size that did, times the square of the growth.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

from experiments.bench import catalog, measure
from experiments.bench.growth import free

WIDTHS = {"image": 512, "text": 384}
CASES = ("freedom", "lattice", "dense")
BATCH, DIM, K, ORIGINAL = 2048, 64, 10, 0.9


def ours(folder: Path, name: str) -> dict[str, float]:
    """One of the registered models, measured in this process."""
    import graphrec as gr
    from graphrec.core.random import numpy_rng
    from graphrec.models.batches import EpochContext

    kind = {"freedom": gr.models.FREEDOM, "lattice": gr.models.LATTICE}[name]
    data, features = _read(folder)
    with measure.spent() as whole:
        began = time.perf_counter()
        model = kind.build(data, features)
        build = time.perf_counter() - began
        adam = model.optimizer(gr.TrainConfig())
        batch = next(model.batches(EpochContext(1, BATCH, 0)))
        model.train()
        began = time.perf_counter()
        model.start_epoch(numpy_rng(0, "bench/item_graph", 1))
        sum(model(batch).values()).backward()
        adam.step()
        step = time.perf_counter() - began
    return {"extra": whole.extra, "build": build, "step": step}


def dense(folder: Path) -> dict[str, float]:
    """LATTICE with dense item graphs, measured in this process."""
    import torch
    from torch import Tensor, nn
    from torch.nn.functional import normalize

    from graphrec.core.random import torch_rng
    from graphrec.graphs.graph import bipartite
    from graphrec.models.batches import EpochContext, triplets

    data, features = _read(folder)

    def nearest(vectors: Tensor) -> Tensor:
        unit = normalize(vectors, dim=1)
        values, at = torch.topk(unit @ unit.T, K, dim=1)
        return torch.zeros(len(unit), len(unit)).scatter(1, at, values.clamp(min=0))

    def scaled(adjacency: Tensor) -> Tensor:
        inverse = adjacency.sum(1).clamp(min=1e-7).rsqrt()
        return inverse[:, None] * adjacency * inverse[None, :]

    with measure.spent() as whole:
        began = time.perf_counter()
        raw = {m: torch.from_numpy(t.numpy()) for m, t in features.items()}
        original = {m: scaled(nearest(x)) for m, x in raw.items()}
        maps = nn.ModuleDict({m: nn.Linear(x.shape[1], DIM) for m, x in raw.items()})
        share = nn.Parameter(torch.full((len(raw),), 0.5))
        start = torch.empty(data.n_users + data.n_items, DIM)
        ids = nn.Parameter(nn.init.xavier_uniform_(start, generator=torch_rng(0, "bench/dense")))
        users_items = bipartite(data.train)
        build = time.perf_counter() - began
        adam = torch.optim.Adam([ids, share, *maps.parameters()], fused=True)
        users, positives, negatives = next(triplets(data.train, EpochContext(1, BATCH, 0)))
        began = time.perf_counter()
        weights = share.softmax(0)
        # Sums, not stacks: a toolbox adds two matrices and keeps no third.
        learned = reduce(
            add, (w * nearest(maps[m](x)) for w, (m, x) in zip(weights, raw.items(), strict=True))
        )
        kept = reduce(add, (w * original[m] for w, m in zip(weights, raw, strict=True)))
        graph = (1 - ORIGINAL) * scaled(learned) + ORIGINAL * kept
        layers = [ids]
        for _ in range(2):
            layers.append(users_items @ layers[-1])
        mean = torch.stack(layers).mean(0)
        u = mean[: data.n_users]
        items = mean[data.n_users :] + normalize(graph @ ids[data.n_users :], dim=1)
        score = (u[users] * (items[positives] - items[negatives])).sum(1)
        (-nn.functional.logsigmoid(score).mean()).backward()
        adam.step()
        step = time.perf_counter() - began
    return {"extra": whole.extra, "build": build, "step": step}


def _read(folder: Path) -> tuple[Any, Any]:
    """Dataset and features, the latter's pages in memory."""
    import torch

    import graphrec as gr

    data = gr.Dataset.load(folder / "dataset")
    features = gr.FeatureStore(folder / "cache").load_tables(data)
    for table in features.values():
        table.numpy().sum()
    warm = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], fused=True)  # imports much when first used
    del warm
    return data, features


def main() -> None:
    """Prints the table, or with ``--case`` one cell as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", nargs="+", type=int, default=[7_000, 15_000, 30_000, 60_000])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        found = dense(given.folder) if given.case == "dense" else ours(given.folder, given.case)
        print(json.dumps(found))
        return
    print(measure.machine())
    print(
        f"{'items':>8s}{'':>2s}{'case':10s}{'build':>10s}{'first step':>12s}{'extra':>12s}{'/freedom':>10s}"
    )
    last: tuple[int, float] | None = None
    for items in sorted(given.items):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            catalog.save(folder, items / catalog.ITEMS, WIDTHS)
            cells: dict[str, dict[str, float]] = {}
            for case in given.cases:
                if case == "dense" and last is not None:
                    need = last[1] * (items / last[0]) ** 2
                    if need > free():
                        there = f"{need / measure.GIB:.1f} GiB, {free() / measure.GIB:.1f} GiB are free"
                        print(f"{items:>8,}  {case:10s}left out: would need about {there}", flush=True)
                        continue
                cell = measured(folder, case)
                if cell is None:
                    print(f"{items:>8,}  {case:10s}ended early, out of memory", flush=True)
                    continue
                cells[case] = cell
                if case == "dense":
                    last = items, cell["extra"]
                ratio = f"{cell['extra'] / cells['freedom']['extra']:.1f}" if "freedom" in cells else ""
                print(
                    f"{items:>8,}  {case:10s}{cell['build']:>8.2f} s{cell['step']:>10.2f} s"
                    f"{cell['extra'] / measure.GIB:>8.2f} GiB{ratio:>10s}",
                    flush=True,
                )


def measured(folder: Path, case: str) -> dict[str, float] | None:
    """A cell from a process of its own; None where the system ended it."""
    command = [sys.executable, "-m", "experiments.bench.item_graph_memory", "--case", case,
               "--folder", str(folder)]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode == -9:
        return None
    if done.returncode:
        raise SystemExit(f"{case}: ended with status {done.returncode}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
