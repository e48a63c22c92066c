"""What waiting costs: trainings alone and two beside one another, by OpenMP's wait policy.

    python -m experiments.bench.shared_cores [--epochs 3]

Seconds per epoch of LightGCN (2 layers) on generated data of Amazon Baby's size, median over epochs and
processes. Two processes on the same cores should take twice as long each. Between parallel regions OpenMP's
threads spin, and a spinning thread keeps another process's working thread off its core. A number is the
rounds they spin (``GOMP_SPINCOUNT``; 300,000 is libgomp's default), ``passive`` sleeps at once
(``OMP_WAIT_POLICY``). ``graphrec`` sets the last one unless the environment says otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from experiments.bench import catalog, measure

POLICIES = {
    "300,000 (libgomp)": {"GOMP_SPINCOUNT": "300000"},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "20,000": {"GOMP_SPINCOUNT": "20000"},
    "5,000 (graphrec)": {},
}


def epoch(folder: Path, environment: dict[str, str], processes: int, epochs: int) -> float:
    """Median seconds per epoch of several trainings at once."""
    command = [sys.executable, "-m", "experiments.bench.epoch", "--case", "lightgcn", "--folder", str(folder),
               "--epochs", str(epochs)]  # fmt: skip
    clean = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**clean, **environment})
        for _ in range(processes)
    ]
    answers = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise SystemExit(f"a training ended with status {[p.returncode for p in running]}")
    return statistics.median(s for a in answers for s in json.loads(a.splitlines()[-1])["epoch"])


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=3)
    epochs = parser.parse_args().epochs
    print(measure.machine())
    print(f"{'spinning':20s}{'alone':>10s}{'two at once':>14s}{'ratio':>8s}")
    with tempfile.TemporaryDirectory() as name:
        catalog.save(Path(name))
        for policy, environment in POLICIES.items():
            alone, two = (epoch(Path(name), environment, n, epochs) for n in (1, 2))
            print(f"{policy:20s}{alone:>8.2f} s{two:>12.2f} s{two / alone:>8.1f}", flush=True)


if __name__ == "__main__":
    main()
