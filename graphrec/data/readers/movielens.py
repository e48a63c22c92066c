"""MovieLens latest-small with posters and side information.

Source: https://grouplens.org/datasets/movielens/latest/ (``ratings.csv``, ``movies.csv``). ``items.csv`` (one
row a film: title, year, genres, director, country, language, overview, actors, plot_keywords) and
``posters/<movieId>.jpg`` are an addition joined by the TMDB and IMDb ids of ``links.csv``; both are optional.
License: GroupLens terms, research use, cite Harper and Konstan 2015 (https://doi.org/10.1145/2827872), not
commercial. Posters are third-party artwork.
Counts: 610 users, 9,742 films, 100,836 ratings; with a rating of at least 4 and 5-core 601 x 1,955 x 41,227.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from graphrec.data import frames, from_frame
from graphrec.data.attributes import select_columns, with_attributes
from graphrec.data.dataset import Dataset
from graphrec.data.readers.files import first_row, join_columns, read_table, require_file
from graphrec.data.readers.images import IMAGES, with_files

SOURCE = "https://grouplens.org/datasets/movielens/latest/"
LIST_COLUMNS = ("genres", "actors", "plot_keywords")
TEXT_COLUMNS = ("title", "genres", "director", "overview", "plot_keywords")
ATTRIBUTES = ("genres", "director", "country", "language", "decade")
"""Available attributes; ``decade`` is derived from the column ``year``: 1994 becomes ``1990s``."""
SPELLINGS = {
    "United States of America": "USA", "United Kingdom": "UK", "Deutsch": "German", "Français": "French",
    "Italiano": "Italian", "Español": "Spanish", "Português": "Portuguese", "Český": "Czech",
    "Magyar": "Hungarian", "日本語": "Japanese", "普通话": "Mandarin", "广州话 / 廣州話": "Cantonese",
    "Pусский": "Russian", "العربية": "Arabic",
}  # fmt: skip
"""Maps TMDB's names of countries and languages to those of IMDb and OMDb; ``items.csv`` mixes the three."""


def read(
    folder: Path,
    *,
    min_rating: float = 4.0,
    k_core: int | tuple[int, int] = 5,
    split: Any = "random",
    seed: int = 0,
    text: list[str] | tuple[str, ...] = TEXT_COLUMNS,
    attributes: bool | str | list[str] | tuple[str, ...] | None = None,
    min_items: int = 2,
    cold_items: bool = False,
) -> Dataset:
    """MovieLens latest-small: ratings of at least 4, 5-core, split 8:1:1 at random by default.

    Args:
        folder: holds ``ratings.csv``, ``items.csv`` or ``movies.csv``, and ``posters/``.
        min_rating: keep ratings of at least this.
        k_core: minimum interactions per user and film, or a pair of the two.
        split: name or description of a split (see :mod:`graphrec.data.splits`).
        seed: random seed of the split.
        text: columns of the item table that are joined into the text; lists are joined with commas.
        attributes: which of :data:`ATTRIBUTES` to add, for conversations; True means all that the item
            table has (``movies.csv`` has only genres).
        min_items: minimum number of films with an attribute; rarer attributes are dropped.
        cold_items: keep the films that have no rating of at least ``min_rating``.

    Raises:
        ConfigError: unknown attribute.
        DataError: a file is missing or damaged, or a column does not exist.
    """
    ratings = require_file(folder, "ratings.csv", "userId, movieId, rating and timestamp", SOURCE)
    table = folder / "items.csv"
    if not table.exists():
        table = require_file(folder, "movies.csv", "movieId, title and genres", SOURCE)
        text = [name for name in text if name in ("title", "genres")] if tuple(text) == TEXT_COLUMNS else text
    plain = read_table(table)
    columns = _attribute_columns(attributes, plain)
    films = plain.with_columns(
        pl.col(name).replace("(no genres listed)", "").str.replace_all("|", ", ", literal=True)
        for name in LIST_COLUMNS
        if name in plain.columns
    )
    films = films.with_columns(join_columns(films, list(text), table).alias("composed text"))
    dataset = Dataset(**from_frame.parse(
        read_table(ratings), user="userId", item="movieId", time="timestamp", rating="rating",
        min_rating=min_rating, k_core=k_core, split=split, items=films, item_id="movieId",
        content={"text": ("text", "composed text")},
        cold_items=cold_items, seed=seed, name="movielens-small",
        source=str(ratings), first_row=first_row(ratings), items_source=str(table),
        items_first_row=first_row(table),
    ))  # fmt: skip
    if columns:
        dataset = with_attributes(
            dataset, _normalize_columns(plain, columns, table), "movieId", columns, min_items=min_items,
            source=str(table), first_row=first_row(table),
        )  # fmt: skip
    pictures = folder / "posters"
    return with_files(dataset, pictures, IMAGES) if pictures.exists() else dataset


def _attribute_columns(
    attributes: bool | str | list[str] | tuple[str, ...] | None, films: pl.DataFrame
) -> list[str]:
    if attributes is not True:
        return select_columns(attributes, ATTRIBUTES)
    available = {*films.columns, *(["decade"] if "year" in films.columns else [])}
    return [name for name in ATTRIBUTES if name in available]


def _normalize_columns(films: pl.DataFrame, columns: list[str], path: Path) -> pl.DataFrame:
    """The columns in a uniform form; the sources of the item table use different separators and names."""
    normalized = []
    for name in columns:
        values = frames.column(films, "year" if name == "decade" else name, str(path))
        if name == "decade":
            bad = ~values.str.contains(r"^([0-9]{4})?$")
            frames.refuse(
                bad, values, "year", "; expected four digits or an empty value", path, first_row(path)
            )
            values = values.str.replace(r"^([0-9]{3})[0-9]$", "${1}0s")
        elif name == "genres":
            values = values.replace("(no genres listed)", "")
        else:
            parts = values.str.replace_all(",", "|", literal=True).str.split("|")
            values = parts.list.eval(pl.element().str.strip_chars().replace(SPELLINGS))
        normalized.append(values.alias(name))
    return films.with_columns(normalized)
