"""X-Wines Slim: wine ratings with grapes, food, body, region; label photos of a tenth of the wines.

Source: https://github.com/rogerioxavier/X-Wines. License: CC0 1.0; the author asks to cite "X-Wines: A Wine
Dataset for Recommender Systems and Machine Learning" (https://doi.org/10.3390/bdcc7010020).
Counts: 10,561 users, 1,007 wines, 150,000 ratings (1 to 5, 2012 to 2021); 100 photos.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import polars as pl

from graphrec.core.errors import DataError
from graphrec.data import frames, from_frame
from graphrec.data.attributes import select_columns, with_attributes
from graphrec.data.dataset import Dataset
from graphrec.data.readers.files import first_row, read_table, require_file
from graphrec.data.readers.images import IMAGES, with_files

SOURCE = "https://github.com/rogerioxavier/X-Wines"
TEXT_TEMPLATES = {
    "WineName": "{}.",
    "Type": "{} wine.",
    "Grapes": "Grapes: {}.",
    "Harmonize": "Goes with {}.",
    "Body": "{}.",
    "Acidity": "Acidity: {}.",
    "Country": "{}.",
    "RegionName": "{}.",
    "WineryName": "Winery: {}.",
}
ATTRIBUTES = ("Type", "Grapes", "Body", "Acidity", "Country", "RegionName", "Harmonize")
"""Available attributes; ``Harmonize`` is the food a wine goes with."""
LIST_COLUMNS = ("Grapes", "Harmonize")


def read(
    folder: Path,
    *,
    min_rating: float = 4.0,
    k_core: int | tuple[int, int] = 5,
    split: Any = "random",
    seed: int = 0,
    attributes: bool | str | list[str] | tuple[str, ...] | None = None,
    min_items: int = 2,
    cold_items: bool = False,
) -> Dataset:
    """X-Wines Slim: ratings of at least 4, 5-core, split 8:1:1 at random by default.

    Args:
        folder: holds ``XWines_Slim_150K_ratings.csv``, ``XWines_Slim_1K_wines.csv`` and
            ``images/<WineID>.jpeg``.
        min_rating: keep ratings of at least this.
        k_core: minimum interactions per user and wine, or a pair of the two.
        split: name or description of a split (see :mod:`graphrec.data.splits`).
        seed: random seed of the split.
        attributes: which of :data:`ATTRIBUTES` to add, for conversations; True means all.
        min_items: minimum number of wines with an attribute; rarer attributes are dropped.
        cold_items: keep the wines that have no rating of at least ``min_rating``.

    Raises:
        ConfigError: unknown attribute.
        DataError: a file is missing or damaged.
    """
    columns = select_columns(attributes, ATTRIBUTES)
    ratings = require_file(folder, "XWines_Slim_150K_ratings.csv", "UserID, WineID, Rating and Date", SOURCE)
    table = require_file(folder, "XWines_Slim_1K_wines.csv", "one row a wine", SOURCE)
    wines = read_table(table)
    dataset = Dataset(**from_frame.parse(
        read_table(ratings), user="UserID", item="WineID", time="Date", rating="Rating",
        min_rating=min_rating, k_core=k_core, split=split, items=_with_text(wines, table),
        item_id="WineID", content={"text": ("text", "composed text")},
        cold_items=cold_items, seed=seed, name="xwines",
        source=str(ratings), first_row=first_row(ratings), items_source=str(table),
        items_first_row=first_row(table),
    ))  # fmt: skip
    if columns:
        lists = {name: _list_column(wines, name, table) for name in LIST_COLUMNS if name in columns}
        dataset = with_attributes(
            dataset, wines.with_columns(**lists), "WineID", columns, separator=None, min_items=min_items,
            source=str(table), first_row=first_row(table),
        )  # fmt: skip
    pictures = folder / "images"
    return with_files(dataset, pictures, IMAGES) if pictures.exists() else dataset


def _with_text(wines: pl.DataFrame, path: Path) -> pl.DataFrame:
    parts = []
    for name, template in TEXT_TEMPLATES.items():
        values = frames.column(wines, name, str(path))
        if name in LIST_COLUMNS:
            values = _list_column(wines, name, path).list.join(", ")
        before, after = template.split("{}")
        part = pl.when(values != "").then(pl.lit(before) + pl.lit(values) + pl.lit(after)).otherwise(None)
        parts.append(part.alias(name))
    return wines.with_columns(pl.concat_str(parts, separator=" ", ignore_nulls=True).alias("composed text"))


def _list_column(wines: pl.DataFrame, name: str, path: Path) -> pl.Series:
    """A column of list literals, parsed to lists of text."""
    literals = frames.column(wines, name, str(path))
    return pl.Series(
        name, [_parse_list(v, row, path) for row, v in enumerate(literals, start=2)], pl.List(pl.String)
    )


def _parse_list(value: str, row: int, path: Path) -> list[str]:
    """Parses a list literal such as ``"['Beef', 'Lamb']"``."""
    try:
        listed = ast.literal_eval(value) if value else []
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        listed = None
    if not (isinstance(listed, list) and all(isinstance(part, str) for part in listed)):
        raise DataError(
            f"{path}, row {row}: {frames.quoted(value)}; expected a list such as ['Beef', 'Lamb']"
        )
    return listed
