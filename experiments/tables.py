"""Writes the measured tables into the README from the recorded results.

python -m experiments.tables            # rewrites README.md between its markers
python -m experiments.tables --check    # exit status 1 if README.md and the results disagree
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.harness import RESULTS, table
from graphrec.atomic import read_json, write_text

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
ORDER = ("amazon_baby", "amazon_sports", "amazon_scientific", "movielens_small")
TITLES = {
    "amazon_baby": "Amazon Baby (published 8:1:1 split; published values in brackets)",
    "amazon_sports": "Amazon Sports (published 8:1:1 split; published values in brackets)",
    "amazon_scientific": "Amazon Scientific (leave-one-out; CLIP image and text vectors)",
    "movielens_small": "MovieLens small (a tenth of the films cold; posters and texts)",
}


def render() -> str:
    """All recorded results as markdown, in a fixed order."""
    parts = []
    for name in ORDER:
        path = RESULTS / f"{name}.json"
        if path.exists():
            parts.append(_section(name, read_json(path)))
    return "\n\n".join(parts)


def rewritten(readme: str) -> str:
    """The README with the recorded results between its markers.

    Raises:
        ValueError: the markers are not there, once each and in order.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{README.name} has no {BEGIN} ... {END}; put them where the tables belong")
    return f"{before}{BEGIN}\n{render()}\n{END}{after}"


def _section(name: str, result: Mapping[str, Any]) -> str:
    data, seeds = result["dataset"], result["seeds"]
    spread = f"mean ± standard deviation over {len(seeds)} seeds" if len(seeds) > 1 else "one seed"
    about = (
        f"{data['users']:,} users, {data['items']:,} items, {data['train']:,} / {data['valid']:,} / "
        f"{data['test']:,} interactions; {spread}; train items masked; selected on validation recall@20. "
        f"`{result['command']}`"
    )
    return f"### {TITLES[name]}\n\n{about}\n\n{table(result)}"


def main() -> None:
    """Rewrites or checks the README."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail where they disagree")
    options = parser.parse_args()
    before = README.read_text(encoding="utf-8")
    after = rewritten(before)
    if options.check:
        sys.exit(
            0 if before == after else "README.md disagrees with experiments/results; run it without --check"
        )
    if before != after:
        write_text(README, after)


if __name__ == "__main__":
    main()
