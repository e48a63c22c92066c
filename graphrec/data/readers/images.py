"""Matches the images or sounds in a folder and its subfolders, named ``<item id>.<ext>``, to items.

The file names are looked up among the ids. Paths are never built from ids, so an id such as ``../secret``
refers to no file.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from graphrec.core.errors import DataError
from graphrec.data.content import Content
from graphrec.data.dataset import Dataset

SUFFIXES = frozenset({
    ".apng", ".avif", ".avifs", ".bmp", ".gif", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc", ".jpe",
    ".jpeg", ".jpf", ".jpg", ".jpx", ".mpo", ".pbm", ".pfm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff",
    ".webp",
})  # fmt: skip
"""Suffixes of the formats of images that extraction decodes."""
EXAMPLES = 3


class FileKind(NamedTuple):
    """A kind of content that is found by file names.

    Attributes:
        field: content field and kind.
        plural: what its files are called; key of the facts about a folder in a dataset's ``meta``.
        suffixes: suffixes of the formats that extraction decodes.
        examples: suffixes for messages.
    """

    field: str
    plural: str
    suffixes: frozenset[str]
    examples: str


IMAGES = FileKind("image", "pictures", SUFFIXES, ".jpg, .png")
SOUNDS = FileKind(
    "audio",
    "sounds",
    frozenset({".aif", ".aiff", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".wav"}),
    ".wav, .mp3",
)


def find_files(folder: Path, kind: FileKind) -> tuple[list[str], Counter[str]]:
    """The files of a kind in a folder and its subfolders.

    Hidden files and folders are passed over, links to folders are not followed.

    Returns:
        Paths of these files relative to ``folder``, with ``/``, sorted; and the number of other files by
        suffix.

    Raises:
        DataError: the folder is missing.
    """
    if not folder.is_dir():
        what = "not a folder" if folder.exists() else "no such folder"
        raise DataError(
            f"{folder}: {what}; expected {kind.plural} named <item id> with a suffix like {kind.examples}"
        )
    found = []
    others: Counter[str] = Counter()
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            path = os.path.join(place, name)
            if name.startswith(".") or not os.path.isfile(path):
                continue
            suffix = os.path.splitext(name)[1].lower()
            if suffix in kind.suffixes:
                found.append(Path(path).relative_to(folder).as_posix())
            else:
                others[suffix or "no suffix"] += 1
    return sorted(found), others


def match_images(folder: Path, ids: Sequence[str]) -> tuple[list[str | None], int]:
    """Finds the image of each item in a folder and its subfolders.

    An image belongs to the item whose id is its name without suffix, such as ``010/0108775015.jpg`` to
    ``0108775015``, or its path without suffix.

    Args:
        folder: contains the images; hidden and other files are ignored.
        ids: item ids, in vocabulary order.

    Returns:
        One path per item, relative to ``folder``, None where there is none; and the number of images that
        belong to no item.

    Raises:
        DataError: the folder is missing, or two images belong to one item.
    """
    images, _ = find_files(folder, IMAGES)
    files, strangers = _assign(folder, images, ids)
    return files, len(strangers)


def with_files(dataset: Dataset, folder: Path, kind: FileKind) -> Dataset:
    """Adds a folder's files of a kind as a content field.

    ``meta`` counts, under the kind's ``plural``, files of no item and files of other kinds, and names some.
    """
    found, others = find_files(folder, kind)
    files, strangers = _assign(folder, found, dataset.items.ids)
    facts: dict[str, object] = {}
    if strangers:
        facts["of no item"] = len(strangers)
        facts["such as"] = strangers[:EXAMPLES]
    if others:
        facts["other files"] = dict(sorted(others.items(), key=lambda pair: (-pair[1], pair[0])))
    extended = dataset.with_content(**{kind.field: Content(kind.field, files, folder)})
    return replace(extended, meta={**dataset.meta, kind.plural: facts}) if facts else extended


def _assign(folder: Path, paths: list[str], ids: Sequence[str]) -> tuple[list[str | None], list[str]]:
    """The file of each item, and the files of no item."""
    items = set(ids)
    path_of: dict[str, str] = {}
    strangers = []
    for path in paths:
        whole = os.path.splitext(path)[0]
        name = whole.rpartition("/")[2]
        item = name if name in items else whole
        if item not in items:
            strangers.append(path)
        elif item in path_of:
            raise DataError(
                f"{folder}: {path_of[item]!r} and {path!r} both belong to item {item!r}; remove one of "
                "them, or name a folder that holds one size"
            )
        else:
            path_of[item] = path
    return [path_of.get(item) for item in ids], strangers
