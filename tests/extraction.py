"""A small shop, a cheap extractor, and what a store's files hold."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from graphrec.core.random import numpy_rng
from graphrec.data import Content, Dataset, Interactions, Vocabulary
from graphrec.features import FeatureStore, FeatureTable, shards
from graphrec.features.store import complete_table, content_digest, manifest_head, table_lock

WORDS = ["red", "blue", "green", "bicycle", "lamp", "chair", "wooden", "steel", "small", "garden", "kitchen"]


def catalog(ids: list[str], **content: Content) -> Dataset:
    """A dataset whose users each took one item."""
    n = len(ids)
    none = Interactions(np.zeros(0, int), np.zeros(0, int), n, n)
    pairs = Interactions(np.arange(n), np.arange(n), n, n)
    users = Vocabulary((f"u{i}" for i in range(n)), "user")
    return Dataset("shop", users, Vocabulary(ids), pairs, none, none, content=content)


def texts(n: int, changed: int | None = None) -> list[str | None]:
    """``n`` short texts, one of them another than usual."""
    picks = numpy_rng(0, "test/texts").integers(0, len(WORDS), (n, 4))
    made: list[str | None] = [" ".join(WORDS[w] for w in row) + f" n{i}" for i, row in enumerate(picks)]
    if changed is not None:
        made[changed] = "something else entirely"
    return made


def shop(values: list[str | None], kind: Any = "text", root: Path | None = None) -> Dataset:
    """A dataset with one content field, named like its kind."""
    return catalog([f"i{i}" for i in range(len(values))], **{kind: Content(kind, values, root)})


def sharded(root: Path, values: np.ndarray, size: int, data: Dataset, name: str = "own") -> FeatureTable:
    """A table of several shards, written as an extractor would."""
    store, describe = FeatureStore(root), {"name": name}
    key = shards.table_key(describe, data.items.fingerprint, "text")
    folder = store.folder("text", key)
    with table_lock(folder):
        entries = [
            shards.write_shard(folder, k, i, values[i : i + size], values[i : i + size].any(axis=1))
            for k, i in enumerate(range(0, len(values), size))
        ]
        content = data.content.get("text")
        told = content_digest(content) if content is not None else None
        head = manifest_head(data, "text", "text", key, describe, told)
        return complete_table(folder, head, entries).open()


class Hashing:
    """A vector of 8 numbers from the digest of a text; counts what it encodes."""

    name, kind, dim = "hashing", "text", 8

    def __init__(self) -> None:
        self.seen: list[str] = []

    def describe(self) -> dict[str, Any]:
        return {"name": self.name}

    def encode(self, batch: list[str]) -> np.ndarray:
        self.seen += batch
        digests = b"".join(hashlib.sha256(text.encode()).digest() for text in batch)
        return np.frombuffer(digests, dtype="<u4").reshape(len(batch), 8) / 2**32


def files(root: Path) -> dict[str, bytes]:
    """Every file of a store but the locks."""
    found = (p for p in sorted(root.rglob("*")) if p.is_file() and p.name != ".lock")
    return {str(p.relative_to(root)): p.read_bytes() for p in found}


def flip(path: Path, at: int) -> None:
    """Changes one bit of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
