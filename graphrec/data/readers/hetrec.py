"""HetRec 2011 Last.fm, raw: a conversational dataset of listens, tags and friends.

Source: https://grouplens.org/datasets/hetrec-2011/ (hetrec2011-lastfm-2k). License: non-commercial use; cite
Last.fm and HetRec'11 (Cantador, Brusilovsky, Kuflik: RecSys 2011).
Counts: 1,892 users, 17,632 artists, 92,834 user-artist pairs, 11,946 tags assigned 186,479 times, 25,434
friends (12,717 pairs).

The attributes of an artist are the tags that several listeners assigned to it. The attributes that a user
likes are the user's own tags, except those for artists of the user's validation and test pairs, as a tag on
the artist to be predicted would reveal it.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from graphrec.core.errors import ConfigError, DataError
from graphrec.data import frames, from_frame
from graphrec.data.attributes import HAS, KNOWS, LIKES, sorted_edges
from graphrec.data.dataset import Dataset, Relation
from graphrec.data.readers.delimited import BYTE_ORDER_MARK, read_tab_separated
from graphrec.data.readers.files import require_file
from graphrec.data.splits import RandomSplit
from graphrec.data.vocabulary import Vocabulary

SOURCE = "https://grouplens.org/datasets/hetrec-2011/"
SPLIT = RandomSplit(valid=0.15, test=0.15)
HEADER = re.compile(r"/*[A-Za-z]")
WHOLE_NUMBER = r"^[0-9]{1,15}$"


def read(
    folder: Path,
    *,
    min_listens: int = 1,
    k_core: int | tuple[int, int] = 10,
    split: Any = SPLIT,
    seed: int = 0,
    min_taggers: int = 2,
    min_items: int = 10,
    top_tags: int | None = None,
) -> Dataset:
    """Raw HetRec 2011 Last.fm, 10-core: 1,797 users, 1,507 artists, 181 tags, friends; split 7:1.5:1.5.

    An artist has a tag if at least ``min_taggers`` users assigned it. Without the 10-core two thirds of
    the artists have no tag that two listeners agree on, and nothing can be asked about them.

    Args:
        folder: holds ``user_artists.dat``, ``artists.dat``, ``tags.dat``, ``user_taggedartists.dat`` and
            ``user_friends.dat``.
        min_listens: keep pairs with at least this many listens.
        k_core: minimum number of interactions per user and artist, or a pair of the two.
        split: a split's name or description (see :mod:`graphrec.data.splits`).
        seed: of the split.
        min_taggers: minimum number of users who assign a tag to an artist.
        min_items: minimum number of artists with a tag.
        top_tags: number of tags to keep, those of most artists (ties: lowest tag id); None: all.

    Raises:
        ConfigError: a number below 1.
        DataError: a file is missing or damaged, names an unknown tag, or the filters leave no tag.
    """
    limits = {"min_taggers": min_taggers, "min_items": min_items, "top_tags": top_tags}
    for option, value in limits.items():
        if value is not None and value < 1:
            raise ConfigError(f"{option}={value}; expected a whole number from 1")
    paths = {
        name: require_file(folder, f"{name}.dat", description, SOURCE)
        for name, description in (
            ("user_artists", "userID, artistID and weight, tab-separated"),
            ("artists", "id, name, url and pictureURL, tab-separated"),
            ("tags", "tagID and tagValue, tab-separated"),
            ("user_taggedartists", "userID, artistID, tagID, day, month and year, tab-separated"),
            ("user_friends", "userID and friendID, tab-separated"),
        )
    }
    listens, first_row = _numbers_table(paths["user_artists"], ["user", "item", "listens"])
    artists, artists_row = _text_table(paths["artists"], ["item", "name", "url", "picture"])
    dataset = Dataset(
        **from_frame.parse(
            listens,
            user="user",
            item="item",
            rating="listens",
            min_rating=min_listens,
            k_core=k_core,
            split=split,
            items=artists,
            item_id="item",
            content={"text": ("text", "name")},
            seed=seed,
            name="hetrec-lastfm",
            source=str(paths["user_artists"]),
            first_row=first_row,
            items_source=str(paths["artists"]),
            items_first_row=artists_row,
        )
    )
    assigned, assigned_row = _numbers_table(
        paths["user_taggedartists"], ["user", "item", "tag", "day", "month", "year"]
    )
    tags, tags_row = _text_table(paths["tags"], ["tag", "name"])
    vocabulary = _tags(tags, paths["tags"], tags_row)
    taggings = _indexed(dataset, assigned, vocabulary, paths["user_taggedartists"], assigned_row)
    has, attribute_tags, dropped = _item_tags(taggings, min_taggers, min_items, top_tags)
    if not len(attribute_tags):
        raise DataError(
            f"{paths['user_taggedartists']}: no tag is given by {min_taggers} users to each of {min_items} "
            f"artists of the {dataset.n_items:,} that are left; lower min_taggers=, min_items= or k_core="
        )
    likes, withheld = _likes(dataset, taggings, attribute_tags)
    friends, _ = _numbers_table(paths["user_friends"], ["user", "friend"])
    relations: dict[Relation, np.ndarray] = {HAS: has, LIKES: likes, KNOWS: _friends(dataset, friends)}
    meta = {("min_listens" if key == "min_rating" else key): value for key, value in dataset.meta.items()}
    return replace(
        dataset,
        nodes={"attribute": Vocabulary(_names(tags, vocabulary, attribute_tags), "attribute")},
        relations={key: edges for key, edges in relations.items() if edges.shape[1]},
        meta={
            **meta,
            "attributes": {
                **limits,
                "kept": len(attribute_tags),
                "tags left out": dropped,
                "items without attributes": dataset.n_items - len(np.unique(has[0])),
                "likes withheld, from tags on held-out items": withheld,
            },
        },
    )


# -- files ---------------------------------------------------------------------------------------------------


def _numbers_table(path: Path, names: list[str]) -> tuple[pl.DataFrame, int]:
    """Reads a table of numbers as text, and the number of its first row; some releases have no header."""
    with open(path, "rb") as file:
        header = bool(HEADER.match(file.readline(200).removeprefix(BYTE_ORDER_MARK).decode("latin-1")))
    frame = read_tab_separated(path, names, header=header)
    for name in names:
        column = frames.as_ids(frame[name], name, str(path), 1 + header)
        bad = ~column.str.contains(WHOLE_NUMBER)
        frames.refuse(bad, column, name, "; expected a whole number from 0", path, 1 + header)
    return frame, 1 + header


def _text_table(path: Path, names: list[str]) -> tuple[pl.DataFrame, int]:
    """Reads a table of names, and the number of its first row; UTF-8, or else Latin-1 as in ``tags.dat``."""
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    rows = [line.rstrip("\r").split("\t") for line in text.rstrip("\r\n").split("\n")] if text.strip() else []
    for number, row in enumerate(rows, start=1):
        if len(row) != len(names) or "\0" in row[0]:
            raise DataError(
                f"{path}, line {number}: {len(row)} fields; expected {len(names)}, tab-separated: {names}"
            )
    header = bool(rows and HEADER.match(rows[0][0]))
    rows = rows[header:]
    if not rows:
        raise DataError(f"{path}: the table has no rows; expected at least one")
    return pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String), orient="row"), 1 + header


# -- tags ----------------------------------------------------------------------------------------------------


def _tags(tags: pl.DataFrame, path: Path, first_row: int) -> Vocabulary:
    """All tag ids in the order of their numbers."""
    column = frames.as_ids(tags["tag"], "tag", str(path), first_row)
    bad = ~column.str.contains(WHOLE_NUMBER) | ~column.is_first_distinct()
    expected = "; expected a whole number that no other row has"
    frames.refuse(bad, column, "tag", expected, path, first_row)
    return Vocabulary(sorted(column.to_list(), key=int), "tag")


def _indexed(
    dataset: Dataset, assigned: pl.DataFrame, tags: Vocabulary, path: Path, first_row: int
) -> pl.DataFrame:
    """Distinct (user, item, tag), as indices; -1 for users and items that are not in the dataset."""
    frame = pl.DataFrame(
        {
            "user": dataset.users.find(assigned["user"].to_list()),
            "item": dataset.items.find(assigned["item"].to_list()),
            "tag": tags.find(assigned["tag"].to_list()),
            "tagger": assigned["user"],
        }
    )
    problem = " is not in tags.dat; fetch both files from one release"
    frames.refuse(frame["tag"] < 0, assigned["tag"], "tag", problem, path, first_row)
    return frame.unique(maintain_order=True)


def _item_tags(
    taggings: pl.DataFrame, min_taggers: int, min_items: int, top: int | None
) -> tuple[np.ndarray, np.ndarray, int]:
    """Edges item -> attribute ``(2, E) int32``, the tags that are attributes ``(A,)``, number of others."""
    agreed = (
        taggings.filter(pl.col("item") >= 0)
        .group_by("item", "tag")
        .agg(pl.col("tagger").n_unique())
        .filter(pl.col("tagger") >= min_taggers)
    )
    counts = agreed.group_by("tag").len("items").sort(["items", "tag"], descending=[True, False])
    frequent = counts.filter(pl.col("items") >= min_items).head(counts.height if top is None else top)
    tags = np.sort(frequent["tag"].to_numpy())
    pairs = agreed.filter(pl.col("tag").is_in(frequent["tag"].implode()))
    attributes = np.searchsorted(tags, pairs["tag"].to_numpy())
    return sorted_edges([pairs["item"].to_numpy(), attributes]), tags, counts.height - frequent.height


def _names(tags: pl.DataFrame, vocabulary: Vocabulary, attribute_tags: np.ndarray) -> list[str]:
    """Names of the attributes if they are complete and unique, else tag ids."""
    name_of = dict(zip(tags["tag"], tags["name"].str.strip_chars(), strict=True))
    ids = vocabulary.take(attribute_tags)
    names = [name_of[tag] for tag in ids]
    return names if all(names) and len(set(names)) == len(names) else ids


# -- users ---------------------------------------------------------------------------------------------------


def _likes(dataset: Dataset, taggings: pl.DataFrame, tags: np.ndarray) -> tuple[np.ndarray, int]:
    """Edges user -> attribute ``(2, E) int32`` from the user's tags on artists that are not held out.

    Also returns the number of edges that only tags on held-out artists would give.
    """
    assigned = taggings.filter((pl.col("user") >= 0) & pl.col("tag").is_in(pl.Series(tags).implode()))
    users = assigned["user"].to_numpy()
    items = assigned["item"].to_numpy()
    attributes = np.searchsorted(tags, assigned["tag"].to_numpy())
    held_out = np.zeros(len(users), dtype=bool)
    in_dataset = items >= 0
    for split in (dataset.valid, dataset.test):
        held_out[in_dataset] |= split.contains(users[in_dataset], items[in_dataset])
    edges = sorted_edges([users[~held_out], attributes[~held_out]])
    return edges, sorted_edges([users, attributes]).shape[1] - edges.shape[1]


def _friends(dataset: Dataset, friends: pl.DataFrame) -> np.ndarray:
    """Edges user -> user ``(2, E) int32`` in both directions, among the users of the dataset."""
    one, other = (dataset.users.find(friends[name].to_list()) for name in ("user", "friend"))
    valid = (one >= 0) & (other >= 0) & (one != other)
    return sorted_edges([np.append(one[valid], other[valid]), np.append(other[valid], one[valid])])
