"""FM's epoch, its samples and its validation, on the LastFM data of the SCPR paper or on generated data of
its exact size (1,801 users, 7,432 items, 52,910 train interactions, 33 attributes on 30,290 edges).

    GRAPHREC_DATA=DIR python -m experiments.bench.fm_epoch [--epochs 5]
    python -m experiments.bench.fm_epoch --attributes 8438 --edges 94446       # of LastFM*'s size

Processor seconds of this process, with one thread. The floor of an epoch is the bytes that its steps have to
move over the measured copy bandwidth: rows gathered, their gradients, rows and optimizer states read and
written. What is above it is the price of a few dozen calls per step on few rows each. The floor of the
prefixes is one increment per attribute of every candidate of every distinct prefix, at the rate of a copy.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse import csr_array

from experiments.bench import measure
from graphrec.conversation import prefixes
from graphrec.conversation.models.fm import FM, ItemBatch
from graphrec.conversation.scoring import ScoringTask
from graphrec.core.random import numpy_rng
from graphrec.data import Dataset, Interactions, Vocabulary
from graphrec.data.readers import load_dataset
from graphrec.models.batches import EpochContext
from graphrec.models.train_config import TrainConfig
from graphrec.training.trainer import Trainer

USERS, ITEMS, PAIRS = 1_801, 7_432, (52_910, 11_891, 11_892)
BATCH, DIM = 64, 64


def generated(n_attributes: int, n_edges: int) -> Dataset:
    """Items and attributes drawn in proportion to ``1 / rank``; every item has an attribute at least."""
    rng = numpy_rng(0, "bench/conversation")
    attributes = _distinct(rng, ITEMS, n_attributes, n_edges, 1 / np.arange(1, n_attributes + 1))
    pairs = rng.permutation(_distinct(rng, USERS, ITEMS, sum(PAIRS), 1 / np.arange(1, ITEMS + 1) ** 0.8))
    parts = np.split(pairs, np.cumsum(PAIRS)[:-1])
    vocabularies = [
        Vocabulary([str(i) for i in range(n)], kind)
        for n, kind in ((USERS, "user"), (ITEMS, "item"), (n_attributes, "attribute"))
    ]
    splits = [Interactions(p // ITEMS, p % ITEMS, USERS, ITEMS) for p in parts]
    edges = np.stack([attributes // n_attributes, attributes % n_attributes]).astype(np.int32)
    return Dataset(
        "generated", vocabularies[0], vocabularies[1], *splits,
        nodes={"attribute": vocabularies[2]}, relations={("item", "has", "attribute"): edges},
    )  # fmt: skip


def _distinct(rng: np.random.Generator, rows: int, columns: int, n: int, weight: np.ndarray) -> np.ndarray:
    """Keys ``row * columns + column`` of ``n`` different cells, one in every row at least, ascending."""
    weight = weight / weight.sum()
    keys = np.arange(rows) * columns + rng.choice(columns, rows, p=weight)
    while len(keys) < n:
        more = rng.integers(0, rows, n) * columns + rng.choice(columns, n, p=weight)
        more = np.setdiff1d(more, keys)
        keys = np.concatenate([keys, rng.permutation(more)[: n - len(keys)]])
    return np.sort(keys)


def spent(work: Callable[[], object]) -> float:
    """Processor seconds of one call."""
    began = time.process_time()
    work()
    return time.process_time() - began


def bandwidth() -> float:
    """Bytes a second of a copy that does not fit into the caches, read and written."""
    source = torch.ones(2**23)
    target = torch.empty_like(source)
    return 2 * source.nbytes / min(spent(lambda: target.copy_(source)) for _ in range(20))


def stages(model: FM, config: TrainConfig) -> dict[str, float]:
    """Processor seconds of the parts of one epoch, without the Trainer."""
    optimizer, batches = model.optimizer(config), model.batches(EpochContext(1, BATCH, 0))
    took = dict.fromkeys(("batches", "forward", "backward", "optimizer"), 0.0)
    clock = time.process_time
    while True:
        began = clock()
        batch = next(batches, None)
        if batch is None:
            return took
        made = clock()
        loss = torch.stack(list(model.loss(batch).values())).sum()
        forward = clock()
        loss.backward()
        backward = clock()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        for stage, seconds in zip(
            took, (made - began, forward - made, backward - forward, clock() - backward), strict=True
        ):
            took[stage] += seconds


def epoch_bytes(model: FM) -> int:
    """What the steps of one epoch have to move at least."""
    row, moved = 4 * DIM, 0
    for batch in model.batches(EpochContext(1, BATCH, 0)):
        if isinstance(batch, ItemBatch):
            gathered = 4 * len(batch.users) + len(batch.prefix_attributes)
            touched = sum(len(t.unique()) for t in (batch.users, batch.items, batch.prefix_attributes))
        else:
            gathered = len(batch.users) + len(batch.attributes)
            touched = len(batch.attributes.unique())
        # Gathered rows are read, their gradients written; touched rows and states are read and written.
        moved += row * (2 * gathered + 4 * touched)
    return moved


def increments(found: prefixes.Prefixes, has: csr_array) -> int:
    """Attributes of all candidates of all distinct prefixes, each counted once."""
    total, degree = 0, np.diff(has.indptr)
    for length in range(1, int(found.length.max()) + 1):
        said = found.prefix_attributes(np.flatnonzero(found.length == length))[1].reshape(-1, length)
        sets = np.unique(np.sort(said, axis=1), axis=0)
        offsets = np.arange(0, sets.size + 1, length)
        total += int(degree[prefixes.items_with_all(offsets, sets.reshape(-1), has).indices].sum())
    return total


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--attributes", type=int, default=33)
    parser.add_argument("--edges", type=int, default=30_290)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    print(measure.machine())
    if os.environ.get("GRAPHREC_DATA") and (chosen.attributes, chosen.edges) == (33, 30_290):
        data = load_dataset("lastfm")
    else:
        data = generated(chosen.attributes, chosen.edges)
    pairs, n_attributes = prefixes.item_attribute_pairs(data)
    print(
        f"{data.name}: {len(data.train):,} train pairs, {pairs.shape[1]:,} edges, {n_attributes:,} attributes"
    )
    rate = bandwidth()
    # One increment reads and writes a count and reads an index: three numbers of four bytes.
    made: list[prefixes.Prefixes] = []
    took = spent(
        lambda: made.append(
            prefixes.simulate_prefixes(pairs, data.n_items, n_attributes, numpy_rng(0, "bench"))
        )
    )
    least = 12 * increments(made[0], prefixes.item_attribute_matrix(pairs, data.n_items, n_attributes)) / rate
    sizes = made[0].length
    print(f"{len(sizes):,} prefixes of {sizes.mean():.1f} attributes on average, {sizes.max()} at most")
    print(f"prefixes                  {took:7.2f} s   floor {least:.3f} s, ratio {took / least:.0f}")
    model = FM.build(data, None, FM.Config(dim=DIM))
    print(f"samples of an epoch       {spent(lambda: model.samples.draw(EpochContext(1, BATCH, 0))):7.2f} s")
    print(f"all batches of an epoch   {spent(lambda: list(model.batches(EpochContext(1, BATCH, 0)))):7.2f} s")
    task: list[ScoringTask] = []
    print(f"validation, made once     {spent(lambda: task.append(ScoringTask(data))):7.2f} s")
    print(f"validation                {spent(lambda: task[0](model)):7.2f} s")
    clock = [time.process_time()]
    settings = TrainConfig(
        epochs=chosen.epochs + 1, batch_size=BATCH, learning_rate=0.02, patience=None, device="cpu",
        progress=False,
    )  # fmt: skip
    Trainer(settings).fit(model, on_epoch=lambda _: clock.append(time.process_time()))
    took = statistics.median(np.diff(clock)[1:])  # the first one imports what torch needs
    steps, least = 2 * (len(data.train) // BATCH), epoch_bytes(model) / rate
    print(
        f"epoch of {steps:,} steps      {took:7.2f} s   floor {least:.3f} s, ratio {took / least:.0f}, "
        f"{1e3 * took / steps:.2f} ms a step"
    )
    parts = stages(model, settings)
    print("of which                  " + ", ".join(f"{name} {took:.2f} s" for name, took in parts.items()))


if __name__ == "__main__":
    main()
