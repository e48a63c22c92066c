"""Trainings killed with SIGKILL at random moments and resumed until they end by themselves.

    python -m experiments.bench.training_kills [--kills 100] [--quick]

Prints, per model: how many sittings were killed, in the middle of what, how many epochs were trained twice,
and how many of the resumed runs differ in any bit from the straight one. The data are generated; the steps on
files are slowed down, so that many kills fall between them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from experiments.bench.measure import machine
from graphrec.core.random import numpy_rng

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from training import MODELS, Trainings, outcome, until_done

SLOW = 0.002  # seconds each step on a file takes
LONGEST = 0.3  # seconds until a kill, at most
KINDS = ("temporary file", "uncommitted file", "last without best", "half a line", "no checkpoint yet")


def row(trainings: Trainings, model: str, kills: int, folder: Path) -> tuple[str, bool]:
    """One line of the table, and whether all resumed runs equal the straight one."""
    trained = folder / "trained"
    task = {"model": model, "slow": SLOW}
    assert trainings.run(**task, out=folder / "straight", trained=trained) == 0
    expected, epochs = outcome(folder / "straight"), len(trained.read_text())
    rng, seen = numpy_rng(0, "bench/training_kills"), Counter[str]()
    done = runs = different = redone = 0
    began = time.perf_counter()
    while done < kills:
        place = folder / str(runs)
        place.mkdir()
        left = until_done(trainings, rng, LONGEST, **task, out=place / "run", trained=place / "trained")
        different += outcome(place / "run") != expected
        redone += len((place / "trained").read_text()) - epochs
        seen.update(what for found in left for what in found)
        done, runs = done + len(left), runs + 1
    cells = [f"{model:9}", f"{done:6}", f"{runs:5}", *(f"{seen[kind]:{len(kind)}}" for kind in KINDS)]
    cells += [
        f"{redone:6} ({redone / done:.2f} a kill)",
        f"{different:9}",
        f"{time.perf_counter() - began:5.0f} s",
    ]
    return "  ".join(cells), different == 0 and redone <= done


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100, help="per model")
    parser.add_argument("--quick", action="store_true", help="10 kills")
    options = parser.parse_args()
    print(machine())
    print("  ".join(["model    ", " kills", " runs", *KINDS, "epochs twice       ", "different", "time"]))
    sound = True
    with tempfile.TemporaryDirectory() as folder, Trainings() as trainings:
        for model in MODELS:
            (Path(folder) / model).mkdir()
            line, equal = row(trainings, model, 10 if options.quick else options.kills, Path(folder) / model)
            print(line, flush=True)
            sound = sound and equal
    sys.exit(0 if sound else "resumed runs differ from straight ones, or lost more than an epoch a kill")


if __name__ == "__main__":
    main()
