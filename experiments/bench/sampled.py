"""Training on sampled neighborhoods as the data grows: time of an epoch and memory.

    python -m experiments.bench.sampled                          # x1, x4, x16, x64
    python -m experiments.bench.sampled --scales 64 --models lightgcn
    python -m experiments.bench.sampled --fixed                  # batches of one size at every scale
    python -m experiments.bench.sampled --whole --models lightgcn --scales 64    # an epoch by the Trainer

x64 is a million users, 200,000 items and twenty million interactions, items with a long tail, with 128-d
features, which stay on disk; the others are that divided. Batches grow with the data (``--batch`` is that of
x64), so that neighborhoods are the same share of each graph and every epoch has as many steps. Each row is a
process of its own: building the model (for FREEDOM with the exact neighbors of all items), drawing an
epoch's triplets and pruning the graph, and some steps are measured; ``epoch`` is the draw plus the median
step times their number. ``~`` is the exponent from one size to the next: 1 is linear in the interactions.
That of the memory leaves out what Python and the libraries take. ``--whole`` trains an epoch instead, with a
checkpoint and a validation on 1,000 users.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.bench import curves, measure

USERS, ITEMS, PAIRS, WIDTH, LARGEST = 1_000_000, 200_000, 20_000_000, 128, 64
MODELS = ("lightgcn", "freedom")
HEADER = (
    f"{'model':10s}{'size':>5s}{'users':>11s}{'items':>9s}{'interactions':>14s}{'batch':>8s}{'build':>10s}"
    f"{'~':>6s}{'draw':>9s}{'a step':>11s}{'steps':>7s}{'epoch':>11s}{'~':>6s}{'peak':>11s}{'~':>6s}"
)


def generated(scale: float, folder: Path) -> Any:
    """Interactions with a long tail, and features in a file."""
    from graphrec.core.random import numpy_rng
    from graphrec.data.interactions import Interactions
    from graphrec.features import FeatureTable

    users, items, pairs = (int(n * scale / LARGEST) for n in (USERS, ITEMS, PAIRS))
    rng = numpy_rng(0, "bench/sampled")
    keys = np.empty(0, dtype=np.int64)
    while len(keys) < pairs:  # long tails meet twice
        who = rng.integers(0, users, pairs // 2)
        what = (rng.pareto(1.0, len(who)) * items / 50).astype(np.int64) % items
        keys = np.unique(np.concatenate([keys, who * items + what]))
    keys = np.sort(rng.permutation(keys)[:pairs])
    values = rng.standard_normal((items, WIDTH), dtype=np.float32)
    np.save(folder / "features.npy", values, allow_pickle=False)
    table = FeatureTable(np.load(folder / "features.npy", mmap_mode="r", allow_pickle=False))
    return Interactions(keys // items, keys % items, users, items), table


def built(name: str, train: Any, table: Any, fanouts: list[int]) -> Any:
    """One model."""
    from graphrec.models.freedom import FREEDOM
    from graphrec.models.lightgcn import LightGCN

    if name == "lightgcn":
        return LightGCN(train, LightGCN.Config(fanouts=fanouts))
    return FREEDOM(train, {"text": table}, FREEDOM.Config(fanouts=fanouts, features_on_disk=True))


def row(name: str, scale: float, batch: int, fanouts: list[int], steps: int) -> dict[str, Any]:
    """One model at one size, measured in this process."""
    from graphrec.core.random import numpy_rng
    from graphrec.models.batches import EpochContext
    from graphrec.models.train_config import TrainConfig

    bare = measure.peak()
    with tempfile.TemporaryDirectory() as folder:  # what is mapped stays readable
        train, table = generated(scale, Path(folder))
    began = time.perf_counter()
    model = built(name, train, table, fanouts)
    build = time.perf_counter() - began
    optimizer = model.optimizer(TrainConfig())
    times, n_steps = [], -(-len(train) // batch)
    began = time.perf_counter()
    model.start_epoch(numpy_rng(0, "bench/sampled/epoch"))
    draw = 0.0
    for number, made in enumerate(model.batches(EpochContext(1, batch, 0))):
        if not number:
            draw, began = time.perf_counter() - began, time.perf_counter()
        sum(model(made).values()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        times.append(time.perf_counter() - began)
        began = time.perf_counter()
        if number == steps:
            break
    step = statistics.median(times[1:] or times)
    return {
        "users": train.n_users, "items": train.n_items, "pairs": len(train), "batch": batch,
        "build": build, "draw": draw,
        "step": step, "steps": n_steps, "epoch": draw + step * n_steps, "peak": measure.peak(), "bare": bare,
    }  # fmt: skip


def whole(name: str, scale: float, batch: int, fanouts: list[int]) -> dict[str, Any]:
    """An epoch of one model by the Trainer, in this process."""
    from graphrec.core.random import numpy_rng
    from graphrec.evaluation.ranking import RankingTask
    from graphrec.models.train_config import TrainConfig
    from graphrec.training.trainer import Trainer

    with tempfile.TemporaryDirectory() as folder:
        known, table = generated(scale, Path(folder))
        held = numpy_rng(0, "bench/sampled/held").random(len(known)) < 0.01
        train, valid = known.where(~held), known.where(held)
        model = built(name, train, table, fanouts)
        task = RankingTask(valid.sample_users(1000), seen=train, k=20)
        run = Trainer(TrainConfig(epochs=1, batch_size=batch, progress=False), Path(folder) / "run").fit(
            model, task
        )
        size = sum(p.stat().st_size for p in (Path(folder) / "run").rglob("*") if p.is_file())
    record = run.history[-1]
    return {"train": record["seconds/train"], "all": record["seconds"], "recall": record["recall@20"],
            "size": size, "peak": measure.peak()}  # fmt: skip


def exponent(before: dict[str, Any] | None, now: dict[str, Any], of: str) -> str:
    """How fast something grew with the interactions, as a power of them."""
    if before is None:
        return ""
    was, is_now = (r[of] - (r["bare"] if of == "peak" else 0) for r in (before, now))
    return f"{math.log(is_now / was) / math.log(now['pairs'] / before['pairs']):.2f}"


def main() -> None:
    """Prints the table, or with ``--row`` measures one row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scales", nargs="+", type=float, default=[1, 4, 16, 64])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--batch", type=int, default=16_384)
    parser.add_argument("--fanouts", nargs="+", type=int, default=[10, 5])
    parser.add_argument("--steps", type=int, default=12, help="steps to time")
    parser.add_argument("--fixed", action="store_true", help="batches of one size at every scale")
    parser.add_argument("--whole", action="store_true", help="an epoch by the Trainer, with validation")
    parser.add_argument("--plot", type=Path, help="SVG file to write")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.row:
        batch = given.batch if given.fixed else round(given.batch * given.scales[0] / LARGEST)
        print(json.dumps(row(given.row, given.scales[0], batch, given.fanouts, given.steps)))
        return
    print(measure.machine())
    print(f"fanouts {given.fanouts}")
    if given.whole:
        for name in given.models:
            for scale in given.scales:
                done = whole(name, scale, round(given.batch * scale / LARGEST), given.fanouts)
                print(
                    f"{name} x{scale:g}: {done['train']:.0f} s to train an epoch, {done['all']:.0f} s with "
                    f"validation on 1,000 users (recall@20 {done['recall']:.4f}); checkpoints "
                    f"{done['size'] / measure.GIB:.2f} GiB; peak {done['peak'] / measure.GIB:.2f} GiB"
                )
        return
    print(HEADER)
    found = dict[str, list[dict[str, Any]]]()
    for name in given.models:
        done = found.setdefault(name, [])
        for scale in given.scales:
            command = [sys.executable, "-m", "experiments.bench.sampled", "--row", name]
            command += ["--scales", str(scale), "--batch", str(given.batch), "--steps", str(given.steps)]
            command += ["--fanouts", *map(str, given.fanouts), *(["--fixed"] if given.fixed else [])]
            ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            now = json.loads(ended.stdout.splitlines()[-1])
            before = done[-1] if done else None
            print(
                f"{name:10s}{f'x{scale:g}':>5s}{now['users']:>11,}{now['items']:>9,}{now['pairs']:>14,}"
                f"{now['batch']:>8,}{now['build']:>8.1f} s{exponent(before, now, 'build'):>6s}"
                f"{now['draw']:>7.1f} s{now['step'] * 1000:>8.1f} ms{now['steps']:>7,}"
                f"{now['epoch']:>9.1f} s{exponent(before, now, 'epoch'):>6s}"
                f"{now['peak'] / measure.GIB:>7.2f} GiB{exponent(before, now, 'peak'):>6s}",
                flush=True,
            )
            done.append(now)
    if given.plot:
        given.plot.write_text(plot(found), encoding="utf-8")


def plot(found: dict[str, Sequence[dict[str, Any]]]) -> str:
    """Epoch, building and memory beside what the libraries take, over the interactions."""
    panels = {
        "epoch (s)": lambda r: r["epoch"],
        "building the model (s)": lambda r: r["build"],
        "memory beside libraries (GiB)": lambda r: (r["peak"] - r["bare"]) / measure.GIB,
    }
    lines = {
        title: {name: [(r["pairs"], value(r)) for r in rows] for name, rows in found.items()}
        for title, value in panels.items()
    }
    return curves.drawn(lines, list(found), "How sampled training grows with the train interactions")


if __name__ == "__main__":
    main()
