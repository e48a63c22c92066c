"""Disks that are full, read-only or closed to us: a clear error that names the file, and nothing is lost."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphrec.core import files
from graphrec.core.errors import GraphrecError
from graphrec.evaluation.report import Report
from graphrec.features import FeatureStore
from graphrec.graphs.knn import knn
from graphrec.models.mf import MF
from graphrec.runs import comparison as comparisons
from graphrec.runs.comparison.results import Entry, compare_reports
from graphrec.serving import Recommender
from graphrec.testing import communities

DATA, FEATURES = communities(2, 20)
FIELD, TABLE = next(iter(FEATURES.items()))
RECOMMENDER = Recommender.from_model(MF.build(DATA, None, MF.Config(dim=4)), DATA)


def report(name: str, shift: float) -> Report:
    values = np.linspace(0, 1, 20) + shift
    meta = {"model": name, "dataset": {"name": "d", "fingerprint": "f"}}
    return Report(np.arange(20), {"recall@5": values}, meta=meta)


def comparison() -> Any:
    entries = {"a": [Entry(report("a", 0.0))], "b": [Entry(report("b", 0.1))]}
    return compare_reports(entries, metric="recall@5", k=5, metrics=("recall",))


def export_faiss(folder: Path) -> object:
    pytest.importorskip("faiss")
    return RECOMMENDER.export_faiss(folder)


WRITERS: dict[str, Callable[[Path], object]] = {
    "dataset": lambda folder: DATA.save(folder),
    "report": lambda folder: report("a", 0.0).to_parquet(folder / "report.parquet"),
    "recommender": lambda folder: RECOMMENDER.save(folder),
    "recommendations": lambda folder: RECOMMENDER.export(folder / "recs.csv", k=2),
    "faiss": export_faiss,
    "features": lambda folder: FeatureStore(folder).save(DATA, FIELD, TABLE),
    "graph cache": lambda folder: knn(TABLE, 3, cache=folder),
    "comparison": lambda folder: comparisons.to_parquet(comparison(), folder / "numbers.parquet"),
}


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(".lock")
    }


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS], ids=errno.errorcode.get)
@pytest.mark.parametrize("writer", WRITERS)
def test_what_cannot_be_written_is_named_and_nothing_is_lost(
    writer: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The n-th flush fails, for every n, in an empty folder and over what was written before."""
    fsync = os.fsync
    write = WRITERS[writer]
    whole = tmp_path / "whole"
    write(whole)
    before = content(whole)
    left = 0

    def flush(handle: int) -> None:
        nonlocal left
        left -= 1
        if left < 0 and os.path.isfile(f"/proc/self/fd/{handle}"):
            raise OSError(code, os.strerror(code))
        fsync(handle)

    def refusal(folder: Path, flushes: int) -> str | None:
        """The error of a write whose flushes fail after some."""
        nonlocal left
        left = flushes
        with monkeypatch.context() as patched:
            patched.setattr(files.os, "fsync", flush)
            try:
                write(folder)
            except GraphrecError as error:
                return str(error)
        return None

    for n in range(30):
        place = tmp_path / f"empty-{n}"
        message = refusal(place, n)
        if message is None:
            break
        assert str(place) in message
        assert os.strerror(code) in message
        write(place)
        assert content(place).keys() == before.keys(), "a second try completes it"
        message = refusal(whole, n)
        assert message is None or str(whole) in message
        after = content(whole)
        assert {name: after.get(name) for name in before} == before
    assert 0 < n < 29
