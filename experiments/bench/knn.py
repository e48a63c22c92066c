"""Nearest neighbors by cosine: time and extra memory against the dense form and faiss; a million rows.

    python -m experiments.bench.knn [--quick] [--million]

Every line is a fresh process. ``exact`` is :func:`graphrec.graphs.knn.knn` with all comparisons and the
graph, ``dense`` one matrix of similarities and ``torch.topk``, ``faiss`` an ``IndexFlatIP``, all with k = 10
on plain Gaussian vectors, the hardest to prune. The floor is the 2 N N d operations of all comparisons at the
speed at which torch multiplies matrices in the cache, measured in the same process. Extra memory is the peak
above what was resident before; the copy scaled to length one counts. ``--quick`` leaves 100,000 rows out.

``--million`` is the approximate form on 1,000,000 x 128 vectors, as embeddings of real catalogs lie in
clusters and fill few dimensions: 2,000 centers, each with noise of 12 dimensions and a little of all; then
2,000 centers with plain noise, which is easy. Recall@10 is that of 2,000 rows against their exact neighbors.
Plain Gaussian vectors, which have no clusters, are measured at 100,000: there the approximate form ends up
comparing all pairs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.bench import measure
from graphrec.core.random import numpy_rng
from graphrec.features import FeatureTable
from graphrec.graphs.knn import knn
from graphrec.graphs.nearest import nearest_rows

K, DIM = 10, 384
SIZES = (7_050, 30_000, 100_000)
DENSE_UP_TO = 30_000  # 3.6 GB of similarities
EXTRA = {100_000: measure.GIB, 1_000_000: 2 * measure.GIB + 1_000_000 * 128 * 4}
"""Most extra memory by number of rows, in bytes: for a million, the data and 2 GiB."""


def vectors(n: int, d: int, kind: str = "gaussian") -> np.ndarray:
    """Generated rows ``(n, d) float32``: ``"gaussian"``, around ``"centers"``, or ``"catalog"``."""
    rng = numpy_rng(0, "bench/knn")
    rows = rng.standard_normal((n, d), dtype=np.float32)
    if kind == "gaussian":
        return rows
    centers = rng.standard_normal((2000, d), dtype=np.float32)
    directions = rng.standard_normal((40, 12, d), dtype=np.float32) / 48**0.5  # of noise, by center
    for start in range(0, n, 65_536):
        part = rows[start : start + 65_536]
        at = rng.integers(0, len(centers), len(part))
        part *= 0.7 if kind == "centers" else 0.1
        part += centers[at]
        if kind == "catalog":
            for group in range(len(directions)):
                own = np.flatnonzero(at % len(directions) == group)
                part[own] += rng.standard_normal((len(own), 12), dtype=np.float32) @ directions[group]
    return rows


def dense(rows: torch.Tensor, k: int) -> torch.Tensor:
    """All similarities at once, then ``torch.topk``: neighbors ``(n, k)``."""
    unit = torch.nn.functional.normalize(rows, dim=1)
    return (unit @ unit.T).topk(k, dim=1).indices


def flat(rows: torch.Tensor, k: int) -> torch.Tensor:
    """Neighbors ``(n, k)`` by faiss."""
    import faiss

    unit = torch.nn.functional.normalize(rows, dim=1).numpy()
    index = faiss.IndexFlatIP(unit.shape[1])
    index.add(unit)
    return torch.from_numpy(index.search(unit, k)[1])


def peak(d: int) -> float:
    """Operations a second of a product of matrices in the cache."""
    one, other = torch.ones(1024, d), torch.ones(d, 4096)
    out = torch.empty(1024, 4096)
    return 2 * 1024 * 4096 * d / measure.milliseconds(lambda: torch.mm(one, other, out=out), 20) * 1e3


def exact_of(form: str, n: int) -> dict[str, float]:
    """Measures one exact form."""
    rows = torch.from_numpy(vectors(n, DIM))
    table = FeatureTable(rows.numpy(), meta={"sha256": "-"})  # hashing is not what is measured
    forms: dict[str, Any] = {
        "exact": lambda: knn(table, K, method="exact").col.view(n, K).long(),
        "dense": lambda: dense(rows, K),
        "faiss": lambda: flat(rows, K),
    }
    speed = peak(DIM)
    nearest_rows(rows[:64], rows[:64], K)
    with measure.spent() as spent:
        found = forms[form]()
    sample = torch.arange(0, n, max(1, n // 500))
    true = nearest_rows(rows[sample], rows, K)[1]
    return {
        "seconds": spent.seconds,
        "extra": spent.extra,
        "floor": 2 * n * n * DIM / speed,
        "recall": _recall(found[sample], true),
    }


def approximate_of(n: int, d: int, kind: str, folder: Path) -> dict[str, float]:
    """Measures ``knn(method="approximate")`` on a memory-mapped table, graph and all."""
    np.save(folder / "rows.npy", vectors(n, d, kind), allow_pickle=False)
    table = FeatureTable(
        np.load(folder / "rows.npy", mmap_mode="r", allow_pickle=False), meta={"sha256": "-"}
    )
    speed = peak(d)
    nearest_rows(torch.ones(64, d), torch.ones(64, d), K)
    with measure.spent() as spent:
        graph = knn(table, K, method="approximate")
    sample = np.sort(numpy_rng(1, "bench/knn/sample").choice(n, 2000, replace=False))
    true = nearest_rows(torch.from_numpy(table.take(sample)), torch.from_numpy(table.numpy()), K)[1]
    found = graph.col.view(n, K).long()[torch.from_numpy(sample)]
    return {
        "seconds": spent.seconds,
        "extra": spent.extra,
        "floor": 2 * n * n * d / speed,
        "recall": _recall(found, true),
    }


def _recall(found: torch.Tensor, true: torch.Tensor) -> float:
    return (found.unsqueeze(2) == true.unsqueeze(1)).any(1).double().mean().item()


def _row(name: str, n: int, d: int, found: dict[str, float]) -> bool:
    """Prints one line; says whether it exceeds its limit of memory or falls short in recall."""
    ratio, extra = found["seconds"] / found["floor"], found["extra"] / measure.GIB
    print(
        f"{name:<22}{n:>10,} x {d:<4}{found['seconds']:9.2f} s{ratio:9.3f} x floor{extra:9.2f} GiB extra   "
        f"recall@10 {found['recall']:.4f}",
        flush=True,
    )
    limit = EXTRA.get(n) if name == "exact" or n > 100_000 else None
    return bool((limit and found["extra"] > limit) or found["recall"] < 0.99)


def main() -> None:
    """Prints the table; ends with status 1 where a limit is exceeded."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="leave 100,000 rows out")
    parser.add_argument("--million", action="store_true", help="the approximate form alone")
    parser.add_argument("--one", nargs=4, metavar=("FORM", "N", "D", "KIND"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        form, (n, d), kind = options.one[0], map(int, options.one[1:3]), options.one[3]
        with tempfile.TemporaryDirectory() as folder:
            approximate = form == "approximate"
            found = approximate_of(n, d, kind, Path(folder)) if approximate else exact_of(form, n)
        print(json.dumps(found))
        return
    print(measure.machine())
    if options.million:
        runs = [("approximate", 1_000_000, 128, kind) for kind in ("catalog", "centers")]
        runs.append(("approximate", 100_000, 128, "gaussian"))
    else:
        sizes = SIZES[:2] if options.quick else SIZES
        forms = ("exact", "dense", "faiss")
        runs = [(f, n, DIM, "gaussian") for n in sizes for f in forms if f != "dense" or n <= DENSE_UP_TO]
    exceeded = False
    for form, n, d, kind in runs:
        command = [sys.executable, "-m", "experiments.bench.knn", "--one", form, str(n), str(d), kind]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        what = form if form != "approximate" else f"{form}, {kind}"
        exceeded |= _row(what, n, d, json.loads(done.stdout))
    sys.exit(exceeded)


if __name__ == "__main__":
    main()
