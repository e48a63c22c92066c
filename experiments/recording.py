"""Recorded results: the part of a run that tables and verification need, as compact JSON under ``results/``.

A run keeps its seed, epochs, seconds, validation value and test means; per-user values stay in the run
directories. Floats have eight significant digits.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphrec.core.files import read_json, write_text

RESULTS = Path(__file__).parent / "results"
TEST = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")
"""Metrics of the test split that are recorded."""
GROUPS = ("items/warm", "items/cold", "items/cold/within")
"""Groups of items that are recorded, by recall@20."""
DROPPED = ("recognized", "supports_cold_items", "wall")
"""Facts of a run that its row records once, or that nothing reads."""
DIGITS = 8
MOST_TRIALS = 16
"""Trials of a row up to which all are recorded; of more, the best and how many there were."""


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Writes a result: one line for each key, and one for each row, so that a diff names what changed."""
    lines = []
    for key, value in sorted(_rounded(_slim(result)).items()):
        if key == "rows":
            rows = ",\n".join(f"  {_dumped(name)}: {_dumped(row)}" for name, row in value.items())
            lines.append(f' "rows": {{\n{rows}\n }}')
        else:
            lines.append(f" {_dumped(key)}: {_dumped(value)}")
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def _slim(result: Mapping[str, Any]) -> dict[str, Any]:
    """A result without what its tables and its verification do not need."""
    rows = result.get("rows")
    if not isinstance(rows, Mapping):
        return dict(result)
    return {**result, "rows": {label: _row(row) for label, row in rows.items()}}


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    kept = dict(row)
    trials = row.get("trials", [])
    if len(trials) > MOST_TRIALS:
        best = max(trials, key=lambda trial: -math.inf if trial["value"] is None else trial["value"])
        kept["trials"] = [{"of": len(trials), **best}]
    runs = [_run(r) for r in row["runs"]]
    alike = [{key: value for key, value in run.items() if key != "seed"} for run in runs]
    if len(runs) > 1 and all("seed" in run for run in runs) and all(one == alike[0] for one in alike):
        return {**kept, "seeds": [run["seed"] for run in runs], "runs": alike[:1]}
    return {**kept, "runs": runs}


def read_result(path: Path) -> dict[str, Any]:
    """Reads what :func:`write_result` wrote; of a row that depends on no seed, the one run for each seed."""
    result: dict[str, Any] = read_json(path)
    rows = result.get("rows") if isinstance(result, dict) else None
    if isinstance(rows, dict):
        for row in rows.values():
            if isinstance(row, dict) and "seeds" in row:
                row["runs"] = [{"seed": seed, **row["runs"][0]} for seed in row.pop("seeds")]
    return result


def _run(facts: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in facts.items() if key not in DROPPED}
    if "test" in kept:
        kept["test"] = {metric: kept["test"][metric] for metric in TEST}
    if "groups" in kept:
        kept["groups"] = {
            g: {"recall@20": kept["groups"][g]["recall@20"]} for g in GROUPS if g in kept["groups"]
        }
    return kept


def _rounded(value: Any) -> Any:
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(part) for part in value]
    return value


def _dumped(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False, allow_nan=False)
