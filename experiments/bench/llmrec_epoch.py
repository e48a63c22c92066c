"""An epoch of LLMRec at the size of the paper's Netflix data, channels propagated once against every step.

    python -m experiments.bench.llmrec_epoch
    python -m experiments.bench.llmrec_epoch --steps 5

13,187 users, 17,366 items, 68,933 interactions; image of 512 values, text of 768, five attributes and a
profile of 1,536, all random. First every row is another one; then year, country and language have a hundred
values each, titles and directors as many as there are items. The floor is what the rows of a batch need:
multiplying them, forward and backward, at the speed of a product of their size on this machine. The long way
projects all rows and propagates them in every step, as the authors' code does.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from experiments.bench import measure
from graphrec.core.random import numpy_rng
from graphrec.data.interactions import Interactions
from graphrec.features import FeatureTable
from graphrec.models.batches import EpochContext, Preferences
from graphrec.models.llmrec import LLMRec
from graphrec.models.train_config import TrainConfig

USERS, ITEMS, PAIRS, BATCH = 13_187, 17_366, 68_933, 1_024
ATTRIBUTES = ("title", "director", "year", "country", "language")
FEW, VALUES = ("year", "country", "language"), 100
WIDTHS = {"image": 512, "text": 768, **{f"attribute_{k}": 1_536 for k in ATTRIBUTES}, "profile": 1_536}


def generated(few: Sequence[str] = ()) -> tuple[Interactions, dict[str, FeatureTable]]:
    """Interactions with a long tail, and random features, those of ``few`` attributes of few values."""
    rng = numpy_rng(0, "bench/llmrec")
    draws = 3 * PAIRS
    users, items = rng.integers(0, USERS, draws), (rng.pareto(1.0, draws) * 200).astype(np.int64) % ITEMS
    keys = np.sort(rng.permutation(np.unique(users * ITEMS + items))[:PAIRS])
    tables = {}
    for name, width in WIDTHS.items():
        n = USERS if name == "profile" else ITEMS
        values = rng.random((n, width), dtype=np.float32)
        if name.removeprefix("attribute_") in few:
            values = values[rng.integers(0, VALUES, n)]
        values.setflags(write=False)
        tables[name] = FeatureTable(values, None, {"of": "user"} if name == "profile" else None)
    return Interactions(keys // ITEMS, keys % ITEMS, USERS, ITEMS), tables


def step_seconds(model: LLMRec, steps: int) -> float:
    """Median time of a step after the first."""
    optimizer = model.optimizer(TrainConfig(learning_rate=1e-4, weight_decay=0.01))
    times = []
    for number, batch in enumerate(model.batches(EpochContext(1, BATCH, 0))):
        began = time.perf_counter()
        loss = torch.stack(list(model.loss(batch).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        times.append(time.perf_counter() - began)
        if number == steps:
            break
    return float(np.median(times[1:]))


def floor() -> float:
    """Seconds of the products alone: rows of users and both items into 64 values, and back into weights."""
    rows = 3 * int(1.1 * BATCH)
    total = 0.0
    for width in WIDTHS.values():
        x, w, g = torch.rand(rows, width), torch.rand(64, width), torch.rand(rows, 64)

        def work(x: torch.Tensor = x, w: torch.Tensor = w, g: torch.Tensor = g) -> None:
            x @ w.T
            g.T @ x

        total += measure.milliseconds(work, 10) / 1e3
    return total


def main() -> None:
    """Prints times, their ratios, and memory."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=20, help="steps that are timed")
    options = parser.parse_args()
    print(measure.machine())
    least = floor()
    for few in ((), FEW):
        train, tables = generated(few)
        per_epoch = len(train) // BATCH + 1
        if not few:
            shape = f"{USERS:,} users, {ITEMS:,} items, {len(train):,} interactions"
            print(f"{shape}, {per_epoch} steps an epoch")
        with measure.spent() as built:
            model = LLMRec(train, tables, LLMRec.Config())
        said = numpy_rng(0, "bench/preferences").integers(0, ITEMS, (2, USERS))
        preferences = Preferences(said[0], said[1], model.config.augmented)
        model.sampler = replace(model.sampler, preferences=preferences)
        # The tables are random numbers in memory here, and mapped files in use.
        held = sum(table.numpy().nbytes for table in tables.values())
        del tables
        with measure.spent() as trained:
            short = step_seconds(model, options.steps)
        del model
        what = f"{len(few)} attributes of {VALUES} values" if few else "all rows differ"
        print(
            f"propagated once, {what}: {built.seconds:.1f} s to build; {1e3 * short:.0f} ms a step, "
            f"{short * per_epoch:.1f} s an epoch; floor of rows that differ {1e3 * least:.0f} ms, "
            f"ratio {short / least:.1f}"
        )
        print(
            f"peak {trained.peak / measure.GIB:.2f} GiB while training, "
            f"{(built.peak - held) / measure.GIB:.2f} GiB while building beside the features themselves"
        )
    train, tables = generated()
    long = step_seconds(LLMRec(train, tables, LLMRec.Config(mask=1e-6)), max(2, options.steps // 5))
    print(f"propagated in every step: {1e3 * long:.0f} ms a step, {long * per_epoch:.1f} s an epoch")


if __name__ == "__main__":
    main()
