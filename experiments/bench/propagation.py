"""One propagation on a graph of Amazon Baby's size: our product against torch's CSR product, forward and
backward; several layers in one function against autograd's; graphs with many edges for their nodes,
sparse against dense; and the scores of 256 users, in blocks of items against one product.

    python -m experiments.bench.propagation [--threads 1]

Prints milliseconds (median of 30) and ratios, all measured in this run on generated interactions.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch.nn.functional import embedding

from experiments.bench.measure import machine, milliseconds
from graphrec.core.random import numpy_rng
from graphrec.data import Interactions
from graphrec.graphs import graph as graphs
from graphrec.graphs.graph import Graph, bipartite
from graphrec.models.base import inner_products
from graphrec.models.layers import propagate, propagate_tables

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
    compare_tables(graph, x, n_layers=3)
    print("share of all pairs of 2,000 nodes that are edges: dense / sparse product")
    for share in (1 / 16, 1 / 8, 1 / 4, 1 / 2):
        print(f"1/{1 / share:.0f}  {dense_over_sparse(share):.2f}")
    for n_items in (ITEMS, 18_357):
        print(f"scores of {n_items:,} items in blocks / in one product  {blocked_over_whole(n_items):.2f}")


def compare_tables(graph: Graph, x: torch.Tensor, n_layers: int) -> None:
    """Prints LightGCN's propagation of users and items, forward and backward, for a batch of 2,048."""
    rng = numpy_rng(0, "bench/tables")
    users, items = (torch.from_numpy(part).requires_grad_(True) for part in np.split(x.numpy(), [USERS]))
    u, i = (torch.from_numpy(rng.integers(n, size=2048)) for n in (USERS, ITEMS))

    def by_autograd() -> None:
        h = propagate(graph, torch.cat([users, items]), n_layers)
        torch.autograd.grad(embedding(u, h[:USERS]).sum() + embedding(i, h[USERS:]).sum(), [users, items])

    def in_one_function() -> None:
        h = propagate_tables(graph, users, items, n_layers)
        torch.autograd.grad(embedding(u, h[0]).sum() + embedding(i, h[1]).sum(), [users, items])

    plain = milliseconds(by_autograd)
    spent = milliseconds(in_one_function)
    print(f"{n_layers} layers, step by step     {plain:7.2f} ms   1.00")
    print(f"{n_layers} layers, one function     {spent:7.2f} ms   {spent / plain:.2f}")


def blocked_over_whole(n_items: int) -> float:
    """Time of the scores of 256 users in blocks of items, divided by that of one product."""
    rng = numpy_rng(0, "bench/scores")
    users, items = (torch.from_numpy(rng.random((n, DIM), dtype=np.float32)) for n in (256, n_items))
    return milliseconds(lambda: inner_products(users, items)) / milliseconds(lambda: users @ items.T)


def dense_over_sparse(share: float, nodes: int = 2_000) -> float:
    """Time of a dense product divided by that of a sparse one, for one share of edges."""
    target, source = np.nonzero(numpy_rng(0, "bench/dense").random((nodes, nodes)) < share)
    graph = Graph.from_edges(source, target, n_source=nodes, n_target=nodes)
    x = torch.ones(nodes, DIM)
    before = graphs.DENSE_SHARE
    try:
        times = []
        for least in (0.0, 2.0):
            graphs.DENSE_SHARE = least
            times.append(milliseconds(lambda: graph @ x))
    finally:
        graphs.DENSE_SHARE = before
    return times[0] / times[1]


if __name__ == "__main__":
    main()
