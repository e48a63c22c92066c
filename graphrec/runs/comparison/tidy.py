"""A comparison as data: a JSON-able summary, and Parquet with one number a row."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphrec.core.bundle import FileFormat
from graphrec.core.errors import ConfigError, nearest
from graphrec.core.files import atomic_write
from graphrec.runs.comparison.results import TEST, Result

if TYPE_CHECKING:
    from graphrec.runs.comparison.results import ModelComparison

FORMAT = FileFormat("comparison")
PER = ("seed", "user")


def summary(made: ModelComparison) -> dict[str, Any]:
    """See :meth:`ModelComparison.summary`."""
    first = next(iter(made.results.values()))
    about = first.report.meta
    return {
        **FORMAT.header,
        "answer": made.answer,
        "notes": made.notes,
        "metric": made.metric,
        "columns": list(made.names),
        "ranking": made.ranking,
        "baseline": made.baseline,
        "baseline_chosen": made.chosen,
        "test": TEST,
        "split": about.get("split"),
        "masked": about.get("seen"),
        "n_users": len(first.report),
        "evaluation": about.get("data"),
        "models": {label: _model(made, r) for label, r in made.results.items()},
        "comparisons": [
            _plain({**vars(c), "interval": list(c.interval), "seed_pairs_ahead": list(made.ahead(c.model))})
            for c in made.comparisons
        ],
    }


def write(made: ModelComparison, path: Path, per: str) -> Path:
    """See :meth:`ModelComparison.to_parquet`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if per not in PER:
        raise ConfigError(f"per {per!r} is not one of {list(PER)}.{nearest(per, PER)}")
    if per == "user":
        columns = _users(made)
    else:
        rows = list(_rows(made))
        columns = {
            "label": pa.array([r[0] for r in rows], pa.string()),
            "seed": pa.array([r[1] for r in rows], pa.int64()),
            "group": pa.array([r[2] for r in rows], pa.string()),
            "metric": pa.array([r[3] for r in rows], pa.string()),
            "kind": pa.array([r[4] for r in rows], pa.string()),
            "value": pa.array([r[5] for r in rows], pa.float64()),
            "n_users": pa.array([r[6] for r in rows], pa.int64()),
        }
    text = json.dumps(summary(made), allow_nan=False)
    with atomic_write(path) as file:
        pq.write_table(
            pa.table(columns).replace_schema_metadata({"graphrec_comparison": text}), file, compression="zstd"
        )
    return path


def _model(made: ModelComparison, result: Result) -> dict[str, Any]:
    about = dict(result.entries[0].about)
    told = {
        k: about[k] for k in ("model", "model_config", "train_config", "features", "dataset") if k in about
    }
    seconds = result.seconds()
    found: dict[str, Any] = _plain(
        {
            **told,
            "seeds": result.seeds,
            "runs": [str(e.about["path"]) for e in result.entries if "path" in e.about],
            "n_parameters": result.entries[0].n_parameters,
            "seconds": seconds.tolist(),
            "cold_items": result.cold_items,
            "metrics": {n: _numbers(result, n, "") for n in made.names},
            "groups": {
                group: {"n_users": len(part), **{n: _numbers(result, n, group) for n in made.names}}
                for group, part in result.report.groups.items()
            },
            "beyond": {
                n: {"values": result.values(n).tolist(), "mean": result.mean(n), "sd": result.sd(n)}
                for n in result.report.scalars
            },
        }
    )
    return found


def _numbers(result: Result, name: str, group: str) -> dict[str, Any]:
    interval = result.interval(name, group)
    return {
        "values": result.values(name, group).tolist(),
        "mean": result.mean(name, group),
        "sd": result.sd(name, group),
        "interval": None if interval is None else list(interval),
    }


def _rows(made: ModelComparison) -> Iterator[tuple[str, int | None, str, str, str, float | None, int]]:
    for label, result in made.results.items():
        for group in ("", *result.report.groups):
            part = result.part(group)
            assert part is not None
            for name in (*part.metrics, *part.scalars):
                values = result.values(name, group)
                for entry, value in zip(result.entries, values, strict=True):
                    yield label, entry.seed, group, name, "value", _number(value), len(part)
                interval = result.interval(name, group) if name in made.names else None
                over = {"mean": result.mean(name, group), "sd": result.sd(name, group)}
                if interval is not None:
                    over |= {"low": interval[0], "high": interval[1]}
                for kind, found in over.items():
                    if found is not None:
                        yield label, None, group, name, kind, _number(found), len(part)


def _users(made: ModelComparison) -> dict[str, Any]:
    parts = [
        (label, group, part)
        for label, result in made.results.items()
        for group in ("", *result.report.groups)
        if (part := result.part(group)) is not None
    ]
    lengths = [len(part) for _, _, part in parts]
    shared = [n for n in parts[0][2].metrics if all(n in part.metrics for _, _, part in parts)]

    def repeated(names: Iterable[str]) -> list[str]:
        return [name for name, length in zip(names, lengths, strict=True) for _ in range(length)]

    return {
        "label": repeated(label for label, _, _ in parts),
        "group": repeated(group for _, group, _ in parts),
        "user": np.concatenate([part.users for _, _, part in parts]),
        **{n: np.concatenate([part[n] for _, _, part in parts]) for n in shared},
    }


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _plain(value: Any) -> Any:
    """JSON-able, with None for what is not finite."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return _number(value)
    return value if isinstance(value, (str, int, bool, type(None))) else str(value)
