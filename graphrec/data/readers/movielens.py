"""MovieLens latest-small with posters and side information.

Source: https://grouplens.org/datasets/movielens/latest/ (``ratings.csv``, ``movies.csv``). ``items.csv`` (one
row a film: title, year, genres, director, country, language, overview, actors, plot_keywords) and
``posters/<movieId>.jpg`` are an addition joined by the TMDB and IMDb ids of ``links.csv``; both are optional.
Licence: GroupLens terms, research use, cite Harper and Konstan 2015 (https://doi.org/10.1145/2827872), not
commercial. Posters are third-party artwork.
Counts: 610 users, 9,742 films, 100,836 ratings; with a rating of at least 4 and 5-core 601 x 1,955 x 41,227.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from graphrec.data import frames
from graphrec.data.dataset import Dataset
from graphrec.data.readers.files import find, first_row, read_table, sentences
from graphrec.data.readers.images import with_pictures

SOURCE = "https://grouplens.org/datasets/movielens/latest/"
LISTS = ("genres", "actors", "plot_keywords")
TEXT = ("title", "genres", "director", "overview", "plot_keywords")


def read(
    folder: Path,
    *,
    min_rating: float = 4.0,
    k_core: int | tuple[int, int] = 5,
    split: Any = "random",
    seed: int = 0,
    text: list[str] | tuple[str, ...] = TEXT,
) -> Dataset:
    """MovieLens latest-small: ratings of at least 4, 5-core, split 8:1:1 at random by default.

    Args:
        folder: holds ``ratings.csv``, ``items.csv`` or ``movies.csv``, and ``posters/``.
        min_rating: keep ratings of at least this.
        k_core: least interactions per user and film, or a pair of the two.
        split: a split's name or description (see :mod:`graphrec.data.splits`).
        seed: of the split.
        text: columns of the item table that are joined into the text; lists are written with commas.

    Raises:
        DataError: a file is missing or damaged, or a column does not exist.
    """
    ratings = find(folder, "ratings.csv", "userId, movieId, rating and timestamp", SOURCE)
    table = folder / "items.csv"
    if not table.exists():
        table = find(folder, "movies.csv", "movieId, title and genres", SOURCE)
        text = [name for name in text if name in ("title", "genres")] if tuple(text) == TEXT else text
    films = read_table(table)
    films = films.with_columns(
        pl.col(name).replace("(no genres listed)", "").str.replace_all("|", ", ", literal=True)
        for name in LISTS
        if name in films.columns
    )
    films = films.with_columns(sentences(films, list(text), table).alias("composed text"))
    dataset = frames.build(
        read_table(ratings), user="userId", item="movieId", time="timestamp", rating="rating",
        min_rating=min_rating, k_core=k_core, split=split, items=films, item_id="movieId",
        content={"text": ("text", "composed text")}, root=None, seed=seed, name="movielens-small",
        source=str(ratings), first_row=first_row(ratings), items_source=str(table),
        items_first_row=first_row(table),
    )  # fmt: skip
    return with_pictures(dataset, folder / "posters")
