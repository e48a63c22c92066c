"""A comparison as data: a JSON document, and Parquet with one number a row."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from graphrec.core.bundle import FileFormat
from graphrec.core.errors import ConfigError, DataError, nearest
from graphrec.core.files import atomic_write, explain_os_errors
from graphrec.runs.comparison.narrative import answer, notes
from graphrec.runs.comparison.results import TEST, ModelComparison, Result

FORMAT = FileFormat("comparison")
PER = ("seed", "user")
FACTS = ("model", "model_config", "train_config", "features", "dataset")
"""What the summary repeats of :attr:`graphrec.runs.comparison.Entry.about`."""


def summary(comparison: ModelComparison) -> dict[str, Any]:
    """Everything but the values of single users, as JSON values; what is undefined is None."""
    report = comparison.first.report
    return {
        **FORMAT.header,
        "answer": answer(comparison),
        "notes": notes(comparison),
        "metric": comparison.metric,
        "columns": list(comparison.names),
        "ranking": comparison.ranking,
        "baseline": comparison.baseline,
        "baseline_chosen": comparison.default_baseline,
        "test": TEST,
        "split": report.meta.get("split"),
        "masked": report.meta.get("seen"),
        "n_users": len(report),
        "evaluation": report.meta.get("data"),
        "models": {label: _model(comparison, r) for label, r in comparison.results.items()},
        "comparisons": [
            _json({**vars(c), "seed_pairs_ahead": comparison.seed_wins(c.model)})
            for c in comparison.comparisons
        ],
    }


def to_parquet(comparison: ModelComparison, path: str | Path, per: Literal["seed", "user"] = "seed") -> Path:
    """Writes the numbers as Parquet, one a row, and :func:`summary` into the schema's metadata.

    Args:
        comparison: what to write.
        path: the file.
        per: ``"seed"``: columns ``label``, ``seed``, ``group`` (empty for all users), ``metric``, ``kind``,
            ``value`` and ``n_users``; ``kind`` is ``"value"`` for one seed, and ``"mean"``, ``"sd"``,
            ``"low"`` or ``"high"`` over seeds, with ``seed`` null. ``"user"``: columns ``label``, ``group``,
            ``user`` and one per metric, each user's mean over seeds.

    Raises:
        ConfigError: another value of ``per``.
        DataError: the file cannot be written; what was there is intact.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if per not in PER:
        raise ConfigError(f"per {per!r} is not one of {list(PER)}.{nearest(per, PER)}")
    if per == "user":
        table = pa.table(_users(comparison))
    else:
        types = {
            "label": pa.string(), "seed": pa.int64(), "group": pa.string(), "metric": pa.string(),
            "kind": pa.string(), "value": pa.float64(), "n_users": pa.int64(),
        }  # fmt: skip
        rows = [dict(zip(types, row, strict=True)) for row in _rows(comparison)]
        table = pa.Table.from_pylist(rows, pa.schema(list(types.items())))
    text = json.dumps(summary(comparison), allow_nan=False)
    with explain_os_errors(path, DataError), atomic_write(path) as file:
        pq.write_table(table.replace_schema_metadata({"graphrec_comparison": text}), file, compression="zstd")
    return Path(path)


def _model(comparison: ModelComparison, result: Result) -> dict[str, Any]:
    first = result.entries[0]
    document: dict[str, Any] = _json(
        {
            **{key: first.about[key] for key in FACTS if key in first.about},
            "seeds": result.seeds,
            "runs": [e.about["path"] for e in result.entries if "path" in e.about],
            "n_parameters": first.n_parameters,
            "seconds": result.seconds().tolist(),
            "cold_items": result.cold_items,
            "metrics": {n: _numbers(result, n, "") for n in comparison.names},
            "groups": {
                group: {"n_users": len(part), **{n: _numbers(result, n, group) for n in comparison.names}}
                for group, part in result.report.groups.items()
            },
            "beyond": {
                n: {"values": result.values(n).tolist(), "mean": result.mean(n), "sd": result.sd(n)}
                for n in result.report.scalars
            },
        }
    )
    return document


def _numbers(result: Result, name: str, group: str) -> dict[str, Any]:
    return {
        "values": result.values(name, group).tolist(),
        "mean": result.mean(name, group),
        "sd": result.sd(name, group),
        "interval": result.interval(name, group),
    }


def _rows(comparison: ModelComparison) -> Iterator[tuple[str, int | None, str, str, str, float | None, int]]:
    for label, result in comparison.results.items():
        for group, report in {"": result.report, **result.report.groups}.items():
            for name in (*report.metrics, *report.scalars):
                for entry, value in zip(result.entries, result.values(name, group), strict=True):
                    yield label, entry.seed, group, name, "value", _finite(value), len(report)
                interval = result.interval(name, group) if name in comparison.names else None
                low, high = interval or (None, None)
                over_seeds = {
                    "mean": result.mean(name, group), "sd": result.sd(name, group), "low": low, "high": high,
                }  # fmt: skip
                for kind, number in over_seeds.items():
                    if number is not None:
                        yield label, None, group, name, kind, _finite(number), len(report)


def _users(comparison: ModelComparison) -> dict[str, Any]:
    parts = [
        (label, group, report)
        for label, result in comparison.results.items()
        for group, report in {"": result.report, **result.report.groups}.items()
    ]
    shared = [n for n in parts[0][2].metrics if all(n in report.metrics for _, _, report in parts)]
    return {
        "label": [label for label, _, report in parts for _ in range(len(report))],
        "group": [group for _, group, report in parts for _ in range(len(report))],
        "user": np.concatenate([report.users for _, _, report in parts]),
        **{n: np.concatenate([report[n] for _, _, report in parts]) for n in shared},
    }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _json(value: Any) -> Any:
    """``value`` as JSON values, with None for numbers that are not finite."""
    if isinstance(value, dict):
        return {str(k): _json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json(v) for v in value]
    if isinstance(value, float):
        return _finite(value)
    return value if isinstance(value, (str, int, bool, type(None))) else str(value)
