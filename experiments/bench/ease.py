"""EASE on generated data: time and memory of a fit against their floors.

    python -m experiments.bench.ease [--items 2000 7050] [--threads 1]

The floor of the time is n^3 floating-point operations (a Cholesky factor and an inverse) at the speed of a
matrix product in the same run; that of the memory is one matrix of 4 n^2 bytes.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from experiments.bench.measure import GIB, machine, milliseconds, spent
from graphrec.core.random import numpy_rng
from graphrec.data import Interactions
from graphrec.models.ease import EASE

USERS, PER_USER, SQUARE = 19_445, 6, 2048


def interactions(n_items: int) -> Interactions:
    """Generated pairs of as many users as Amazon Baby has."""
    keys = np.unique(numpy_rng(0, "bench/ease").integers(USERS * n_items, size=USERS * PER_USER))
    return Interactions(keys // n_items, keys % n_items, USERS, n_items, name="generated")


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, nargs="+", default=[2000, 7050])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine())
    square = torch.rand(SQUARE, SQUARE)
    with threadpool_limits(options.threads):
        for n in options.items:
            train = interactions(n)
            speed = 2 * SQUARE**3 / milliseconds(lambda: square @ square, repeats=5) * 1e3  # a second
            with spent() as used:
                EASE(train, EASE.Config())
            floor = n**3 / speed
            print(
                f"{n:,} items: {used.seconds:.2f} s, {used.seconds / floor:.2f} times the floor of "
                f"{floor:.2f} s at {speed / 1e9:.0f} GFLOP/s; {used.extra / GIB:.2f} GiB, "
                f"{used.extra / (4 * n * n):.2f} times one matrix"
            )


if __name__ == "__main__":
    main()
