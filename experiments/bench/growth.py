"""How the time of an epoch and the memory grow with the data, model by model.

    python -m experiments.bench.growth [--scales 1 4 16 64] [--models mf ...] [--plot docs/images/growth.svg]

Users, items and interactions of Amazon Baby's counts times 1, 4, 16 and 64, generated (``catalog``), with
128-d image and 64-d text features; Gowalla, where ``$GRAPHREC_DATA`` has it, with generated features of the
same widths. Each row is a process of its own: what an epoch does once (pruning, shuffling, negatives, and the
first step, which in LATTICE builds the item graph) is measured, then a few more steps; ``epoch`` is the first
plus the median step times the rest of the steps. ``build`` is the model's making, item graphs and all.

Batches of 2,048 make the number of steps grow with the interactions. A model that propagates over the whole
graph at each step then costs steps times edges, which is quadratic. The second table keeps the number of
steps instead (batches of 2,048 times the scale): what is left there is the growth of one pass over the data.

``~`` is the exponent from one size to the next: 1 is linear in the interactions. That of the memory leaves
out what Python and the libraries take (``bare``).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.bench import catalog, curves, measure

MODELS = {
    "mf": "MF", "lightgcn": "LightGCN", "vbpr": "VBPR", "bm3": "BM3", "freedom": "FREEDOM",
    "lattice": "LATTICE",
}  # fmt: skip
WIDTHS = {"image": 128, "text": 64}
BATCH, DIM = 2048, 64
GOWALLA = "gowalla"
HEADER = (
    f"{'model':10s}{'data':>9s}{'users':>11s}{'items':>9s}{'train pairs':>13s}{'batch':>9s}{'steps':>8s}"
    f"{'build':>9s}{'a step':>11s}{'epoch':>11s}{'~':>6s}{'peak':>11s}{'~':>6s}"
)


def row(folder: Path, name: str, batch: int, steps: int) -> dict[str, Any]:
    """One model on one dataset, measured in this process."""
    import graphrec as gr
    from graphrec.core.random import numpy_rng
    from graphrec.models.batches import EpochContext

    kind = getattr(gr.models, MODELS[name])
    gr.RankingTask, gr.FeatureStore  # noqa: B018, imported before memory is looked at
    bare = measure.peak()
    data = gr.Dataset.load(folder / "dataset")
    features = gr.FeatureStore(folder / "cache").load_tables(data) if kind.modalities else None
    began = time.perf_counter()
    cache = {"graph_cache": folder / "graphs"} if "graph_cache" in kind.Config.model_fields else {}
    model = kind.build(data, features, kind.Config(**cache))
    build = time.perf_counter() - began
    adam = model.optimizer(gr.TrainConfig())
    model.train()
    once, times, n_steps = 0.0, [], -(-len(data.train) // batch)
    for epoch in (1, 2):  # the first warms up; an epoch of fewer steps than asked for is a whole one
        times = []
        began = time.perf_counter()
        model.start_epoch(numpy_rng(0, "bench/growth", epoch))
        batches = model.batches(EpochContext(epoch, batch, 0))
        for number, made in enumerate(batches):
            losses = model(made)
            sum(losses.values()).backward()
            adam.step()
            adam.zero_grad(set_to_none=True)
            now = time.perf_counter()
            if number == 0:
                once = now - began
            else:
                times.append(now - began)
            began = now
            if len(times) == (steps if epoch == 2 else 1):
                break
    step = statistics.median(times) if times else once
    return {
        "users": data.n_users, "items": data.n_items, "pairs": len(data.train), "steps": n_steps,
        "build": build, "once": once, "step": step, "epoch": once + step * (n_steps - 1),
        "peak": measure.peak(), "bare": bare, "batch": batch, "timed": len(times) + 1,
    }  # fmt: skip


def memory(name: str, users: int, items: int, pairs: int, batch: int) -> float:
    """About the bytes a row will need, generously: data and graph, parameters with gradients and moments,
    propagated tables and their gradients, features, and a batch's rows.
    """
    tables = 4 * DIM * (users + items)
    features = 0 if name in ("mf", "lightgcn") else 4 * items * sum(WIDTHS.values())
    return 2**29 + 150 * pairs + 14 * tables + 3 * features + 40 * 4 * DIM * batch


def free() -> float:
    """Bytes that may be taken now."""
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024.0 for line in lines if line.startswith("MemAvailable"))


def prepared(folder: Path, scale: str) -> bool:
    """Writes one dataset; False where there is none."""
    if scale != GOWALLA:
        catalog.save(folder, float(scale), WIDTHS)
        return True
    import graphrec as gr

    root = os.environ.get("GRAPHREC_DATA")
    if not root or not (Path(root) / GOWALLA).is_dir():
        return False
    data = gr.load_dataset(GOWALLA, root)
    data.save(folder / "dataset")
    catalog.save_features(data, folder / "cache", WIDTHS)
    return True


def exponent(before: Mapping[str, Any] | None, now: Mapping[str, Any], of: str) -> str:
    """How fast something grew with the interactions, as a power of them."""
    if before is None:
        return ""
    was, is_now = (r[of] - (r["bare"] if of == "peak" else 0) for r in (before, now))
    return f"{math.log(is_now / was) / math.log(now['pairs'] / before['pairs']):.2f}"


def shown(name: str, label: str, found: Mapping[str, Any], before: Mapping[str, Any] | None) -> str:
    """One line of the tables."""
    return (
        f"{name:10s}{label:>9s}{found['users']:>11,}{found['items']:>9,}{found['pairs']:>13,}"
        f"{found['batch']:>9,}{found['steps']:>8,}{found['build']:>7.1f} s{1e3 * found['step']:>8.1f} ms"
        f"{found['epoch']:>9.2f} s{exponent(before, found, 'epoch'):>6s}"
        f"{found['peak'] / measure.GIB:>7.2f} GiB{exponent(before, found, 'peak'):>6s}"
    )


def measured(
    folder: Path, name: str, batch: int, steps: int, before: Mapping[str, Any] | None, limit: float
) -> dict[str, Any] | str:
    """A row from a process of its own, or why there is none."""
    sizes = json.loads((folder / "sizes.json").read_text())
    need, there = memory(name, *sizes, batch), free()
    if need > there:
        return f"skipped: needs about {need / measure.GIB:.1f} GiB, {there / measure.GIB:.1f} GiB are free"
    if before is not None:
        growth = sizes[2] / before["pairs"]
        # All pairs of items are compared while building, and in LATTICE at each first step.
        expected = before["build"] * growth**2 + (3 + steps) * before["step"] * growth
        expected += 2 * before["once"] * (growth**2 if name == "lattice" else growth)
        if expected > limit:
            return f"skipped: would take about {expected:,.0f} s, the limit is {limit:,.0f} s"
    command = [sys.executable, "-m", "experiments.bench.growth", "--row", name, "--folder", str(folder),
               "--batch", str(batch), "--steps", str(steps)]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        return f"ended with status {done.returncode}" + (", out of memory" if done.returncode == -9 else "")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Prints both tables and draws them, or with ``--row`` measures one row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scales", nargs="+", default=["1", "4", "16", "64", GOWALLA])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--steps", type=int, default=6, help="steps to time")
    parser.add_argument("--limit", type=float, default=900, help="most seconds a row may be expected to take")
    parser.add_argument("--plot", type=Path, help="SVG file to write")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.row:
        print(json.dumps(row(given.folder, given.row, given.batch, given.steps)))
        return
    print(measure.machine())
    modes = ("fixed", "grown")
    lines: dict[str, list[str]] = {mode: [] for mode in modes}
    found: dict[tuple[str, str], list[dict[str, Any]]] = {(m, n): [] for m in modes for n in given.models}
    for scale in given.scales:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            if not prepared(folder, scale):
                print(f"{scale} is not in $GRAPHREC_DATA; left out", file=sys.stderr, flush=True)
                continue
            (folder / "sizes.json").write_text(json.dumps(_sizes(folder)))
            for mode in modes if scale != GOWALLA else modes[:1]:
                for model in given.models:
                    done = found[mode, model]
                    before = done[-1] if done and scale != GOWALLA else None
                    batch = round(BATCH * float(scale)) if mode == "grown" else BATCH
                    # At the first size the two modes are the same; it is measured once.
                    if mode == "grown" and not done and scale == given.scales[0] and batch == BATCH:
                        result: dict[str, Any] | str = next(iter(found["fixed", model]), "see above")
                    else:
                        result = measured(folder, model, batch, given.steps, before, given.limit)
                    label = scale if scale == GOWALLA else f"x{scale}"
                    if isinstance(result, str):
                        lines[mode].append(f"{model:10s}{label:>9s}  {result}")
                        continue
                    lines[mode].append(shown(model, label, result, before))
                    print(f"measured {label} {mode} {model}", file=sys.stderr, flush=True)
                    if scale != GOWALLA:
                        done.append(result)
    for mode in modes:
        what = (
            f"batches of {BATCH:,}" if mode == "fixed" else f"batches of {BATCH:,} x scale, so as many steps"
        )
        print(f"\n{what}; an epoch estimated from {given.steps + 1} steps where it has more\n{HEADER}")
        order = [line for model in given.models for line in lines[mode] if line.split()[0] == model]
        print("\n".join(order), flush=True)
    if given.plot:
        given.plot.write_text(plot(found, given.models), encoding="utf-8")


def _sizes(folder: Path) -> tuple[int, int, int]:
    import graphrec as gr

    data = gr.Dataset.load(folder / "dataset")
    return data.n_users, data.n_items, len(data.train)


# -- the plot ------------------------------------------------------------------------------------------------


def plot(found: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]], models: Sequence[str]) -> str:
    """Epoch at both batch sizes and peak memory over the interactions, all axes logarithmic, as SVG."""
    panels = (
        ("epoch, batches of 2,048 (s)", "fixed", lambda r: r["epoch"]),
        ("epoch, as many steps (s)", "grown", lambda r: r["epoch"]),
        ("peak memory (GiB)", "fixed", lambda r: r["peak"] / measure.GIB),
    )
    lines = {
        title: {m: [(r["pairs"], value(r)) for r in found[mode, m]] for m in models}
        for title, mode, value in panels
    }
    return curves.drawn(lines, models, "How epoch time and memory grow with the train interactions")


if __name__ == "__main__":
    main()
