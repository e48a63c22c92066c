"""EASE by one inverse and by columns: processor time and memory of a fit against their floors.

    python -m experiments.bench.ease [--items 2000 7050] [--datasets amazon-baby] [--threads 1]
    python -m experiments.bench.ease --items 60000 --solvers columns --sample 4096

``--items`` generates interactions, as many times Amazon Baby's as there are times its items. The floor of the
inverse is n^3 floating-point operations (a Cholesky factor and an inverse) at the speed of a matrix product
in the same run, and one matrix of 4 n^2 bytes. That of the columns is the sparse products of their
iterations, timed in the same run, and the weights that are kept, 8 bytes each. With ``--sample``, that many
columns are solved, at equal distances, and the time of all is computed from theirs.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from threadpoolctl import threadpool_limits

import graphrec as gr
from experiments.bench import catalog
from experiments.bench.measure import GIB, machine, matrix_product, processor_seconds, spent
from graphrec.data import Interactions
from graphrec.models.ease import EASE
from graphrec.models.gram import penalty
from graphrec.models.item_weights import ItemWeightsRanker
from graphrec.models.regression import BLOCK, LargestWeights, largest_weights


def inverse(train: Interactions, config: EASE.Config) -> EASE:
    """Fits by the inverse and prints a line."""
    n = train.n_items
    operations, product = matrix_product()
    speed = operations / product.cpu
    with spent() as used:
        model = EASE(train, config)
    floor = n**3 / speed
    print(
        f"  inverse: {used.cpu:.2f} s, {used.cpu / floor:.2f} times the floor of {floor:.2f} s at "
        f"{speed / 1e9:.0f} GFLOP/s; {used.extra / GIB:.2f} GiB, {used.extra / (4 * n * n):.2f} times one "
        "matrix",
        flush=True,
    )
    return model


def columns(train: Interactions, config: EASE.Config, sample: int | None) -> LargestWeights:
    """Fits by columns, some or all, and prints a line."""
    n = train.n_items
    history = ItemWeightsRanker(train, config).history
    some = np.arange(n) if sample is None else np.unique(np.linspace(0, n - 1, sample).astype(np.int64))
    with spent() as used:
        found = largest_weights(history, penalty(train, config), config, columns=some)
    vectors = torch.rand(n, BLOCK)
    product = processor_seconds(lambda: history.t() @ (history @ vectors))
    floor = product * found.iterations * len(some) / BLOCK
    speed = 4 * len(train) * BLOCK / product
    weights = found.weights.nbytes + found.items.nbytes
    memory = f"{used.extra / GIB:.2f} GiB, {used.extra / weights:.2f} times the weights"
    whole = f"all {n:,} columns: {used.cpu / len(some) * n:.0f} s"  # a part leaves memory untouched
    print(
        f"  columns: {used.cpu:.2f} s for {len(some):,} columns, {used.cpu / floor:.2f} times the floor of "
        f"{floor:.2f} s, {found.iterations} products at {speed / 1e9:.1f} GFLOP/s; "
        f"{memory if len(some) == n else whole}",
        flush=True,
    )
    return found


def compare(model: EASE, found: LargestWeights) -> None:
    """Prints how far the weights of the columns are from those of the inverse."""
    assert isinstance(model.weights, torch.Tensor)
    exact = model.weights.T.numpy()
    same = np.take_along_axis(exact, found.items.astype(np.int64), 1)
    print(
        f"  largest difference between the two: {np.abs(same - found.weights).max():.1e}; "
        f"largest weight: {np.abs(exact).max():.2f}",
        flush=True,
    )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, nargs="*", default=[2000, 7050])
    parser.add_argument("--datasets", nargs="*", default=[], help="datasets by name, besides generated ones")
    parser.add_argument("--root", default=None, help="folder with the datasets")
    parser.add_argument("--solvers", nargs="+", default=["inverse", "columns"])
    parser.add_argument("--sample", type=int, default=None)
    parser.add_argument("--reg-weight", type=float, default=100.0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = EASE.Config(reg_weight=options.reg_weight, kept=500)
    print(machine())
    cases = {f"generated, {n:,} items": lambda n=n: catalog.dataset(n / catalog.ITEMS) for n in options.items}
    cases |= {d: lambda d=d: gr.load_dataset(d, root=options.root) for d in options.datasets}
    with threadpool_limits(options.threads):
        for name, load in cases.items():
            train = load().train
            print(f"{name}: {train.n_users:,} users, {train.n_items:,} items, {len(train):,} interactions")
            found = columns(train, config, options.sample) if "columns" in options.solvers else None
            model = inverse(train, config) if "inverse" in options.solvers else None
            if model is not None and found is not None and options.sample is None:
                compare(model, found)


if __name__ == "__main__":
    main()
