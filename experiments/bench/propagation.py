"""One propagation on a graph of Amazon Baby's size: our product against torch's CSR product, forward and
backward.

    python -m experiments.bench.propagation [--threads 1]

Prints milliseconds (median of 30) and ratios, all measured in this run on generated interactions.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from experiments.bench.measure import machine, milliseconds
from graphrec.core.random import numpy_rng
from graphrec.data import Interactions
from graphrec.graphs.graph import bipartite

USERS, ITEMS, PAIRS, DIM = 19_445, 7_050, 118_551, 64


def interactions() -> Interactions:
    """Generated pairs, as many as Amazon Baby's train split has."""
    keys = numpy_rng(0, "bench/propagation").choice(USERS * ITEMS, PAIRS, replace=False)
    return Interactions(keys // ITEMS, keys % ITEMS, USERS, ITEMS, name="generated")


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    torch.set_num_threads(parser.parse_args().threads)
    print(machine())
    graph = bipartite(interactions())
    x = torch.from_numpy(numpy_rng(0, "bench/x").standard_normal((USERS + ITEMS, DIM)).astype(np.float32))
    parameter = x.clone().requires_grad_(True)
    matrix = graph.matrix()

    above = torch.ones_like(x)

    def step() -> None:
        torch.autograd.grad(graph @ parameter, parameter, above)

    csr = milliseconds(lambda: matrix @ x)
    ours = milliseconds(lambda: graph @ x)
    both = milliseconds(step)
    moved = (len(graph) * (DIM * 4 + 8) + x.numel() * 4) / 1e6
    print(f"{graph!r}, d={DIM}; {moved:.0f} MB touched by one product")
    print(f"torch CSR product     {csr:7.2f} ms   1.00")
    print(f"graph @ x             {ours:7.2f} ms   {ours / csr:.2f}")
    print(f"forward and backward  {both:7.2f} ms   {both / csr:.2f}, {both / csr / 2:.2f} a direction")


if __name__ == "__main__":
    main()
