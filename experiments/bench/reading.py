"""Ten million interactions from a file to a split dataset: seconds by stage, and peak memory.

    python -m experiments.bench.reading [--quick] [--rows 10000000]

Generates a CSV and a Parquet file with text ids (a million users, 200,000 items, popularity as in Zipf's law,
times in seconds), and reads each in a fresh process: 5-core, then each split; then the dataset is saved and
loaded. The first line of figures is the floor: the bytes of the file read once and the rows sorted once as
numbers. Limits for ten million rows: 60 s and 4 GiB up to the split. ``--quick`` takes a twentieth of the
rows, users and items.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from experiments.bench import measure
from graphrec.core.random import numpy_rng

ROWS, SECONDS, MEMORY = 10_000_000, 60, 4 * measure.GIB
SPLITS = ("random", "leave-one-out", "time")
STAGES = (
    ("read", "graphrec.data.readers.table", "read_table"),
    ("codes", "graphrec.data.from_frame", "_codes"),
    ("repeats", "graphrec.data.from_frame", "_unique"),
    ("k-core", "graphrec.data.from_frame", "core_mask"),
    ("vocabularies", "graphrec.data.from_frame", "_ordered"),
    ("split", "graphrec.data.splits", "assign"),
)
"""Name of a stage, and the function that does it."""


def generate(rows: int, folder: Path) -> tuple[Path, Path]:
    """A CSV and a Parquet file of the same interactions: ``user, item, time``."""
    rng = numpy_rng(0, "bench/reading")
    n_users, n_items = rows // 10, rows // 50
    activity = rng.lognormal(0, 1, n_users).cumsum()
    popularity = (1 / (np.arange(n_items) + 10.0)).cumsum()
    users = np.searchsorted(activity, rng.random(rows) * activity[-1]).astype(np.int32)
    items = np.searchsorted(popularity, rng.random(rows) * popularity[-1]).astype(np.int32)
    times = rng.integers(1_400_000_000, 1_700_000_000, rows)
    frame = pl.DataFrame({"user": users, "item": items, "time": times}).select(
        pl.format("U{}", pl.col("user").cast(pl.String).str.zfill(7)).alias("user"),
        pl.format("P{}", pl.col("item").cast(pl.String).str.zfill(7)).alias("item"),
        "time",
    )
    paths = folder / "interactions.csv", folder / "interactions.parquet"
    frame.write_csv(paths[0])
    frame.write_parquet(paths[1])
    return paths


def timed(work: Callable[..., Any], name: str, taken: dict[str, float]) -> Callable[..., Any]:
    """The same function, its time added to ``taken[name]``."""

    @wraps(work)
    def measured(*arguments: Any, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            return work(*arguments, **options)
        finally:
            taken[name] = taken.get(name, 0.0) + time.perf_counter() - began

    return measured


def read(path: Path, split: str, folder: Path) -> dict[str, Any]:
    """Reads, filters, splits, saves and loads in this process; what each took."""
    import importlib

    from graphrec.data import Dataset, splits
    from graphrec.data.readers import load_dataset

    taken: dict[str, float] = {}
    for name, module, function in STAGES:
        owner = importlib.import_module(module)
        owners = (splits.RandomSplit, splits.LeaveOneOut, splits.TimeSplit) if name == "split" else (owner,)
        for one in owners:
            setattr(one, function, timed(getattr(one, function), name, taken))
    with measure.spent() as whole:
        data = load_dataset("table", path.parent, interactions=path.name, time="time", k_core=5, split=split)
    taken["other"] = whole.seconds - sum(taken.values())
    with measure.spent() as fingerprint:
        data.fingerprint  # noqa: B018
    with measure.spent() as saved:
        data.save(folder / "saved")
    with measure.spent() as loaded:
        again = Dataset.load(folder / "saved")
    assert again == data
    return {
        "stages": taken,
        "seconds": whole.seconds,
        "peak": whole.peak,
        "dataset": repr(data),
        "fingerprint": data.fingerprint[:12],
        "after": {"fingerprint": fingerprint.seconds, "save": saved.seconds, "load": loaded.seconds},
        "peak of all": max(whole.peak, saved.peak, loaded.peak),
    }


def main() -> None:
    """Prints the table; ends with status 1 where a limit is exceeded."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--quick", action="store_true", help="a twentieth of the rows")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help="keep the generated files here; default: a temporary one")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(read(Path(options.one[0]), options.one[1], options.folder)))
        return
    rows = options.rows // 20 if options.quick else options.rows
    print(measure.machine())
    with tempfile.TemporaryDirectory() as temporary:
        sys.exit(_all(rows, options.folder or Path(temporary)))


def _all(rows: int, folder: Path) -> bool:
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "interactions.csv", folder / "interactions.parquet"
    if not all(path.exists() for path in paths):
        generate(rows, folder)
    exceeded = False
    for path in paths:
        keys = numpy_rng(0, "bench/floor").integers(0, 2**40, rows)
        with measure.spent() as floor:
            size = len(path.read_bytes())
            keys.sort()
        print(f"\n{path.name}: {rows:,} rows, {size / 1e6:.0f} MB; floor {floor.seconds:.1f} s")
        for split in SPLITS:
            command = [sys.executable, "-m", "experiments.bench.reading", "--one", str(path), split]
            command += ["--folder", str(folder)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found = json.loads(done.stdout)
            stages = ", ".join(f"{k} {v:.1f}" for k, v in found["stages"].items())
            after = ", ".join(f"{k} {v:.1f}" for k, v in found["after"].items())
            print(
                f"{split:<14}{found['seconds']:6.1f} s ({found['seconds'] / floor.seconds:.1f} x floor), "
                f"peak {found['peak'] / measure.GIB:.2f} GiB; {stages}; then {after}, "
                f"peak {found['peak of all'] / measure.GIB:.2f} GiB; {found['fingerprint']}"
            )
            exceeded |= found["seconds"] > SECONDS or found["peak"] > MEMORY
        print(found["dataset"])
    return exceeded


if __name__ == "__main__":
    main()
