"""What a size would take, by arithmetic: bytes of each table, products of each stage, machines.

    python -m experiments.bench.size_estimate
    python -m experiments.bench.size_estimate --users 1e6 --items 2e5 --pairs 2e7

Nothing is measured but what ``--bandwidth`` and ``--rate`` say of a machine, defaults of one GPU of 80 GB (2
TB/s, 100 TFLOP/s that a product reaches) and, in brackets, of two cores (10 GB/s, 60 GFLOP/s).
"""

from __future__ import annotations

import argparse
import math

GIGA, TERA = 1e9, 1e12
GPU = {"memory": 80 * GIGA, "bandwidth": 2 * TERA, "rate": 100 * TERA}
CORES = {"memory": 16 * GIGA, "bandwidth": 10 * GIGA, "rate": 60 * GIGA}


def tables(
    users: float, items: float, pairs: float, dim: int, widths: dict[str, int], k: int
) -> dict[str, float]:
    """Bytes of what is kept, by name."""
    ids = 4 * dim * (users + items)
    return {
        f"ID embeddings, {dim} float32": ids,
        "their two moments": 2 * ids,
        "train pairs, an int32 item each and offsets": 4 * pairs + 8 * users,
        "the same by item, for the way back": 4 * pairs + 8 * items,
        "weights of edges, if kept (both ways)": 8 * pairs,
        f"features, {' + '.join(map(str, widths.values()))} float16": 2 * items * sum(widths.values()),
        f"item graph, {k} neighbors each": 8 * k * items,
    }


def step(batch: int, fanouts: list[int], dim: int, users: float, items: float) -> dict[str, float]:
    """Rows, edges and bytes of one step on sampled neighborhoods, repeats not merged: the most it can be."""
    rows, edges, level = 3.0 * batch, 0.0, 3.0 * batch
    for fanout in fanouts:
        edges += level * fanout
        level *= fanout
        rows += level
    rows = min(rows, users + items)
    # Each edge reads a row forward and one backward; each row is read, and moved with two moments and back.
    return {"rows": rows, "edges": edges, "bytes": 4 * dim * (2 * edges + 8 * rows)}


def human(n: float, unit: str = "B") -> str:
    """A number with a prefix; without a unit, as people say it."""
    for prefix, word in (("", ""), ("k", "thousand"), ("M", "million"), ("G", "billion"), ("T", "trillion")):
        if abs(n) < 1000:
            return f"{n:.3g} {f'{prefix}{unit}' if unit else word}".rstrip() + ("" if unit else " ")
        n /= 1000
    return f"{n:.3g} P{unit}"


def duration(seconds: float) -> str:
    """Seconds, minutes, hours or days."""
    for size, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= size:
            return f"{seconds / size:.3g} {name}"
    return f"{seconds:.3g} seconds"


def main() -> None:
    """Prints the arithmetic."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--users", type=float, default=1e8)
    parser.add_argument("--items", type=float, default=1e7)
    parser.add_argument("--pairs", type=float, default=1e10, help="train interactions")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--image", type=int, default=512)
    parser.add_argument("--text", type=int, default=384)
    parser.add_argument("--k", type=int, default=10, help="neighbors of an item")
    parser.add_argument("--batch", type=int, default=65_536)
    parser.add_argument("--fanouts", type=int, nargs="+", default=[10, 5])
    given = parser.parse_args()
    print(
        f"{human(given.users, '')}users, {human(given.items, '')}items, {human(given.pairs, '')}interactions"
    )
    widths = {"image": given.image, "text": given.text}
    found = tables(given.users, given.items, given.pairs, given.dim, widths, given.k)
    for name, size in found.items():
        print(f"  {name:48s}{human(size):>9s}")
    total = sum(found.values())
    print(f"  {'together':48s}{human(total):>9s}, {math.ceil(total / GPU['memory'])} GPUs of 80 GB")
    cost = step(given.batch, given.fanouts, given.dim, given.users, given.items)
    steps = given.pairs / given.batch
    print(
        f"a step of {given.batch:,} with fanouts {given.fanouts}: at most {human(cost['rows'], '')}rows, "
        f"{human(cost['edges'], '')}edges, {human(cost['bytes'])} of memory traffic"
    )
    seconds = {
        name: steps * cost["bytes"] / where["bandwidth"] for name, where in (("gpu", GPU), ("cores", CORES))
    }
    print(
        f"an epoch of {steps:,.0f} steps: {duration(seconds['gpu'])} at a GPU's bandwidth "
        f"({duration(seconds['cores'])} at two cores'); between machines "
        f"{human(steps * cost['rows'] * 4 * given.dim * 2)} of rows and gradients"
    )
    whole = 2 * (2 * given.pairs) * len(given.fanouts) * 4 * given.dim  # a row an edge, there and back
    print(
        f"whole-graph steps instead: {human(whole)} of traffic each, an epoch "
        f"{duration(steps * whole / GPU['bandwidth'])} at a GPU's bandwidth"
    )
    for name, width in widths.items():
        work = 2.0 * given.items**2 * width
        print(
            f"exact neighbors by {name}: {human(work, 'FLOP')}, {duration(work / GPU['rate'])} on a GPU "
            f"({duration(work / CORES['rate'])} on two cores)"
        )
    ranking = 2.0 * given.users * given.items * given.dim
    one = f"{human(2 * given.items * given.dim, 'FLOP')} and {human(4 * given.items * given.dim)} read"
    print(
        f"scores of all items for all users: {human(ranking, 'FLOP')}, {duration(ranking / GPU['rate'])} on "
        f"a GPU; for one user {one}"
    )


if __name__ == "__main__":
    main()
