"""Contributions to files of public repositories, mined beforehand: people, files, first times.

A gzipped table of ``user``, ``repo``, ``path``, ``first_ts`` and ``n_commits`` for each set of repositories;
FS is web development in Python (16 repositories), DB databases (4). There are no contents: the words of the
path stand in for them. What people did in repositories is what the contributions tell: who contributed to it
at all, to its tests, to its documentation.
"""

from __future__ import annotations

import gzip
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from graphrec.core.errors import DataError
from graphrec.data.attributes import sorted_edges
from graphrec.data.content import Content
from graphrec.data.dataset import Dataset, Relation
from graphrec.data.git.paths import DOCS, TESTS
from graphrec.data.readers.files import require_file
from graphrec.data.repositories import OF, path_words, tree_of

SOURCE = "https://github.com, mined from the histories of 20 projects (graphrec data git does the like)"


def read(
    folder: Path,
    *,
    topic: Literal["FS", "DB"] = "FS",
    min_files: int = 3,
    split: Any = "chronological",
    k_core: int | tuple[int, int] = 0,
    seed: int = 0,
) -> Dataset:
    """Contributions to 20 Python projects, from their git histories (https://github.com).

    Args:
        folder: with ``FS_contrib.tsv.gz`` and ``DB_contrib.tsv.gz``.
        topic: which set.
        min_files: keep people who worked on so many files at least.
        split: of the contributions.
        k_core: as in :meth:`Dataset.from_frame`.
        seed: of the split.
    """
    path = require_file(folder, f"{topic}_contrib.tsv.gz", "who worked on which file", SOURCE)
    frame = _table(path).with_columns(
        item=pl.col("repo") + "/" + pl.col("path"), time=pl.col("first_ts").cast(pl.Int64)
    )
    frame = frame.filter(pl.len().over("user") >= min_files)
    data = Dataset.from_frame(
        frame, user="user", item="item", time="time", split=split, k_core=k_core, seed=seed,
        name=f"oss-contrib-{topic}", source=str(path),
    )  # fmt: skip
    names = sorted(frame["repo"].unique())
    at = {name: i for i, name in enumerate(names)}
    parts = [str(item).split("/") for item in data.items.ids]
    nodes, relations = tree_of([(at["/".join(p[:2])], p[2:]) for p in parts], names)
    paths = ["/".join(p[2:]) for p in parts]
    kinds = {"contributed": np.ones(len(paths), dtype=bool)}
    for did, pattern in (("tested", TESTS), ("documented", DOCS)):
        kinds[did] = np.array([bool(pattern.search(p.encode())) for p in paths])
    repository = relations[OF][1]
    for did, which in kinds.items():
        key: Relation = ("user", did, "repository")
        some = which[data.train.items]
        relations[key] = sorted_edges([data.train.users[some], repository[data.train.items[some]]])
    words = Content("text", [path_words(p) for p in paths])
    return replace(data, nodes=nodes, relations=relations, content={"path": words})


def _table(path: Path) -> pl.DataFrame:
    names = ("user", "repo", "path", "first_ts", "n_commits")
    try:
        with gzip.open(path) as file:
            frame = pl.read_csv(file.read(), separator="\t", quote_char=None, infer_schema=False)
    except (OSError, EOFError, zlib.error, pl.exceptions.PolarsError) as cause:
        raise DataError(f"{path}: not a gzipped table of text ({cause}); get it anew") from cause
    if tuple(frame.columns) != names:
        raise DataError(f"{path}: columns {frame.columns}; expected {list(names)}")
    return frame
