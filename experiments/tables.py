"""Writes the measured tables into the README and the docs, from the recorded results.

A page says ``<!-- table: main amazon_baby -->`` where a table belongs, and ``<!-- end -->`` behind it.

python -m experiments.tables            # rewrites the pages
python -m experiments.tables --check    # exit status 1 if a page and the results disagree
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments import (
    beyond_edges,
    bm3_collapse,
    cold_items,
    content_priors,
    contribution_cuts,
    contributions,
    conversations,
    fold_in,
    language_models,
    llm_augmentation,
    neighbors,
    paper_claims,
    published_splits,
    time_splits,
)
from experiments.recording import RESULTS, read_result
from experiments.rendering import about, best, details, rival_table, table
from graphrec.core.files import write_text

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/**/*.md")))
BLOCK = re.compile(r"<!-- table: (.+?) -->\n(.*?)<!-- end -->", flags=re.DOTALL)


def recorded(name: str) -> dict[str, Any]:
    """A recorded result.

    Raises:
        ValueError: there is none.
    """
    path = RESULTS / f"{name}.json"
    if not path.exists():
        known = sorted(p.stem for p in RESULTS.glob("*.json"))
        raise ValueError(f"{path} is not recorded; there are {known}")
    return read_result(path)


TABLES: dict[str, Callable[..., str]] = {
    "best": lambda *names: best({n: recorded(n) for n in names}),
    "main": lambda name: f"{about(recorded(name))}\n\n{table(recorded(name))}",
    "details": lambda name: details(recorded(name)),
    "accuracy": lambda *names: paper_claims.accuracy({n: recorded(n) for n in names}),
    "parts": lambda *names: paper_claims.checks({n: recorded(n) for n in names}, "parts"),
    "modalities": lambda *names: paper_claims.checks({n: recorded(n) for n in names}, "modalities"),
    "shuffled": lambda *names: paper_claims.checks({n: recorded(n) for n in names}, "shuffled"),
    "rivals": lambda metric, *names: rival_table([recorded(n) for n in names], metric),
    "time": lambda name: paper_claims.time(recorded(name)),
    "conversations": lambda name: (
        f"{conversations.about(recorded(name))}\n\n{conversations.table(recorded(name))}"
    ),
    "noise": lambda name: conversations.noise(recorded(name)),
    "contributions": lambda name: (
        f"{contributions.about(recorded(name))}\n\n{contributions.table(recorded(name))}"
    ),
    "cuts": lambda name: (
        f"{contribution_cuts.about(recorded(name))}\n\n{contribution_cuts.table(recorded(name))}"
    ),
    "cut-choices": lambda *names: contribution_cuts.choices(*map(recorded, names)),
    "time-splits": lambda: time_splits.table(recorded("time_splits")),
    "coder-parts": lambda name: contributions.parts(recorded(name)),
    "compared": lambda name: contributions.compared_with(recorded(name)),
    "augmentation-parts": lambda name: llm_augmentation.parts(recorded(name)),
    "augmentation-added": lambda name: llm_augmentation.added(recorded(name)),
    "augmentation-cold": lambda name: llm_augmentation.cold(recorded(name)),
    "beyond-edges": lambda: beyond_edges.table(recorded("beyond_edges")),
    "bm3-collapse": lambda: bm3_collapse.table(recorded("bm3_collapse")),
    "cold": lambda: cold_items.table(recorded("cold_items")),
    "content-priors": lambda: content_priors.variants_table(recorded("content_priors")),
    "content-factors": lambda: content_priors.factors_table(recorded("content_priors")),
    "content-sums": lambda: content_priors.sums_table(recorded("content_priors")),
    "fold-in": lambda: fold_in.table(recorded("fold_in")),
    "transfer": lambda: language_models.transfer_table(recorded("language_transfer")),
    "published": lambda name: published_splits.table(recorded(published_splits.PREFIX + name)),
    "neighbors": lambda: neighbors.table(recorded("neighbors")),
}
"""Name in a marker -> table of the recorded results that follow it."""


def rewritten(page: str) -> str:
    """A page with the recorded results between its markers.

    Raises:
        ValueError: a marker names no table or no recorded result.
    """

    def block(marker: re.Match[str]) -> str:
        name, *arguments = marker[1].split()
        if name not in TABLES:
            raise ValueError(f"<!-- table: {marker[1]} -->: expected one of {sorted(TABLES)}")
        return f"<!-- table: {marker[1]} -->\n{TABLES[name](*arguments)}\n<!-- end -->"

    return BLOCK.sub(block, page)


def main() -> None:
    """Rewrites or checks the pages."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="change nothing; fail where they disagree")
    options = parser.parse_args()
    stale = []
    for name in PAGES:
        path = ROOT / name
        before = path.read_text(encoding="utf-8")
        after = rewritten(before)
        if before != after:
            stale.append(name)
            if not options.check:
                write_text(path, after)
    if options.check and stale:
        sys.exit(f"{', '.join(stale)} and experiments/results disagree; run python -m experiments.tables")


if __name__ == "__main__":
    main()
