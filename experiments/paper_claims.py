"""Tables that check the claims of the papers, for docs/results/claims.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.rendering import (
    PAIR_DIGITS,
    R20,
    pair_table,
    relative,
    seeds_in_words,
    shared_seeds,
    spread,
    values_of,
)


def accuracy(results: Mapping[str, Mapping[str, Any]]) -> str:
    """FREEDOM against LATTICE, its direct ancestor, on every dataset, and its mean gain."""
    lines = ["| dataset | LATTICE | FREEDOM | seeds | relative |", "|---|---|---|---|---|"]
    gains = []
    for name, result in results.items():
        seeds = shared_seeds(result, {"model": "FREEDOM", "baseline": "LATTICE"})
        old, new = (
            values_of(result["rows"][label], "test", R20, seeds=seeds) for label in ("LATTICE", "FREEDOM")
        )
        gains.append(float(np.mean(new) / np.mean(old) - 1))
        cells = [spread(old, PAIR_DIGITS), spread(new, PAIR_DIGITS), seeds_in_words(len(seeds))]
        lines.append(f"| {name} | {' | '.join(cells)} | {relative(gains[-1])} |")
    lines.append(f"| mean | | | | {relative(float(np.mean(gains)))} |")
    return "\n".join(lines)


def checks(results: Mapping[str, Mapping[str, Any]], group: str) -> str:
    """One group of checks and the rows they belong to, with the paired comparisons."""
    return pair_table(
        list(results.values()),
        lambda result, pair: result["rows"][pair["baseline"]]["group"] == group,
    )


def time(result: Mapping[str, Any]) -> str:
    """Seconds an epoch, epochs to the best one, and seconds until training stopped, per model."""
    lines = [
        "| model | seconds an epoch | best epoch | epochs trained | seconds in all |",
        "|---|---|---|---|---|",
    ]
    for label in result["order"]:
        row = result["rows"][label]
        if row["group"] != "main" or all(run["best_epoch"] == 0 for run in row["runs"]):
            continue
        pace = [run["seconds"] / run["epochs"] for run in row["runs"]]
        cells = [f"{np.mean(pace):.2f}"]
        for key in ("best_epoch", "epochs", "seconds"):
            cells.append(f"{np.mean(values_of(row, key)):.0f}")
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)
