"""Epochs of the models on generated data of Amazon Baby's exact size (19,445 users, 7,050 items, 118,551
train interactions, 4,096-d image and 384-d text features), against the way of today's toolboxes.

    python -m experiments.bench.epoch [--epochs 5] [--cases freedom lightgcn ...] [--scale 4]

Every case runs in a process of its own through the Trainer and prints: seconds from opening the saved
dataset to the first batch (item graph computed, and taken from its cache), seconds per epoch (median, least
and most), seconds per validation of all users at k = 50, peak resident memory. ``--scale 4`` is four times
the users, items and interactions.

The row ``toolbox`` is a step written the way the toolboxes do it, in this file: features are trained, every
item is projected at every step, autograd transposes the adjacency, Adam is not fused. A few steps are timed
and scaled to an epoch.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from experiments.bench import catalog, measure

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "freedom": ("FREEDOM", {}),
    "freedom, bfloat16 features": ("FREEDOM", {"feature_dtype": "bfloat16"}),
    "freedom, reg_weight 0": ("FREEDOM", {"reg_weight": 0}),
    "lightgcn": ("LightGCN", {"n_layers": 2}),
    "mf": ("MF", {}),
    "vbpr": ("VBPR", {}),
    "bm3": ("BM3", {}),
    "bm3, bfloat16 features": ("BM3", {"feature_dtype": "bfloat16"}),
    "lattice": ("LATTICE", {}),
}
BATCH = 2048


def case(folder: Path, name: str, epochs: int) -> dict[str, Any]:
    """One case, measured in this process."""
    import graphrec as gr
    from graphrec.models.batches import EpochContext

    model_name, options = CASES[name]
    kind, opening, model = getattr(gr.models, model_name), [], None
    dataset, store = gr.Dataset, gr.FeatureStore  # imported before the clock starts
    if "graph_cache" in kind.Config.model_fields:
        options = {**options, "graph_cache": folder / "graphs" / name}
    for _ in range(2):  # the second time the item graph is in its cache
        began = time.perf_counter()
        data = dataset.load(folder / "dataset")
        features = store(folder / "cache").load_tables(data) if kind.modalities else None
        model = kind.build(data, features, kind.Config(**options))
        next(iter(model.batches(EpochContext(1, BATCH, 0))))
        opening.append(time.perf_counter() - began)
    task = gr.RankingTask(data.valid, seen=data.train, k=50)
    settings = gr.TrainConfig(epochs=epochs, batch_size=BATCH, patience=None, device="cpu", progress=False)
    run = gr.Trainer(settings).fit(model, validate=task)
    training = [h["seconds/train"] for h in run.history]
    began = time.perf_counter()
    task(run.model)
    return {
        "opening": opening,
        "epoch": training,
        "validation": time.perf_counter() - began,
        "peak": measure.peak(),
    }


def toolbox(folder: Path, steps: int = 6) -> dict[str, Any]:
    """Seconds of one epoch of FREEDOM the toolboxes' way, from a few steps."""
    import torch
    from torch import nn

    import graphrec as gr
    from graphrec.graphs.graph import bipartite
    from graphrec.graphs.knn import knn
    from graphrec.models.batches import EpochContext, triplets

    data = gr.Dataset.load(folder / "dataset")
    features = gr.FeatureStore(folder / "cache").load_tables(data)
    graph = bipartite(data.train)
    adjacency = graph.matrix().to_sparse_coo().coalesce()
    item_graph = knn(features["text"], 10).matrix().to_sparse_coo().coalesce()
    ids = nn.Embedding(data.n_users + data.n_items, 64)
    raw = nn.ModuleList(
        nn.Embedding.from_pretrained(torch.from_numpy(t.numpy()), freeze=False) for t in features.values()
    )
    maps = nn.ModuleList(nn.Linear(t.dim, 64) for t in features.values())
    parameters = [*ids.parameters(), *raw.parameters(), *maps.parameters()]
    adam = torch.optim.Adam(parameters, lr=1e-3, fused=False)
    times = []
    for number, (users, positives, negatives) in enumerate(triplets(data.train, EpochContext(1, BATCH, 0))):
        if number == steps + 2:
            break
        began = time.perf_counter()
        layers = [ids.weight]
        for _ in range(2):
            layers.append(torch.sparse.mm(adjacency, layers[-1]))
        mean = torch.stack(layers, 1).mean(1)
        u, items = mean[: data.n_users], mean[data.n_users :]
        items = items + torch.sparse.mm(item_graph, ids.weight[data.n_users :])
        tables = [items, *(m(r.weight) for m, r in zip(maps, raw, strict=True))]  # every item, every step
        scores = [(u[users] * t[positives]).sum(1) - (u[users] * t[negatives]).sum(1) for t in tables]
        loss = torch.stack([-nn.functional.logsigmoid(s).mean() for s in scores]).sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
        times.append(time.perf_counter() - began)
    per_epoch = statistics.median(times[2:]) * -(-len(data.train) // BATCH)
    return {"opening": [], "epoch": [per_epoch], "validation": None, "peak": measure.peak()}


def main() -> None:
    """Prints the table, or with ``--case`` one case as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--cases", nargs="+", default=[*CASES, "toolbox"], choices=[*CASES, "toolbox"])
    parser.add_argument("--scale", type=float, default=1)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        folder = Path(given.folder)
        done = toolbox(folder) if given.case == "toolbox" else case(folder, given.case, given.epochs)
        print(json.dumps(done))
        return
    print(measure.machine())
    print(
        f"{'':28s}{'first batch':>13s}{'cached':>8s}{'epoch':>8s}{'(range)':>14s}{'valid':>7s}{'peak':>10s}"
    )
    with tempfile.TemporaryDirectory() as folder:
        catalog.save(Path(folder), given.scale)
        for name in given.cases:
            command = [sys.executable, "-m", "experiments.bench.epoch", "--case", name, "--folder", folder,
                       "--epochs", str(given.epochs)]  # fmt: skip
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{name}: ended with status {done.returncode}")
            row(name, json.loads(done.stdout.splitlines()[-1]))


def row(name: str, found: dict[str, Any]) -> None:
    """Prints one line of the table."""
    opening = [f"{s:.2f} s" for s in found["opening"]] or ["", ""]
    epoch = found["epoch"]
    spread = f"({min(epoch):.2f}-{max(epoch):.2f})"
    valid = "" if found["validation"] is None else f"{found['validation']:.2f} s"
    columns = f"{name:28s}{opening[0]:>13s}{opening[1]:>8s}{statistics.median(epoch):>6.2f} s{spread:>14s}"
    print(f"{columns}{valid:>7s}{found['peak'] / measure.GIB:>6.2f} GiB", flush=True)


if __name__ == "__main__":
    main()
