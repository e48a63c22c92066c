"""Your own data: a table of interactions and, if there is one, a table of items and a folder of pictures.

Files may be CSV, TSV, JSON Lines, Parquet or Arrow. Their columns are named by options; nothing is guessed.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import polars as pl

from graphrec.core.errors import ConfigError, DataError
from graphrec.data import from_frame
from graphrec.data.attributes import with_attributes
from graphrec.data.content import Content
from graphrec.data.dataset import Dataset
from graphrec.data.readers.files import first_row, read_table, sentences
from graphrec.data.readers.images import match_images


def read(
    folder: Path,
    *,
    interactions: str | Path = "interactions.csv",
    user: str = "user",
    item: str = "item",
    time: str | None = None,
    rating: str | None = None,
    min_rating: float | None = None,
    k_core: int | tuple[int, int] = 0,
    split: Any = "random",
    seed: int = 0,
    items: str | Path | None = None,
    item_id: str | None = None,
    text: str | list[str] | tuple[str, ...] | None = None,
    image: str | None = None,
    images: str | Path | None = None,
    attributes: str | list[str] | tuple[str, ...] | None = None,
    separator: str = "|",
    min_items: int = 2,
    max_share: float | None = None,
    name: str | None = None,
) -> Dataset:
    """Reads interactions, and item content where it is named.

    Args:
        folder: what relative paths are relative to.
        interactions: file with one row an interaction.
        user: its column of user ids.
        item: its column of item ids.
        time: its column of times, if any: seconds, dates or date-times.
        rating: its column of ratings, if any; only ``min_rating`` uses it.
        min_rating: keep rows with at least this rating.
        k_core: least interactions per user and item, or a pair of the two; 0 keeps all.
        split: a split's name or description (see :mod:`graphrec.data.splits`), or the column that holds
            ``train``, ``valid``, ``test`` or 0, 1, 2.
        seed: of the split.
        items: file with one row an item.
        item_id: its column of item ids; default: the name that ``item`` has.
        text: its column, or columns, that are joined into the item's text.
        image: its column of picture paths, relative to the item file's folder.
        images: folder of pictures named ``<item id>.<ext>``, instead of ``image``.
        attributes: its column, or columns, of attributes to converse about (see
            :func:`~graphrec.data.attributes.with_attributes`).
        separator: stands between several attributes in one text; lists need none.
        min_items: least items that have an attribute; rarer ones are left out.
        max_share: largest share of the items that have an attribute; commoner ones are left out.
        name: the dataset's name; default: the name of the interaction file.

    Raises:
        ConfigError: ``text``, ``image`` or ``attributes`` without ``items``, both ``image`` and ``images``,
            or a limit on attributes that is out of range.
        DataError: a file is missing or damaged, a column does not exist, or a value is unusable; names file
            and row.
    """
    if items is None and any(given is not None for given in (text, image, item_id, attributes)):
        raise ConfigError(
            "text=, image=, item_id= and attributes= name columns of the item table; name that with items="
        )
    if image is not None and images is not None:
        raise ConfigError("image= names a column of paths and images= a folder; give one of them")
    path = folder / interactions
    frame = read_table(path)
    content: dict[str, tuple[str, str]] = {}
    item_frame, item_path = None, path
    if items is not None:
        item_path = folder / items
        item_frame = read_table(item_path)
        if text is not None:
            columns = [text] if isinstance(text, str) else list(text)
            item_frame = item_frame.with_columns(
                sentences(item_frame, columns, item_path).alias("composed text")
            )
            content["text"] = ("text", "composed text")
        if image is not None:
            item_frame = item_frame.with_columns(_paths(item_frame, image, item_path).alias("image path"))
            content["image"] = ("image", "image path")
    dataset = Dataset(**from_frame.parse(
        frame, user=user, item=item, time=time, rating=rating, min_rating=min_rating, k_core=k_core,
        split=split, items=item_frame, item_id=item_id, content=content, root=item_path.parent, seed=seed,
        name=name or path.stem, source=str(path), first_row=first_row(path), items_source=str(item_path),
        items_first_row=first_row(item_path),
    ))  # fmt: skip
    if attributes is not None and item_frame is not None:
        dataset = with_attributes(
            dataset, item_frame, item_id or item, attributes, separator=separator, min_items=min_items,
            max_share=max_share, source=str(item_path), first_row=first_row(item_path),
        )  # fmt: skip
    if images is not None:
        files, _ = match_images(folder / images, dataset.items.ids)
        dataset = dataset.with_content(image=Content("image", files, folder / images))
    _any_picture(dataset)
    return dataset


def _paths(frame: pl.DataFrame, name: str, source: Path) -> pl.Series:
    """The column of picture paths; one that leads out of the folder is refused."""
    paths = from_frame.column(frame, name, str(source))
    if paths.dtype not in (pl.String, pl.Null) and not isinstance(paths.dtype, (pl.Categorical, pl.Enum)):
        raise DataError(f"{source}: picture column {name!r} has type {paths.dtype}; expected paths as text")
    paths = paths.cast(pl.String).replace("", None)
    suspect = paths.str.contains(r"(^[/\\~])|(^[A-Za-z]:)|(\.\.)").fill_null(False)
    for row in suspect.arg_true().to_list():
        value = str(paths[row])
        parts = (*PurePosixPath(value).parts, *PureWindowsPath(value).parts)
        if ".." in parts or PurePosixPath(value).is_absolute() or PureWindowsPath(value).anchor:
            raise DataError(
                f"{source}, row {row + first_row(source)}: picture path {value!r}; expected a path "
                f"inside the item "
                "file's folder, relative to it"
            )
    return paths


def _any_picture(dataset: Dataset) -> None:
    """Single gaps show when features are extracted; if all pictures are missing, the folder is wrong."""
    if "image" not in dataset.content:
        return
    pictures = dataset.content["image"]
    if not pictures.n_present:
        raise DataError(
            f"{dataset.name}: none of the {len(pictures):,} items has a picture; check the picture "
            f"column or that "
            f"the files in {pictures.root} are named <item id>.<ext>"
        )
    paths = (pictures.path(index) for index in range(len(pictures)))
    if not any(path is not None and os.path.isfile(path) for path in paths):
        first = next(v for v in pictures if v is not None)
        raise DataError(
            f"{dataset.name}: none of the named pictures exists, first {first!r} in {pictures.root}; "
            f"expected "
            "paths relative to that folder"
        )
