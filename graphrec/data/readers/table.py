"""Reader of your own data: a table of interactions and optionally a table of items and folders of images
and sounds.

Files may be CSV, TSV, other delimited text, JSON Lines, Parquet or Arrow. Columns are set by options.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal, NamedTuple

import polars as pl

from graphrec.core.errors import ConfigError, DataError
from graphrec.data import frames, from_frame
from graphrec.data.attributes import with_attributes
from graphrec.data.content import TITLE_FIELD
from graphrec.data.dataset import Dataset
from graphrec.data.readers.delimited import TextFormat
from graphrec.data.readers.files import first_row, join_columns, read_table, without_html
from graphrec.data.readers.images import IMAGES, SOUNDS, FileKind, with_files

SPLIT_COLUMN = "split by file"
"""Column of interactions from several files that holds the part each row belongs to."""
FOLDER_OPTIONS = {"image": "images", "audio": "sounds"}
"""Kind of content -> the option that names a folder of its files."""


class _Files(NamedTuple):
    """The options that say where the files of a kind are."""

    kind: FileKind
    column: str | None
    folder: str | Path | None
    root: str | Path | None

    def check(self) -> None:
        """Refuses options that contradict each other.

        Raises:
            ConfigError: two of them do.
        """
        field, folder = self.kind.field, FOLDER_OPTIONS[self.kind.field]
        if self.column is not None and self.folder is not None:
            raise ConfigError(f"{field}= is a column of paths and {folder}= a folder; use one of them")
        if self.root is not None and self.column is None:
            raise ConfigError(
                f"{field}_root= is the folder of a column of paths; set the column with {field}="
            )

    def find_root(self, folder: Path, table: str | Path) -> Path:
        """The folder that paths in the column are relative to; ``table`` is the file with the column.

        Raises:
            DataError: it does not exist.
        """
        if self.root is None:
            return (folder / table).parent
        root = folder / self.root
        if not root.is_dir():
            raise DataError(
                f"{root}: no such folder; expected the folder of the {self.kind.field} paths "
                f"({self.kind.field}_root=)"
            )
        return root


def read(
    folder: Path,
    *,
    interactions: str | Path = "interactions.csv",
    user: str = "user",
    item: str = "item",
    time: str | None = None,
    time_unit: Literal["s", "ms", "us", "ns"] | None = None,
    time_format: str | None = None,
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
    audio: str | None = None,
    sounds: str | Path | None = None,
    audio_root: str | Path | None = None,
    attributes: str | list[str] | tuple[str, ...] | None = None,
    separator: str = "|",
    min_items: int = 2,
    max_share: float | None = None,
    name: str | None = None,
    delimiter: str | None = None,
    quote: bool | None = None,
    escape: str | None = None,
    encoding: str = "utf-8",
    comment: str | None = None,
    columns: list[str] | tuple[str, ...] | None = None,
    clean: bool = False,
    cold_items: bool | None = None,
    valid: str | Path | None = None,
    test: str | Path | None = None,
    title: str | None = None,
) -> Dataset:
    """Reads interactions and the selected item content.

    Args:
        folder: base of relative paths.
        interactions: file with one row per interaction.
        valid: file of the validation interactions, with the columns of ``interactions``, which is then the
            train part; instead of ``split``. It may be left out, and so may ``test``.
        test: file of the test interactions, likewise.
        user: column of user ids.
        item: column of item ids.
        time: column of times: numbers, dates or datetimes.
        time_unit: unit of numeric times, ``s``, ``ms``, ``us`` or ``ns``; default: recognized.
        time_format: format of dates other than ISO 8601, such as ``%m/%d/%Y %H:%M``.
        rating: column of ratings; used by ``min_rating`` only.
        min_rating: keep rows with at least this rating.
        k_core: minimum interactions per user and item, or a pair of the two; 0 keeps all.
        split: name or description of a split (see :mod:`graphrec.data.splits`), or a column that holds
            ``train``, ``valid``, ``test`` or 0, 1, 2.
        seed: random seed of the split.
        items: file with one row per item.
        item_id: column of item ids in ``items``; default: the name ``item``.
        text: column or columns of ``items`` that are joined into the item's text.
        title: column of ``items`` with the titles that people see (content field ``title``); default: the
            first sentence of the text.
        image: column of image paths in ``items``, relative to ``image_root`` or absolute paths inside it;
            backslashes separate folders as well.
        images: folder of images named ``<item id>.<ext>``, subfolders included, instead of ``image``.
        image_root: folder of the paths of ``image``; default: the folder of ``items``.
        audio: column of paths of sound files in ``items``, as ``image`` is of pictures.
        sounds: folder of sounds named ``<item id>.<ext>``, subfolders included, instead of ``audio``.
        audio_root: folder of the paths of ``audio``; default: the folder of ``items``.
        attributes: attribute column or columns of ``items``, for conversations (see
            :func:`~graphrec.data.attributes.with_attributes`).
        separator: separates several attributes in one text; lists need none.
        min_items: minimum number of items with an attribute; rarer attributes are dropped.
        max_share: maximum share of the items with an attribute; more frequent ones are dropped.
        name: name of the dataset; default: the name of the interaction file's folder.
        delimiter: between the fields of delimited files, such as ``;`` or ``::``; default: by the suffix, and
            in ``.txt`` and ``.dat`` files recognized.
        quote: fields may be in double quotes; default: in ``.csv`` and ``.tsv`` files.
        escape: what a quote inside quotes is preceded by if it is not doubled, such as a backslash.
        encoding: of delimited files, such as ``latin-1``.
        comment: lines of delimited files that begin with this are left out, such as ``#``.
        columns: column names of an interaction file without a header line.
        clean: remove HTML tags from the text and replace entities such as ``&amp;``.
        cold_items: keep the items of ``items`` that have no interactions; default: keep them unless
            ``k_core`` asks for items with at least two interactions.

    Raises:
        ConfigError: ``text``, ``image``, ``audio`` or ``attributes`` without ``items``, both ``image`` and
            ``images``, both ``audio`` and ``sounds``, or a limit on attributes out of range.
        DataError: a file is missing or damaged, a column does not exist, or a value is invalid; the message
            names file and row.
    """
    if items is None and any(given is not None for given in (text, image, audio, item_id, attributes, title)):
        raise ConfigError(
            "text=, title=, image=, audio=, item_id= and attributes= are columns of the item table; set its "
            "file with items="
        )
    files = (_Files(IMAGES, image, images, image_root), _Files(SOUNDS, audio, sounds, audio_root))
    for given in files:
        given.check()
    path = folder / interactions
    if not path.exists():
        raise DataError(
            f"{path}: no such file; name the file with one row per interaction: interactions=FILE (--set "
            f"interactions=FILE for the commands data and features, --set data.interactions=FILE for train)"
        )
    plain = TextFormat(delimiter, quote, escape, encoding, comment)
    with_names = plain if columns is None else replace(plain, columns=tuple(columns))
    used = [name for name in (user, item, time, rating, split) if isinstance(name, str)]
    frame = read_table(path, with_names, used, (user, item))
    if valid is not None or test is not None:
        held_out = {name: folder / file for name, file in (("valid", valid), ("test", test)) if file}
        frame = _with_held_out(frame, path, held_out, with_names, (user, item), (time, rating), split)
        split = SPLIT_COLUMN
    content: dict[str, tuple[str, str]] = {}
    item_frame, item_path = None, path
    roots = {given.kind.field: given.find_root(folder, items or interactions) for given in files}
    if items is not None:
        item_path = folder / items
        used = [item_id or item, *_names(text), *_names(title), *_names(image), *_names(audio)]
        used += _names(attributes)
        item_frame = read_table(item_path, plain, used, used[:1])
        if text is not None:
            joined = join_columns(item_frame, _names(text), item_path)
            joined = without_html(joined) if clean else joined
            item_frame = item_frame.with_columns(joined.alias("composed text"))
            content["text"] = ("text", "composed text")
        if title is not None:
            named = frames.column(item_frame, title, str(item_path)).cast(pl.String).str.strip_chars()
            named = without_html(named) if clean else named
            item_frame = item_frame.with_columns(named.alias("own title"))
            content[TITLE_FIELD] = ("text", "own title")
        for kind, column, _, _ in files:
            if column is not None:
                found = _paths(item_frame, column, item_path, roots[kind.field], kind)
                item_frame = item_frame.with_columns(found.alias(f"{kind.field} path"))
                content[kind.field] = (kind.field, f"{kind.field} path")
    dataset = Dataset(**from_frame.parse(
        frame, user=user, item=item, time=time, time_unit=time_unit, time_format=time_format, rating=rating,
        min_rating=min_rating, k_core=k_core, split=split, items=item_frame, item_id=item_id,
        content=content, cold_items=cold_items, root=roots, seed=seed,
        name=name or path.absolute().parent.name or path.stem,
        source=str(path), first_row=first_row(path, with_names),
        items_source=str(item_path), items_first_row=first_row(item_path),
    ))  # fmt: skip
    if attributes is not None and item_frame is not None:
        dataset = with_attributes(
            dataset, item_frame, item_id or item, attributes, separator=separator, min_items=min_items,
            max_share=max_share, source=str(item_path), first_row=first_row(item_path),
        )  # fmt: skip
    for given in files:
        if given.folder is not None:
            dataset = with_files(dataset, folder / given.folder, given.kind)
        _require_some_file(dataset, given.kind)
    return dataset


def _with_held_out(
    train: pl.DataFrame,
    path: Path,
    held_out: dict[str, Path],
    form: TextFormat,
    ids: tuple[str, str],
    others: tuple[str | None, ...],
    split: Any,
) -> pl.DataFrame:
    """The interactions of all files with the column :data:`SPLIT_COLUMN`.

    Raises:
        ConfigError: ``split`` is set as well.
        DataError: an id is invalid, or a column is missing in one of the files; names file and row.
    """
    if split != "random":
        raise ConfigError(
            f"split={split!r} besides valid= or test=; expected the split to be given in one way"
        )
    columns = [*ids, *(name for name in others if name is not None)]
    parts = []
    for label, file in {"train": path, **held_out}.items():
        frame = train if file is path else read_table(file, form, columns, ids)
        for name, kind in zip(ids, ("user", "item"), strict=True):  # here, where file and row are known
            text = frames.as_ids(
                frames.column(frame, name, str(file)), kind, str(file), first_row(file, form)
            )
            frame = frame.with_columns(text.alias(name))
        selected = [frames.column(frame, name, str(file)).alias(name) for name in dict.fromkeys(columns)]
        parts.append(pl.DataFrame(selected).with_columns(pl.lit(label).alias(SPLIT_COLUMN)))
    try:
        return pl.concat(parts, how="vertical_relaxed")
    except pl.exceptions.PolarsError as cause:
        raise DataError(
            f"{path}: its columns {columns} and those of {', '.join(map(str, held_out.values()))} have "
            f"different types ({cause}); write all files alike"
        ) from cause


def _names(columns: str | list[str] | tuple[str, ...] | None) -> list[str]:
    return [columns] if isinstance(columns, str) else list(columns or ())


def _paths(frame: pl.DataFrame, name: str, source: Path, root: Path, kind: FileKind) -> pl.Series:
    """The column of paths of files of a kind, relative to ``root``; a path outside it is refused."""
    paths = frames.column(frame, name, str(source))
    if not isinstance(paths.dtype, (*frames.TEXT_TYPES, pl.Null)):
        raise DataError(
            f"{source}: {kind.field} column {name!r} has type {paths.dtype}; expected paths as text"
        )
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
                f"{source}, row {row + first_row(source)}: {kind.field} path {paths[row]!r}; expected a path "
                f"inside {root}, relative to it or absolute; name the folder of the {kind.plural} with "
                f"{kind.field}_root="
            )
    return pl.Series(paths.name, changed, dtype=pl.String)


def _require_some_file(dataset: Dataset, kind: FileKind) -> None:
    """Refuses a dataset with a field of files none of which exists; single missing files are reported during
    extraction.
    """
    content = dataset.content.get(kind.field)
    if content is None:
        return
    if not content.n_present:
        found = dict(dataset.meta.get(kind.plural, {}))
        raise DataError(
            f"{dataset.name}: none of the {len(content):,} items has {kind.field} content; check the "
            f"{kind.field} column, or that the files in {content.root} are named <item id>.<ext>, with a "
            f"suffix of {sorted(kind.suffixes)}" + (f"; found {found}" if found else "")
        )
    paths = (content.path(index) for index in range(len(content)))
    if not any(path is not None and os.path.isfile(path) for path in paths):
        first = next(v for v in content if v is not None)
        raise DataError(
            f"{dataset.name}: none of the {kind.field} files exists, the first is {first!r} in "
            f"{content.root}; expected paths relative to that folder"
        )
