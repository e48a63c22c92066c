"""Extraction and neighbors on a Ray cluster of this machine, beside the same work without Ray.

    python -m experiments.bench.on_ray [--pictures 500] [--rows 20000] [--repeats 3] [--quick]

Every process computes with one thread, so that cores are compared with cores. ``local`` is one process with
one reading thread; ``1 worker`` and ``2 workers`` are a cluster that has been joined before the clock starts.
The second number is the ratio to ``local``; at best it is one over the number of workers. The floor of a row
is that, so what is above it is Ray: starting workers, which import everything anew for each extraction, and
moving what they read and return. ``nothing`` is an extraction of one row, and neighbors of one: what Ray
costs when there is nothing to do. Ratios are medians of runs after one another.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from experiments.bench import measure
from experiments.bench.extraction import catalog, measured, poster
from graphrec.core.random import numpy_rng
from graphrec.core.ray import Cluster
from graphrec.features import FeatureStore, extract as features
from graphrec.features.extract.extraction import extract
from graphrec.graphs.nearest import all_neighbors, unit_length

Work = Callable[[Cluster | None], object]


def pictures(n: int, folder: Path) -> Work:
    """Extraction of posters with ``hog-hsv`` into an empty store."""
    for i in range(n):
        (folder / f"{i}.jpg").write_bytes(poster(i % 500))
    shop = catalog([f"{i}.jpg" for i in range(n)], "image", folder)

    def work(cluster: Cluster | None) -> None:
        with tempfile.TemporaryDirectory() as store:
            extract(
                shop, "image", features.extractor("hog-hsv"), FeatureStore(store), shard_size=64, workers=1,
                progress=False, cluster=cluster,
            )  # fmt: skip

    return work


def neighbors(n: int, d: int) -> Work:
    """The ten nearest of each of ``n`` rows ``(n, d)``."""
    rows = numpy_rng(0, "bench/on_ray").standard_normal((n, d), dtype=np.float32)
    unit = unit_length(torch.from_numpy(rows))
    return lambda cluster: all_neighbors(unit, 10, cluster)


def row(name: str, work: Work, repeats: int) -> None:
    """Prints one line: seconds here, then seconds and ratio with one and two workers."""
    clusters = {workers: Cluster("local", workers=workers, cpus=1) for workers in (1, 2)}
    taken: dict[int, list[float]] = {0: [], 1: [], 2: []}
    for repeat in range(repeats + 1):
        for workers in taken:
            seconds = measured(lambda w=workers: work(clusters.get(w))).seconds  # type: ignore[misc]
            if repeat:  # the first is a warm-up
                taken[workers].append(seconds)
    cells = [f"{statistics.median(taken[0]):8.2f} s"]
    for workers in (1, 2):
        ratio = statistics.median(t / one for t, one in zip(taken[workers], taken[0], strict=True))
        cells.append(f"{statistics.median(taken[workers]):8.2f} s{ratio:8.2f} x")
    print(f"{name:<34}{'   '.join(cells)}", flush=True)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a fifth of everything, once")
    given = parser.parse_args()
    share, repeats = (5, 1) if given.quick else (1, given.repeats)
    os.environ["OMP_NUM_THREADS"] = "1"  # of the workers
    torch.set_num_threads(1)
    print(measure.machine())
    joining = measured(lambda: _joined_once()).seconds
    print(f"{'':<34}{'local':>10}{'1 worker':>14}{'2 workers':>24}")
    print(f"{'floor':<34}{'':>10}{1:20.2f} x{0.5:20.2f} x")
    n_pictures, n_rows = given.pictures // share, given.rows // share
    with tempfile.TemporaryDirectory() as folder, Cluster("local", workers=2, cpus=1).connect():
        row(f"hog-hsv, {n_pictures:,} pictures", pictures(n_pictures, Path(folder)), repeats)
        row("hog-hsv, nothing", pictures(1, Path(folder)), repeats)
        row(f"kNN, {n_rows:,} x 384", neighbors(n_rows, 384), repeats)
        row(f"kNN, {n_rows // 4:,} x 4096", neighbors(n_rows // 4, 4096), repeats)
        row("kNN, nothing", neighbors(1, 384), repeats)
    print(f"starting and ending the cluster {joining:.1f} s")


def _joined_once() -> None:
    with Cluster("local").connect():
        pass


if __name__ == "__main__":
    main()
