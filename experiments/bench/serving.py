"""Recommendations for 10,000 users over 50,000 items: time against a plain product and ``torch.topk``.

    python -m experiments.bench.serving

Top-20 of 64-dimensional embeddings, what each user has already (50 items) hidden. The plain form multiplies a
thousand users at once, hides with one index and takes ``torch.topk``; it leaves ties open and gives no ids.
The floor is the product alone at the speed at which torch multiplies matrices in the cache. Limit: 2 s. Then
the time of one user, of saving and of loading.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from experiments.bench import measure
from graphrec.core.random import numpy_rng
from graphrec.data import Interactions, Vocabulary
from graphrec.serving import Recommender

USERS, ITEMS, DIM, K, SEEN, SECONDS = 10_000, 50_000, 64, 20, 50, 2.0


def recommender() -> Recommender:
    """Generated embeddings and known interactions."""
    rng = numpy_rng(0, "bench/serving")
    users, items = (rng.standard_normal((n, DIM), dtype=np.float32) for n in (USERS, ITEMS))
    keys = np.unique(np.repeat(np.arange(USERS), SEEN) * ITEMS + rng.integers(0, ITEMS, USERS * SEEN))
    return Recommender(
        Vocabulary([f"U{i:07d}" for i in range(USERS)], "user"),
        Vocabulary([f"P{i:07d}" for i in range(ITEMS)], "item"),
        users,
        items,
        Interactions(keys // ITEMS, keys % ITEMS, USERS, ITEMS, name="seen"),
    )


def plain(rec: Recommender) -> np.ndarray:
    """Items ``(USERS, K)`` without ids, ties as ``torch.topk`` has them."""
    users, items = torch.from_numpy(rec.user_vectors), torch.from_numpy(rec.item_vectors)
    found = []
    for start in range(0, USERS, 1000):
        scores = users[start : start + 1000] @ items.T
        row, item = rec.seen.items_of_users(np.arange(start, start + len(scores)))
        scores[torch.from_numpy(row), torch.from_numpy(item).long()] = -torch.inf
        found.append(scores.topk(K, dim=1).indices)
    return torch.cat(found).numpy()


def main() -> None:
    """Prints the table; ends with status 1 where the limit is exceeded."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    print(measure.machine())
    rec = recommender()
    names = list(rec.users.ids)
    one, other, out = torch.ones(1024, DIM), torch.ones(DIM, 4096), torch.empty(1024, 4096)
    product = measure.milliseconds(lambda: torch.mm(one, other, out=out))
    floor = product * USERS * ITEMS / (1024 * 4096)
    baseline = measure.milliseconds(lambda: plain(rec), repeats=3, warmup=1)
    with measure.spent() as spent:
        ids, _ = rec.recommend(names, K)
    taken = measure.milliseconds(lambda: rec.recommend(names, K), repeats=3, warmup=0)
    same = np.mean(ids == np.array(rec.items.ids, dtype=object)[plain(rec)])
    single = measure.milliseconds(lambda: rec.recommend(names[7], K))
    with tempfile.TemporaryDirectory() as folder:
        saved = measure.milliseconds(lambda: rec.save(Path(folder) / "saved"), repeats=3, warmup=0)
        loaded = measure.milliseconds(lambda: Recommender.load(Path(folder) / "saved"), repeats=3, warmup=0)
    print(
        f"{USERS:,} users x top-{K} over {ITEMS:,} items, d={DIM}; {spent.extra / 2**20:.0f} MiB extra memory"
    )
    print(f"product alone (floor)    {floor:8.0f} ms   {floor / baseline:.2f}")
    print(f"plain torch.topk         {baseline:8.0f} ms   1.00   ({same:.2%} of the places agree)")
    print(f"recommend                {taken:8.0f} ms   {taken / baseline:.2f}   limit {1e3 * SECONDS:.0f} ms")
    print(f"recommend, one user      {single:8.2f} ms")
    print(f"save                     {saved:8.0f} ms")
    print(f"load                     {loaded:8.0f} ms")
    sys.exit(taken > 1e3 * SECONDS)


if __name__ == "__main__":
    main()
