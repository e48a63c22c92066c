"""Contributions to public repositories from published tables: people, files, time of the first contribution.

A gzipped table of ``user``, ``repo``, ``path``, ``first_ts`` and ``n_commits`` for each set of repositories:
FS is web development in Python (16 repositories), DB databases (4). The tables hold no file contents; the
words of the path take their place. Behavior in repositories follows from the contributions: people
contributed to a repository, to its tests, to its documentation.
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
from graphrec.data.repositories import OF, known_at_cut, path_words, tree_of

SOURCE = "https://github.com, mined from the histories of 20 projects (as graphrec data git does)"


def read(
    folder: Path,
    *,
    topic: Literal["FS", "DB"] = "FS",
    min_files: int = 3,
    split: Any = "time",
    k_core: int | tuple[int, int] = 0,
    seed: int = 0,
) -> Dataset:
    """Contributions to 20 Python projects, from their git histories (https://github.com).

    Args:
        folder: holds ``FS_contrib.tsv.gz`` and ``DB_contrib.tsv.gz``.
        topic: set of repositories.
        min_files: keep people who worked on at least so many files; with one time for all, before it.
        split: split of the contributions. With ``time`` or ``cut``, people and files are those before the
            first of their times; ``chronological`` splits each person's contributions.
        k_core: as in :meth:`Dataset.from_frame`.
        seed: of the split.
    """
    path = require_file(folder, f"{topic}_contrib.tsv.gz", "who worked on which file", SOURCE)
    frame = _table(path).with_columns(
        item=pl.col("repo") + "/" + pl.col("path"), time=pl.col("first_ts").cast(pl.Int64)
    )
    frame, split, left_out = known_at_cut(frame, split, str(path), min_files)
    data = Dataset.from_frame(
        frame,
        time="time",
        split=split,
        k_core=k_core,
        seed=seed,
        name=f"oss-contrib-{topic}",
        source=str(path),
    )
    names = sorted(frame["repo"].unique())
    index = {name: i for i, name in enumerate(names)}
    parts = [str(item).split("/") for item in data.items.ids]
    nodes, relations = tree_of([(index["/".join(p[:2])], p[2:]) for p in parts], names)
    paths = ["/".join(p[2:]) for p in parts]
    masks = {"contributed": np.ones(len(paths), dtype=bool)}
    for behavior, pattern in (("tested", TESTS), ("documented", DOCS)):
        masks[behavior] = np.array([bool(pattern.search(p.encode())) for p in paths])
    repository = relations[OF][1]
    for behavior, mask in masks.items():
        key: Relation = ("user", behavior, "repository")
        chosen = mask[data.train.items]
        relations[key] = sorted_edges([data.train.users[chosen], repository[data.train.items[chosen]]])
    words = Content("text", [path_words(p) for p in paths])
    meta = {**data.meta, **left_out}
    return replace(data, nodes=nodes, relations=relations, content={"path": words}, meta=meta)


def _table(path: Path) -> pl.DataFrame:
    names = ("user", "repo", "path", "first_ts", "n_commits")
    try:
        with gzip.open(path) as file:
            frame = pl.read_csv(file.read(), separator="\t", quote_char=None, infer_schema=False)
    except (OSError, EOFError, zlib.error, pl.exceptions.PolarsError) as cause:
        raise DataError(f"{path}: not a gzipped table of text ({cause}); fetch the file again") from cause
    if tuple(frame.columns) != names:
        raise DataError(f"{path}: columns {frame.columns}; expected {list(names)}")
    return frame
