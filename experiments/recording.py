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

from graphrec.core.files import write_text

RESULTS = Path(__file__).parent / "results"
TEST = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")
"""Metrics of the test split that are recorded."""
GROUPS = ("items/warm", "items/cold", "items/cold/within")
"""Groups of items that are recorded, by recall@20."""
DROPPED = ("recognized", "supports_cold_items", "wall")
"""Facts of a run that its row records once, or that nothing reads."""
DIGITS = 8


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
    return {**result, "rows": {label: {**row, "runs": [_run(r) for r in row["runs"]]}
                               for label, row in rows.items()}}  # fmt: skip


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
