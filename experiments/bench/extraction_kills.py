"""Extraction killed with SIGKILL, over and over, beside a naive writer under the same kills.

    python -m experiments.bench.extraction_kills [--kills 500] [--quick]

Two fields (pictures and texts), with 1 and with 4 reading threads; a generated shop, real files in a
temporary directory. Each extraction is resumed until it ends and then compared, file by file, with an
uninterrupted one. The kills, and what is checked after each, are those of the tests (tests/killing.py).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from experiments.bench.measure import machine

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from killing import ROWS, campaign, crowd, naive, ours


def main() -> None:
    """Prints the table, and ends with status 1 if our files suffered or the naive ones did not."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=500, help="of each writer")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="50 kills")
    options = parser.parse_args()
    kills = 50 if options.quick else options.kills
    print(machine())
    print(f"{'writer':8}{'workers':>8}{'kills':>7}{'writing':>9}{'left .tmp':>11}{'no sidecar':>12}"
          f"{'caches':>8}{'most rows lost':>16}{'redone':>8}{'corrupt':>9}{'other':>7}"
          f"{'seconds':>9}")  # fmt: skip
    failed = False
    for work in (ours, naive):
        for workers, share in ((1, kills // 2), (4, kills - kills // 2)):
            began = time.perf_counter()
            with tempfile.TemporaryDirectory() as place:
                found = campaign(Path(place), work, share, workers, options.seed)
            lost, redone = (found.lost, found.redone) if work is ours else ("-", "-")
            print(f"{work.__name__:8}{workers:8}{found.kills:7}{found.writing:9}{found.temporaries:11}"
                  f"{found.unpaired:12}{found.stores:8}{lost:>16}{redone:>8}{found.corrupt:9}"
                  f"{len(found.problems):7}{time.perf_counter() - began:9.1f}", flush=True)  # fmt: skip
            for problem in found.problems[:5]:
                print(f"  {problem}")
            stages = ", ".join(f"{stage} {n}" for stage, n in sorted(found.stages.items()))
            print(f"  killed during: {stages}")
            clean = not (found.corrupt or found.problems or found.redone or found.lost > ROWS)
            failed |= clean != (work is ours)
    for victims in (0, 4):
        with tempfile.TemporaryDirectory() as place:
            answer = crowd(Path(place), 8, victims, options.seed)
        print(
            f"8 processes on one cache, {victims} of them killed: {answer['rows']} rows encoded "
            f"{answer['encoded']} times, equal to one process's: {answer['equal']}, "
            f"verify finds {len(answer['verify'])}"
        )
        failed |= not answer["equal"] or bool(answer["verify"])
    print("one shard holds", ROWS, "rows; lost: encoded when the kill came, and not yet kept")
    sys.exit(failed)


if __name__ == "__main__":
    main()
