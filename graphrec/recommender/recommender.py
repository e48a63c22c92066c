"""Recommendations by external id, from a file that needs neither the dataset nor the model.

A :class:`Recommender` holds the final embeddings of a trained ranker, the ids, what each user has already
and, for models that can place new items by their content, the content vectors of the items it was trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from graphrec.data import Dataset, Interactions, Vocabulary
from graphrec.errors import ConfigError, DataError, FeatureError, TrainingError
from graphrec.model import Features, Placement, Ranker
from graphrec.recommender import bundle, vectors
from graphrec.recommender.export import write_faiss, write_parquet
from graphrec.recommender.placement import (
    ContentVectors,
    compares,
    described,
    place,
    restored,
    trained_content,
)
from graphrec.recommender.retrieval import Keys, Rows, retrieve
from graphrec.recommender.vectors import Vectors

FORMAT = 1
HEAD = "recommender.json"


class Recommender:
    """External ids in, external ids and scores out.

    Use :meth:`of` or :meth:`load` to make one.

    Args:
        users: external user ids.
        items: external item ids.
        user_vectors: ``(n_users, d) float32``, an array or a sparse matrix of rows.
        item_vectors: ``(n_items, d) float32``, likewise; a score is the inner product.
        seen: pairs that are not recommended again; they also count an item's popularity.
        rule: how new items are placed, or None.
        content: by modality, the vectors that new items are compared with; empty if there are none.
        meta: where it comes from: model, dataset and its fingerprint. JSON-able.
    """

    def __init__(
        self,
        users: Vocabulary,
        items: Vocabulary,
        user_vectors: Vectors,
        item_vectors: Vectors,
        seen: Interactions,
        rule: Placement | None = None,
        content: Mapping[str, ContentVectors] | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        self.users, self.user_vectors, self.rule = users, user_vectors, rule
        self.content, self.meta = dict(content or {}), dict(meta or {})
        self._set_items(items, item_vectors, seen)

    def _set_items(self, items: Vocabulary, item_vectors: Vectors, seen: Interactions) -> None:
        self.items, self.item_vectors, self.seen = items, item_vectors, seen
        self._item_ids = np.array(items.ids, dtype=object)  # (n_items,)
        self._keys: Keys | None = None  # (n_items, d), made when recommend first needs them
        self._unit: tuple[Vectors, Keys] | None = None  # the same of length one, for similar_items

    def __repr__(self) -> str:
        n, d = self.item_vectors.shape
        what = ", ".join(filter(None, [self.meta.get("model"), self.meta.get("dataset")]))
        return f"Recommender({what or 'vectors'}: {len(self.users):,} users, {n:,} items, dim {d})"

    # -- making ----------------------------------------------------------------------------------------------

    @classmethod
    def of(
        cls,
        model: Ranker,
        data: Dataset,
        features: Features | None = None,
        *,
        seen: Interactions | None = None,
    ) -> Self:
        """Takes what serving needs from a trained model; later training does not change it.

        Args:
            model: a trained ranker for this dataset.
            data: gives the ids and the known interactions.
            features: feature tables the model was built with; they make :meth:`add_items` possible for models
                with a ``content_rule`` and are of no use to others.
            seen: pairs not to recommend again; default: all splits, everything that is known when serving.

        Raises:
            ConfigError: the model is no ranker.
            DataError: it was built for other numbers of users or items, or ``seen`` counts others.
            FeatureError: the tables are for other items, or lack a modality that the model was built with.
            TrainingError: an embedding is not finite.
        """
        if not isinstance(model, Ranker):
            raise ConfigError(
                f"{type(model).__name__} is no Ranker; a recommender needs embed() of users and items"
            )
        seen = data.train + data.valid + data.test if seen is None else seen
        for what, counted in (("model", model), ("seen", seen)):
            if (counted.n_users, counted.n_items) != (data.n_users, data.n_items):
                raise DataError(
                    f"the {what} counts {counted.n_users:,} users x {counted.n_items:,} items, {data.name} "
                    f"has {data.n_users:,} x {data.n_items:,}; give the dataset the model was built for"
                )
        training = model.training
        model.eval()
        with torch.no_grad():
            tables = [vectors.taken(table) for table in model.embed()]
        model.train(training)
        for vocabulary, table in zip((data.users, data.items), tables, strict=True):
            bad = vectors.broken_rows(table)
            if len(bad):
                raise TrainingError(
                    f"the embedding of {vocabulary.kind} {vocabulary[int(bad[0])]!r} is not finite, as are "
                    f"{len(bad):,} in all; train again with a lower learning rate"
                )
        rule = model.content_rule
        content = trained_content(rule, data, features) if rule is not None and features else {}
        meta = {"model": model.name, "dataset": data.name, "fingerprint": data.fingerprint}
        return cls(data.users, data.items, tables[0], tables[1], seen, rule, content, meta)

    # -- asking ----------------------------------------------------------------------------------------------

    def recommend(
        self,
        users: Any,
        k: int = 10,
        *,
        exclude_seen: bool = True,
        only: Iterable[Any] | None = None,
        exclude: Iterable[Any] | None = None,
        unknown: Literal["error", "popularity"] = "error",
    ) -> tuple[np.ndarray, np.ndarray]:
        """The items with the highest scores, best first; among equal scores the item with the lowest index.

        A list of users gives what each of them gives alone.

        Args:
            users: one id, or several.
            k: how many items.
            exclude_seen: leave out what the user is known to have.
            only: recommend among these items alone, such as those in stock.
            exclude: never recommend these items.
            unknown: what unknown users get: an error, or the most popular items, scored by their number of
                known interactions.

        Returns:
            Item ids and ``float32`` scores, both ``(k,)`` for one id and ``(B, k)`` for several. Where fewer
            than ``k`` items can be recommended, ids end in None and scores in ``-inf``.

        Raises:
            UnknownIdError: a user (unless ``unknown="popularity"``) or an item of ``only`` or ``exclude`` is
                not known.
            ConfigError: ``k`` is below 1, or ``unknown`` is neither choice.
        """
        if unknown not in ("error", "popularity"):
            raise ConfigError(f"unknown={unknown!r}; expected 'error' or 'popularity'")
        names, single = _several(users)
        rows = self.users.find(names).astype(np.int64)  # (B,), -1 if unknown
        strange = np.flatnonzero(rows < 0)
        if unknown == "error" and len(strange):
            self.users.index(names[strange[0]])
        candidates = self._candidates(only, exclude)  # (c,)
        column = np.full(len(self.items), -1)
        column[candidates] = np.arange(len(candidates))
        popularity = torch.from_numpy(self.seen.item_degree[candidates].astype(np.float32))

        def mask(start: int, scores: Tensor) -> None:
            part = rows[start : start + len(scores)]
            scores[torch.from_numpy(part < 0)] = popularity
            if exclude_seen:
                known = np.flatnonzero(part >= 0)
                row, item = self.seen.rows(part[known])
                at = column[item]
                scores[known[row[at >= 0]], at[at >= 0]] = -torch.inf

        # An unknown user's scores are replaced, so whose vector stands in for theirs does not matter.
        queries = vectors.queries(self.user_vectors, np.maximum(rows, 0))  # (B, d)
        if self._keys is None:
            self._keys = vectors.keys(self.item_vectors)
        whole = len(candidates) == len(self.items)
        keys = self._keys if whole else self._keys[candidates]  # (c, d)
        return self._best(queries, keys, candidates, k, mask, single)

    def similar_items(self, items: Any, k: int = 10) -> tuple[np.ndarray, np.ndarray]:
        """The items whose embeddings have the highest cosine with an item's; the item itself is left out.

        Args:
            items: one id, or several.
            k: how many items.

        Returns:
            Item ids and ``float32`` cosines, shaped and filled up as in :meth:`recommend`.

        Raises:
            UnknownIdError: an item is not known.
            ConfigError: ``k`` is below 1.
        """
        names, single = _several(items)
        rows = self.items.indices(names).astype(np.int64)  # (B,)
        if self._unit is None:
            unit = vectors.unit(self.item_vectors)
            self._unit = unit, vectors.keys(unit)

        def mask(start: int, scores: Tensor) -> None:
            scores[np.arange(len(scores)), rows[start : start + len(scores)]] = -torch.inf

        queries = vectors.queries(self._unit[0], rows)
        return self._best(queries, self._unit[1], np.arange(len(self.items)), k, mask, single)

    def _candidates(self, only: Iterable[Any] | None, exclude: Iterable[Any] | None) -> np.ndarray:
        """Indices of the items that may be recommended, ascending."""
        allowed = np.full(len(self.items), only is None)
        if only is not None:
            allowed[self.items.indices(_several(only)[0])] = True
        if exclude is not None:
            allowed[self.items.indices(_several(exclude)[0])] = False
        return np.flatnonzero(allowed)

    def _best(
        self,
        queries: Rows,
        keys: Keys,
        candidates: np.ndarray,
        k: int,
        mask: Callable[[int, Tensor], None],
        single: bool,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids and scores ``(B, k)`` for queries ``(B, d)``; ``keys (c, d)`` are the candidates' vectors."""
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
            raise ConfigError(f"k = {k!r}; expected a whole number of at least 1")
        width = min(k, len(candidates))
        ids = np.full((queries.shape[0], k), None, dtype=object)
        scores = np.full((queries.shape[0], k), -np.inf, dtype=np.float32)
        values, at = (v.numpy() for v in retrieve(queries, keys, width, mask))
        ids[:, :width], scores[:, :width] = self._item_ids[candidates[at]], values
        ids[np.isneginf(scores)] = None
        return (ids[0], scores[0]) if single else (ids, scores)

    # -- growing ---------------------------------------------------------------------------------------------

    def add_items(self, ids: Iterable[Any], features: Mapping[str, Any]) -> Self:
        """Adds items nobody has interacted with, placed by the model's content rule; changes this object.

        A new item gets what the model gives an item without train interactions: most models the mean
        direction and length of its ``k`` nearest items among those with some, in each modality it has and
        weighted as in the model; VBPR the projection of its content; ItemKNN on content its similarities to
        the nearest. :meth:`save` keeps added items.

        Args:
            ids: their external ids, none of them known.
            features: modality -> vectors ``(n, d_m)``, an array, rows or a feature table, made by the
                extractor of the model's features. There is no picture or text where the row is NaN, zeros or
                None, or where the modality is left out or None.

        Returns:
            The recommender itself.

        Raises:
            FeatureError: the recommender cannot place items, a modality is not one of the model's, its
                vectors have another shape or are not finite, or an item has no content at all.
            DataError: an id is known already or occurs twice.
        """
        names = _several(ids)[0]
        if self.rule is None:
            raise FeatureError(
                f"the model of this recommender ({self.meta.get('model', 'unknown')}) has no rule to place "
                "new items by their content; use one that has, such as freedom"
            )
        if not self.content and compares(self.rule):
            raise FeatureError(
                "this recommender was made without features, so new items cannot be compared with known "
                "ones; make it with Recommender.of(model, data, features)"
            )
        added = Vocabulary(names)  # refuses repeats
        known = self.items.find(added.ids)
        if (known >= 0).any():
            twice = added[int(np.flatnonzero(known >= 0)[0])]
            raise DataError(f"item {twice!r} is known already; add only items that are new")
        placed = place(added, features, self.rule, self.content, self.item_vectors)
        grown = vectors.stacked(self.item_vectors, placed)
        n_users, n_items = len(self.users), grown.shape[0]
        seen = Interactions(self.seen.users, self.seen.items, n_users, n_items, name=self.seen.name)
        self._set_items(Vocabulary([*self.items.ids, *added.ids]), grown, seen)
        return self

    # -- keeping ---------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Writes a directory: ``.npy`` and Arrow files and, last, ``recommender.json``, which names them.

        Args:
            path: directory to create; a recommender that is in it stays whole until this one is.

        Raises:
            CheckpointError: it cannot be written.
        """
        path = Path(path)
        rule, arrays = described(self.rule)
        arrays |= vectors.arrays("user_vectors", self.user_vectors)
        arrays |= vectors.arrays("item_vectors", self.item_vectors)
        arrays["seen"] = np.stack([self.seen.users, self.seen.items])
        for modality, known in self.content.items():
            arrays |= {f"content_{modality}": known.values, f"content_{modality}_items": known.items}
        head = {"rule": rule, "modalities": list(self.content), "meta": self.meta}
        if not isinstance(self.item_vectors, np.ndarray):
            head["sparse"] = self.item_vectors.shape[1]
        bundle.write(path / HEAD, FORMAT, head, arrays, {"users": self.users, "items": self.items})
        return path

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads what :meth:`save` wrote; dense user vectors and content vectors are memory-mapped.

        Raises:
            CheckpointError: a file is missing, not the one that was written, or of another format.
        """
        saved = bundle.Bundle(Path(path) / HEAD, FORMAT)
        users, items = (Vocabulary(saved.ids(f"{kind}s"), kind) for kind in ("user", "item"))
        content = {
            m: ContentVectors(saved.array(f"content_{m}", mmap=True), saved.array(f"content_{m}_items"))
            for m in saved.head["modalities"]
        }
        pairs = saved.array("seen")  # (2, E)
        seen = Interactions(pairs[0], pairs[1], len(users), len(items), name="seen")
        rule, width = restored(saved, saved.head["rule"]), saved.head.get("sparse")
        tables = (
            vectors.read(saved, "user_vectors", width, mmap=True),
            vectors.read(saved, "item_vectors", width),
        )
        return cls(users, items, *tables, seen, rule, content, saved.head["meta"])

    def export(
        self,
        path: str | Path,
        k: int = 10,
        users: Iterable[Any] | None = None,
        *,
        exclude_seen: bool = True,
        only: Iterable[Any] | None = None,
        exclude: Iterable[Any] | None = None,
    ) -> Path:
        """Writes recommendations as Parquet, one row per user and rank: ``user, rank, item, score``.

        Users are answered and written in blocks, so memory does not grow with their number. Ranks count
        from 1.

        Args:
            path: the file; whole or absent, also after a crash.
            k: items per user; users with fewer candidates have fewer rows.
            users: ids; default: all.
            exclude_seen: as in :meth:`recommend`.
            only: as in :meth:`recommend`.
            exclude: as in :meth:`recommend`.

        Raises:
            UnknownIdError: a user or an item is not known.
            ConfigError: ``k`` is below 1.
            CheckpointError: the file cannot be written.
        """
        names = list(self.users.ids) if users is None else [str(name) for name in _several(users)[0]]
        self.users.indices(names)  # an unknown user is found before anything is computed
        some, others = (None if ids is None else _several(ids)[0] for ids in (only, exclude))

        def answer(part: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
            return self.recommend(part, k, exclude_seen=exclude_seen, only=some, exclude=others)

        write_parquet(Path(path), names, answer)
        return Path(path)

    def export_faiss(self, path: str | Path) -> Path:
        """Writes a FAISS index over the item embeddings for inner-product search.

        The directory gets ``items.faiss`` (``IndexFlatIP``), ``items.arrow`` (column ``id``, one row a
        vector) and, last, ``index.json`` with their sha256. Search it with rows of ``user_vectors``.

        Args:
            path: directory to create.

        Raises:
            ConfigError: the vectors are sparse, which FAISS does not index.
            MissingDependencyError: faiss is not installed (extra ``ann``).
            CheckpointError: the directory cannot be written.
        """
        if not isinstance(self.item_vectors, np.ndarray):
            n, d = self.item_vectors.shape
            raise ConfigError(
                f"the item vectors of {self.meta.get('model', 'this model')} are sparse, and FAISS indexes "
                f"dense ones, of which {n:,} x {d:,} would be {4 * n * d / 2**30:,.1f} GiB; write "
                "recommendations instead (export), or use a model with dense embeddings, such as lightgcn"
            )
        write_faiss(Path(path), self.items, self.item_vectors, self.meta)
        return Path(path)


def _several(ids: Any) -> tuple[list[Any], bool]:
    """The ids as a list, and whether there was just one, given as such."""
    single = isinstance(ids, str) or np.isscalar(ids) or not isinstance(ids, Iterable)
    return ([ids] if single else list(ids)), single
