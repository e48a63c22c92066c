"""Tables that check the claims of the papers, for docs/results/claims.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.rendering import spread, values_of

R20 = "recall@20"


def accuracy(results: Mapping[str, Mapping[str, Any]]) -> str:
    """FREEDOM against LATTICE, its direct ancestor, on every dataset, and its mean gain."""
    lines = ["| dataset | LATTICE | FREEDOM | relative |", "|---|---|---|---|"]
    gains = []
    for name, result in results.items():
        old, new = (values_of(result["rows"][label], "test", R20) for label in ("LATTICE", "FREEDOM"))
        gains.append(float(np.mean(new) / np.mean(old) - 1))
        lines.append(f"| {name} | {spread(old)} | {spread(new)} | {gains[-1]:+.1%} |")
    lines.append(f"| mean | | | {np.mean(gains):+.1%} |")
    return "\n".join(lines)


def checks(results: Mapping[str, Mapping[str, Any]], group: str) -> str:
    """One group of checks and the rows they belong to, with the paired comparisons."""
    lines = [
        "| dataset | model | R@20 | check | R@20 | the model against the check | 95 % interval | p (Holm) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        rows = result["rows"]
        for pair in result["pairs"]:
            model, check = pair["model"], pair["baseline"]
            if rows[check]["group"] != group:
                continue
            low, high = pair["interval"]
            ours, theirs = (spread(values_of(rows[label], "test", R20)) for label in (model, check))
            lines.append(
                f"| {name} | {model} | {ours} | {check} | {theirs} | {pair['relative']:+.1%} | "
                f"[{low:+.4f}, {high:+.4f}] | {pair['p_holm']:.2g} |"
            )
    return "\n".join(lines)


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
