"""A folder of pictures named after the items they show: ``<item id>.<ext>``.

The folder is listed and its names are looked up among the ids. Paths are never made from ids, so an id such
as ``../secret`` names no file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from graphrec.core.errors import DataError
from graphrec.data.content import Content
from graphrec.data.dataset import Dataset

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})


def match_images(folder: Path, ids: Sequence[str]) -> tuple[list[str | None], int]:
    """The picture of each item in a folder.

    Args:
        folder: holds the pictures; sub-folders and files that are no pictures are ignored.
        ids: item ids, in vocabulary order.

    Returns:
        One file name an item, relative to ``folder`` and None where there is none; and the number of pictures
        that belong to none of the items.

    Raises:
        DataError: the folder is missing, or two pictures bear one name.
    """
    if not folder.is_dir():
        what = "not a folder" if folder.exists() else "no such folder"
        raise DataError(f"{folder}: {what}; expected pictures named <item id>.jpg, .png or the like")
    found: dict[str, str] = {}
    for name in sorted(entry.name for entry in os.scandir(folder) if entry.is_file()):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() not in SUFFIXES or name.startswith("."):
            continue
        if stem in found:
            raise DataError(
                f"{folder}: {found[stem]!r} and {name!r} are both pictures of item {stem!r}; keep one of them"
            )
        found[stem] = name
    files = [found.get(item) for item in ids]
    return files, len(found) - sum(file is not None for file in files)


def with_pictures(dataset: Dataset, folder: Path) -> Dataset:
    """The dataset with a folder's pictures as the content field ``image``; unchanged without the folder."""
    if not folder.exists():
        return dataset
    files, _ = match_images(folder, dataset.items.ids)
    return dataset.with_content(image=Content("image", files, folder))
