"""Matches a folder of images named ``<item id>.<ext>`` to items.

The file names are looked up among the ids. Paths are never built from ids, so an id such as ``../secret``
refers to no file.
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
    """Finds the image of each item in a folder.

    Args:
        folder: contains the images; subfolders and other files are ignored.
        ids: item ids, in vocabulary order.

    Returns:
        One file name per item, relative to ``folder``, None where there is none; and the number of images
        that belong to no item.

    Raises:
        DataError: the folder is missing, or two images belong to one item.
    """
    if not folder.is_dir():
        what = "not a folder" if folder.exists() else "no such folder"
        raise DataError(f"{folder}: {what}; expected images named <item id>.jpg, .png or similar")
    name_of: dict[str, str] = {}
    for name in sorted(entry.name for entry in os.scandir(folder) if entry.is_file()):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() not in SUFFIXES or name.startswith("."):
            continue
        if stem in name_of:
            raise DataError(
                f"{folder}: {name_of[stem]!r} and {name!r} are both images of item {stem!r}; remove one of "
                "them"
            )
        name_of[stem] = name
    files = [name_of.get(item) for item in ids]
    return files, len(name_of) - sum(file is not None for file in files)


def with_pictures(dataset: Dataset, folder: Path) -> Dataset:
    """Adds a folder's images as the content field ``image``."""
    files, _ = match_images(folder, dataset.items.ids)
    return dataset.with_content(image=Content("image", files, folder))
