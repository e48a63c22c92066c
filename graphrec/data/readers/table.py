"""Reader of your own data: a table of interactions and optionally a table of items and a folder of images.

Files may be CSV, TSV, JSON Lines, Parquet or Arrow. Columns are set by options; nothing is guessed.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import polars as pl

from graphrec.core.errors import ConfigError, DataError
from graphrec.data import from_frame
from graphrec.data.attributes import with_attributes
from graphrec.data.dataset import Dataset
from graphrec.data.readers.files import first_row, join_columns, read_table
from graphrec.data.readers.images import SUFFIXES, with_pictures


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
    image_root: str | Path | None = None,
    attributes: str | list[str] | tuple[str, ...] | None = None,
    separator: str = "|",
    min_items: int = 2,
    max_share: float | None = None,
    name: str | None = None,
) -> Dataset:
    """Reads interactions and the selected item content.

    Args:
        folder: base of relative paths.
        interactions: file with one row per interaction.
        user: column of user ids.
        item: column of item ids.
        time: column of times: seconds, dates or datetimes.
        rating: column of ratings; used by ``min_rating`` only.
        min_rating: keep rows with at least this rating.
        k_core: minimum interactions per user and item, or a pair of the two; 0 keeps all.
        split: name or description of a split (see :mod:`graphrec.data.splits`), or a column that holds
            ``train``, ``valid``, ``test`` or 0, 1, 2.
        seed: random seed of the split.
        items: file with one row per item.
        item_id: column of item ids in ``items``; default: the name ``item``.
        text: column or columns of ``items`` that are joined into the item's text.
        image: column of image paths in ``items``, relative to ``image_root`` or absolute paths inside it;
            backslashes separate folders as well.
        images: folder of images named ``<item id>.<ext>``, subfolders included, instead of ``image``.
        image_root: folder of the paths of ``image``; default: the folder of ``items``.
        attributes: attribute column or columns of ``items``, for conversations (see
            :func:`~graphrec.data.attributes.with_attributes`).
        separator: separates several attributes in one text; lists need none.
        min_items: minimum number of items with an attribute; rarer attributes are dropped.
        max_share: maximum share of the items with an attribute; more frequent ones are dropped.
        name: name of the dataset; default: the name of the interaction file.

    Raises:
        ConfigError: ``text``, ``image`` or ``attributes`` without ``items``, both ``image`` and ``images``,
            or a limit on attributes out of range.
        DataError: a file is missing or damaged, a column does not exist, or a value is invalid; the message
            names file and row.
    """
    if items is None and any(given is not None for given in (text, image, item_id, attributes)):
        raise ConfigError(
            "text=, image=, item_id= and attributes= are columns of the item table; set its file with items="
        )
    if image is not None and images is not None:
        raise ConfigError("image= is a column of paths and images= a folder; use one of them")
    if image_root is not None and image is None:
        raise ConfigError("image_root= is the folder of a column of paths; set the column with image=")
    path = folder / interactions
    frame = read_table(path)
    content: dict[str, tuple[str, str]] = {}
    item_frame, item_path = None, path
    pictures = folder / image_root if image_root is not None else (folder / (items or interactions)).parent
    if image_root is not None and not pictures.is_dir():
        raise DataError(f"{pictures}: no such folder; expected the folder of the image paths (image_root=)")
    if items is not None:
        item_path = folder / items
        item_frame = read_table(item_path)
        if text is not None:
            columns = [text] if isinstance(text, str) else list(text)
            item_frame = item_frame.with_columns(
                join_columns(item_frame, columns, item_path).alias("composed text")
            )
            content["text"] = ("text", "composed text")
        if image is not None:
            item_frame = item_frame.with_columns(
                _picture_paths(item_frame, image, item_path, pictures).alias("image path")
            )
            content["image"] = ("image", "image path")
    dataset = Dataset(**from_frame.parse(
        frame, user=user, item=item, time=time, rating=rating, min_rating=min_rating, k_core=k_core,
        split=split, items=item_frame, item_id=item_id, content=content, root=pictures, seed=seed,
        name=name or path.stem, source=str(path), first_row=first_row(path), items_source=str(item_path),
        items_first_row=first_row(item_path),
    ))  # fmt: skip
    if attributes is not None and item_frame is not None:
        dataset = with_attributes(
            dataset, item_frame, item_id or item, attributes, separator=separator, min_items=min_items,
            max_share=max_share, source=str(item_path), first_row=first_row(item_path),
        )  # fmt: skip
    if images is not None:
        dataset = with_pictures(dataset, folder / images)
    _require_some_picture(dataset)
    return dataset


def _picture_paths(frame: pl.DataFrame, name: str, source: Path, root: Path) -> pl.Series:
    """The column of image paths, relative to ``root``; a path outside it is refused."""
    paths = from_frame.column(frame, name, str(source))
    if not isinstance(paths.dtype, (*from_frame.TEXT_TYPES, pl.Null)):
        raise DataError(f"{source}: image column {name!r} has type {paths.dtype}; expected paths as text")
    paths = paths.cast(pl.String).replace("", None)
    # Windows' separator; a file whose name holds a backslash is not found.
    changed = paths.str.replace_all("\\", "/", literal=True).to_list()
    suspect = paths.str.contains(r"(^[/\\~])|(^[A-Za-z]:)|(\.\.)").fill_null(False)
    for row in suspect.arg_true().to_list():
        path = PurePosixPath(changed[row])
        if path.is_absolute() and ".." not in path.parts:
            for folder in (root.absolute(), root.resolve()):
                if path.is_relative_to(folder.as_posix()):
                    path = path.relative_to(folder.as_posix())
                    changed[row] = path.as_posix()
        if ".." in path.parts or path.is_absolute() or PureWindowsPath(str(path)).anchor:
            raise DataError(
                f"{source}, row {row + first_row(source)}: image path {paths[row]!r}; expected a path inside "
                f"{root}, relative to it or absolute; name the folder of the images with image_root="
            )
    return pl.Series(paths.name, changed, dtype=pl.String)


def _require_some_picture(dataset: Dataset) -> None:
    """Refuses a dataset without any image file; single missing files are reported during extraction."""
    if "image" not in dataset.content:
        return
    pictures = dataset.content["image"]
    if not pictures.n_present:
        found = dict(dataset.meta.get("pictures", {}))
        raise DataError(
            f"{dataset.name}: none of the {len(pictures):,} items has an image; check the image column, or "
            f"that the files in {pictures.root} are named <item id>.<ext>, with a suffix of "
            f"{sorted(SUFFIXES)}" + (f"; found {found}" if found else "")
        )
    paths = (pictures.path(index) for index in range(len(pictures)))
    if not any(path is not None and os.path.isfile(path) for path in paths):
        first = next(v for v in pictures if v is not None)
        raise DataError(
            f"{dataset.name}: none of the image files exists, the first is {first!r} in {pictures.root}; "
            "expected paths relative to that folder"
        )
