"""Item attributes for conversations: converts columns of an item table to nodes and relations of a dataset.

A conversational dataset has

- ``nodes["attribute"]``: the attributes to ask about, such as ``Country: France``;
- ``relations["item", "has", "attribute"]``: ``(2, E) int32``;
- where attributes are grouped, ``nodes["group"]`` (such as ``Country``) and
  ``relations["attribute", "in", "group"]``;
- where known, ``relations["user", "likes", "attribute"]`` and ``relations["user", "knows", "user"]``.

The edges of a relation are unique and sorted by source, then target.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from graphrec.core.errors import ConfigError, DataError, first_few, nearest
from graphrec.core.progress import print_note
from graphrec.data import frames
from graphrec.data.dataset import Dataset, Relation
from graphrec.data.vocabulary import Vocabulary

HAS: Relation = ("item", "has", "attribute")
IN: Relation = ("attribute", "in", "group")
LIKES: Relation = ("user", "likes", "attribute")
KNOWS: Relation = ("user", "knows", "user")


def with_attributes(
    dataset: Dataset,
    table: Any,
    item_id: str,
    columns: str | Sequence[str],
    *,
    separator: str | None = "|",
    min_items: int = 2,
    max_share: float | None = None,
    source: str = "the item table",
    first_row: int = 1,
) -> Dataset:
    """A copy of a dataset with item attributes from columns of an item table.

    A value ``France`` of the column ``Country`` becomes the attribute ``Country: France`` in the group
    ``Country``. Groups keep the order of ``columns``; the attributes of a group are sorted by name. Values
    are stripped, and repeated values of an item count once. Values of a column that differ only in case, such
    as ``Red`` and ``red``, are one attribute, named by the spelling of the most items (of several such, the
    first in sorted order); a note says which. ``meta["attributes"]`` counts these spellings, if there are
    any, and what was dropped: rare and frequent values, rows of unknown items, items without a row, and items
    without any attribute. All items stay in the dataset.

    Args:
        dataset: the dataset to extend.
        table: one row per item; Polars, pandas, Arrow, or a dict of columns.
        item_id: column of item ids.
        columns: attribute columns: text, lists of text, or booleans.
        separator: separates the values of a text such as ``rock|pop``; None means one value per text.
        min_items: minimum number of items with an attribute; an attribute of one item identifies the item.
        max_share: maximum share of the items with an attribute, such as 0.9; None is no limit.
        source: name of the table for messages, such as its file.
        first_row: number of the first row, for messages.

    Raises:
        ConfigError: no columns, a repeated column, an option out of range, or a dataset with attributes.
        DataError: a column is missing, holds numbers or dates, or has no value that enough items share; an id
            is invalid or occurs twice.
    """
    names = [columns] if isinstance(columns, str) else list(columns)
    _check_options(dataset, names, separator, min_items, max_share, source)
    frame = frames.as_frame(table, source)
    items = frames.item_indices(frame, dataset.items, item_id, source, first_row)
    texts: list[str] = []
    has: list[np.ndarray] = []
    group_of: list[int] = []
    rare = 0
    common = 0
    folded = 0
    for group, name in enumerate(names):
        values = _as_texts(frames.column(frame, name, source), separator, source)
        pairs, spellings = _fold_case(_item_values(items, values))
        if spellings:
            print_note(f"{source}: column {name!r}: {_describe_folded(spellings)}")
        folded += len(spellings)
        counts = pairs.group_by("value").len("items").sort("value")
        too_few = counts["items"] < min_items
        too_many = ~too_few & (counts["items"] / dataset.n_items > (1.0 if max_share is None else max_share))
        shared = counts.filter(~too_few & ~too_many)
        if not shared.height:
            raise _no_shared_value(name, counts, int(too_few.sum()), min_items, max_share, dataset, source)
        rare += int(too_few.sum())
        common += int(too_many.sum())
        index = pl.DataFrame({"value": shared["value"], "at": np.arange(shared.height) + len(texts)})
        joined = pairs.join(index, on="value")
        has.append(np.stack([joined["item"].to_numpy(), joined["at"].to_numpy()]))
        texts += [f"{name}: {value}" for value in shared["value"]]
        group_of += [group] * shared.height
    edges = sorted_edges(np.concatenate(has, axis=1))
    rows = int((items >= 0).sum())
    return replace(
        dataset,
        nodes={
            **dataset.nodes,
            "attribute": Vocabulary(texts, "attribute"),
            "group": Vocabulary(names, "group"),
        },
        relations={**dataset.relations, HAS: edges, IN: sorted_edges([range(len(texts)), group_of])},
        meta={
            **dataset.meta,
            "attributes": {
                "columns": names,
                "separator": separator,
                "min_items": min_items,
                "max_share": max_share,
                "kept": len(texts),
                "of too few items": rare,
                "of too many items": common,
                **({"spellings folded": folded} if folded else {}),
                "rows of other items": len(items) - rows,
                "items without a row": dataset.n_items - rows,
                "items without attributes": dataset.n_items - len(np.unique(edges[0])),
            },
        },
    )


def select_columns(
    attributes: bool | str | list[str] | tuple[str, ...] | None, known: Sequence[str]
) -> list[str]:
    """The columns selected by a reader's option ``attributes``; True selects all known columns.

    Raises:
        ConfigError: unknown column; the message names the closest one.
    """
    if isinstance(attributes, bool) or attributes is None:
        return list(known) if attributes else []
    columns = [attributes] if isinstance(attributes, str) else list(attributes)
    for name in columns:
        if name not in known:
            raise ConfigError(
                f"attributes={name!r} is not one of {list(known)}; true means all of them."
                f"{nearest(name, known)}"
            )
    return columns


def sorted_edges(pairs: Any) -> np.ndarray:
    """Unique edges ``(2, E) int32`` sorted by source, then target.

    Args:
        pairs: sources and targets ``(2, n)``, in any order.
    """
    array = np.asarray(pairs, dtype=np.int64).reshape(2, -1)
    return np.ascontiguousarray(np.unique(array, axis=1).astype(np.int32))


def edges_from_pairs(pairs: Iterable[tuple[int, int]]) -> np.ndarray:
    """:func:`sorted_edges` of (source, target) pairs; there may be none."""
    return sorted_edges(np.array(list(pairs), dtype=np.int64).reshape(-1, 2).T)


def _check_options(
    dataset: Dataset,
    names: list[str],
    separator: str | None,
    min_items: int,
    max_share: float | None,
    source: str,
) -> None:
    taken = sorted({"attribute", "group"} & set(dataset.nodes))
    if taken:
        raise ConfigError(
            f"{dataset.name} already has nodes of type {taken[0]!r}; pass all columns in one call, or "
            "start from the dataset without attributes"
        )
    if not names:
        raise ConfigError(f"{source}: found no attribute column; expected one or more in columns=")
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise ConfigError(f"{source}: column {repeated!r} occurs twice; expected each column once")
    if separator == "":
        raise ConfigError("separator=''; expected text such as '|', or None for one value per row")
    if isinstance(min_items, bool) or min_items < 1:
        raise ConfigError(f"min_items={min_items!r}; expected an integer of at least 1")
    if max_share is not None and not (math.isfinite(max_share) and 0 < max_share <= 1):
        raise ConfigError(f"max_share={max_share!r}; expected 0 < max_share <= 1, or None")


def _as_texts(series: pl.Series, separator: str | None, source: str) -> pl.Series:
    """Texts, or lists of texts, before stripping; null where a row has none."""
    dtype = series.dtype
    plain = dtype.inner if isinstance(dtype, (pl.List, pl.Array)) else dtype
    if plain.is_numeric() or plain.is_temporal():
        raise DataError(
            f"{source}: column {series.name!r} has type {dtype}; expected text or lists of texts, because "
            "numbers and dates make no yes-or-no question. Bin them first (1994 to '1990s', 12.5 to "
            "'under 20'), or cast the column to text if the numbers are names"
        )
    if plain not in (*frames.TEXT_TYPES, pl.Boolean, pl.Null):
        raise DataError(
            f"{source}: column {series.name!r} has type {dtype}; expected text, lists of texts or booleans"
        )
    if isinstance(dtype, (pl.List, pl.Array)):
        return series.cast(pl.List(pl.String))
    text = series.cast(pl.String)
    return text if separator is None else text.str.split(separator)


def _item_values(items: np.ndarray, values: pl.Series) -> pl.DataFrame:
    """Distinct pairs of ``item`` and stripped ``value``, of the dataset's items only."""
    rows = pl.DataFrame({"item": items, "value": values}).filter(pl.col("item") >= 0)
    if isinstance(values.dtype, pl.List):
        rows = rows.explode("value")
    rows = rows.with_columns(pl.col("value").str.strip_chars())
    return rows.filter(pl.col("value") != "").unique(maintain_order=True)


def _fold_case(pairs: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, str]]:
    """Item and value pairs with one spelling per value, and the spelling that replaces each other one.

    Values that differ only in case get the spelling of the most items; of several such, the first in sorted
    order.
    """
    kept: dict[str, str] = {}
    replaced: dict[str, str] = {}
    counts = pairs.group_by("value").len("items").sort(["items", "value"], descending=[True, False])
    for value in counts["value"]:
        first = kept.setdefault(value.casefold(), value)
        if first != value:
            replaced[value] = first
    if not replaced:
        return pairs, replaced
    values = pl.col("value").replace(replaced)
    return pairs.with_columns(values).unique(maintain_order=True), replaced


def _describe_folded(spellings: dict[str, str]) -> str:
    pairs = [f"{frames.quoted(value)} as {frames.quoted(kept)}" for value, kept in spellings.items()]
    examples = first_few(pairs, 3)
    return f"{len(spellings):,} values differ from another one only in case and count as it: {examples}"


def _no_shared_value(
    name: str,
    counts: pl.DataFrame,
    few: int,
    min_items: int,
    max_share: float | None,
    dataset: Dataset,
    source: str,
) -> DataError:
    if not counts.height:
        return DataError(
            f"{source}: column {name!r} is empty for all {dataset.n_items:,} items of {dataset.name}; "
            "remove the column"
        )
    limit = "" if max_share is None else f", {counts.height - few:,} in more than a share of {max_share}"
    first = frames.quoted(counts["value"][0])
    return DataError(
        f"{source}: column {name!r} has {counts.height:,} values, first {first}, of which {few:,} occur in "
        f"fewer than {min_items:,} items{limit}, so none is left; bin them into fewer values, lower "
        "min_items=, raise max_share=, or remove the column"
    )
