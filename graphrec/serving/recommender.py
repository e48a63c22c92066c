"""Recommendations by external id, from a file that needs neither the dataset nor the model.

A :class:`Recommender` holds the final embeddings of a trained ranker, the ids, what each user has already
and, for models that can place new items by their content, the content vectors of the items it was trained on.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from graphrec.core.bundle import FileFormat
from graphrec.core.errors import CheckpointError, ConfigError
from graphrec.data import Dataset, Histories, Interactions, Query, Vocabulary
from graphrec.models.base import ColdStartRule, Features, Ranker
from graphrec.serving import array_bundle, histories, vectors
from graphrec.serving.catalog import Items, Side
from graphrec.serving.export import dense, write_faiss, write_parquet
from graphrec.serving.index import Index, build_index, open_index
from graphrec.serving.ivf import Facts
from graphrec.serving.placement import (
    ContentVectors,
    described,
    place,
    restored,
    trained_content,
    upgrade_rule,
    usable,
    widths,
)
from graphrec.serving.recommend import (
    Search,
    recommended,
    recommended_for,
    searched,
    several,
    similar,
    whole,
)
from graphrec.serving.vectors import Vectors

if TYPE_CHECKING:
    from graphrec.models.capabilities import QueryModule

FORMAT = FileFormat("recommender", 2, {1: upgrade_rule})
HEAD = "recommender.json"


class Recommender:
    """External ids in, external ids and scores out.

    Use :meth:`from_model` or :meth:`load` to make one. The arguments are attributes, too.

    Args:
        users: external user ids.
        items: external item ids.
        user_vectors: ``(n_users, d) float32``, an array or a sparse matrix of rows.
        item_vectors: ``(n_items, d) float32``, likewise; a score is the inner product.
        seen: pairs that are not recommended again; they also count an item's popularity.
        rule: how new items are placed, or None.
        content: by modality, the vectors that new items are compared with; empty if there are none.
        meta: where it comes from: model, dataset and its fingerprint. JSON-able.
        capability: how the model answers queries, see :mod:`graphrec.models.capabilities`.
        module: the encoder or generator of a model that has one.
    """

    def __init__(
        self,
        users: Vocabulary,
        items: Vocabulary,
        user_vectors: Vectors,
        item_vectors: Vectors,
        seen: Interactions,
        rule: ColdStartRule | None = None,
        content: Mapping[str, ContentVectors] | None = None,
        meta: Mapping[str, Any] | None = None,
        capability: str = "embeddings",
        module: QueryModule | None = None,
    ) -> None:
        self.capability, self.module = capability, module
        self.users, self.user_vectors, self.rule = users, user_vectors, rule
        self.content, self.meta = dict(content or {}), dict(meta or {})
        self._items = Items(Side(items, item_vectors, 0), seen)
        self._index: Index | None = None
        self._recorded: str | None = None  # sha256 of the file that the item vectors are in

    @property
    def items(self) -> Vocabulary:
        """External ids, with those added."""
        return self._items.all_ids

    @property
    def item_vectors(self) -> Vectors:
        """The vectors of all items ``(n_items, d) float32``."""
        return self._items.all_vectors

    @property
    def seen(self) -> Interactions:
        """Pairs that are not recommended again."""
        return self._items.all_seen

    @property
    def n_items(self) -> int:
        """The number of items, which costs less than ``len(items)`` where some were added."""
        return len(self._items)

    @property
    def modalities(self) -> dict[str, int]:
        """Content that :meth:`add_items` takes: modality -> length of its vectors; empty if it takes none."""
        return widths(self.rule, self.content)

    @property
    def index(self) -> Mapping[str, Facts] | None:
        """What is known of the index, for ``"recommend"`` and perhaps ``"similar"``; None without one."""
        return None if self._index is None else self._index.facts

    def __repr__(self) -> str:
        n, d = len(self._items), self._items.base.table.shape[1]
        what = ", ".join(filter(None, [self.meta.get("model"), self.meta.get("dataset")]))
        return f"Recommender({what or 'vectors'}: {len(self.users):,} users, {n:,} items, dim {d})"

    # -- making ----------------------------------------------------------------------------------------------

    @classmethod
    def from_model(
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
                with a ``cold_start_rule`` and are of no use to others.
            seen: pairs not to recommend again; default: all splits, everything that is known when serving.

        Raises:
            ConfigError: the model is no ranker.
            DataError: it was built for other numbers of users or items, or ``seen`` counts others.
            FeatureError: the tables are for other items, or lack a modality that the model was built with.
            TrainingError: an embedding is not finite.
        """
        seen = data.train + data.valid + data.test if seen is None else seen
        users, items = vectors.embeddings(model, data, seen)
        rule = model.cold_start_rule
        content = trained_content(rule, data, features) if rule is not None and features else {}
        meta = {"model": model.name, "dataset": data.name, "fingerprint": data.fingerprint}
        module = histories.query_module(model)
        return cls(data.users, data.items, users, items, seen, rule, content, meta, model.capability, module)

    # -- asking ----------------------------------------------------------------------------------------------

    def recommend(
        self,
        users: Any = None,
        k: int = 10,
        *,
        history: Iterable[Any] | None = None,
        exclude_seen: bool = True,
        only: Iterable[Any] | None = None,
        exclude: Iterable[Any] | None = None,
        unknown: Literal["error", "popularity"] = "error",
        search: Search = "auto",
    ) -> tuple[np.ndarray, np.ndarray]:
        """The items with the highest scores, best first; among equal scores the item with the lowest index.

        A list of users gives what each of them gives alone.

        Args:
            users: one id, or several; None where ``history`` says whom to recommend to.
            k: how many items.
            history: ids of the items a user took, oldest first, or one such list a user. It stands in for
                what is known of the user, who may be unknown, too. Models with item weights, an encoder or a
                generator take histories; models that look users up refuse them. Items added by
                :meth:`add_items` are left out of the result and not read.
            exclude_seen: leave out what the user is known to have, and what is in ``history``.
            only: recommend among these items alone, such as those in stock.
            exclude: never recommend these items.
            unknown: what unknown users get: an error, or the most popular items, scored by their number of
                known interactions.
            search: ``"exact"`` compares with every item; ``"approximate"`` with those that
                :meth:`build_index` put near the user, and with added items; ``"auto"`` does the latter where
                there is an index. ``only`` and unknown users are answered exactly in any case.

        Returns:
            Item ids and ``float32`` scores, both ``(k,)`` for one id and ``(B, k)`` for several. Where fewer
            than ``k`` items can be recommended, ids end in None and scores in ``-inf``.

        Raises:
            UnknownIdError: a user (unless ``unknown="popularity"``) or an item of ``only`` or ``exclude`` is
                not known.
            ConfigError: ``k`` is below 1, ``unknown`` or ``search`` is none of the choices, there is no
                index for an approximate search, the model cannot answer histories, a history is empty (unless
                ``unknown="popularity"``), or ``users`` and ``history`` have different lengths.
        """
        if unknown not in ("error", "popularity"):
            raise ConfigError(f"unknown={unknown!r}; expected 'error' or 'popularity'")
        lists = searched("recommend", search, self._index)
        if history is not None or (self.capability == "generator" and users is not None):
            some, others = self._limits(only, exclude)
            return self._recommend_by_history(
                users, history, whole(k), exclude_seen, some, others, unknown, lists
            )
        if users is None:
            raise ConfigError("recommend() needs users, history, or both; found neither")
        names, single = several(users)
        rows = self.users.find(names).astype(np.int64)  # (B,), -1 if unknown
        strange = np.flatnonzero(rows < 0)
        if unknown == "error" and len(strange):
            self.users.index(names[strange[0]])
        some, others = self._limits(only, exclude)
        scores, items = recommended(
            self._items, self.user_vectors, rows, whole(k), exclude_seen, some, others, lists
        )
        return self._named(scores, items, single)

    def _recommend_by_history(
        self,
        users: Any,
        history: Iterable[Any] | None,
        k: int,
        exclude_seen: bool,
        only: np.ndarray | None,
        exclude: np.ndarray,
        unknown: str,
        lists: Any,
    ) -> tuple[np.ndarray, np.ndarray]:
        """See :meth:`recommend`; a generator's known users get their known pairs as histories."""
        names, single = (None, True) if users is None else several(users)
        rows = None if names is None else self.users.find(names).astype(np.int64)
        if history is None:
            assert rows is not None
            known = Histories.from_interactions(self._items.seen)
            taken = [known[row] if row >= 0 else np.empty(0, np.int64) for row in rows]
        else:
            nested, alone = histories.given(history)
            single = single and alone
            taken = [self._items.indices(one) for one in nested]
        if rows is not None and len(rows) != len(taken):
            raise ConfigError(f"{len(rows)} users and {len(taken)} histories; expected one history a user")
        n_base = len(self._items.base)
        read = [items[items < n_base] for items in taken]  # no model knows the items added since
        empty = np.flatnonzero([not len(items) for items in read])
        if len(empty) and unknown == "error":
            if history is None and names is not None and rows is not None and rows[empty[0]] < 0:
                self.users.index(names[empty[0]])
            raise ConfigError(
                f"the history of row {empty[0]} holds no item that the model knows; give some, or "
                "unknown='popularity'"
            )
        hidden = [self._hidden(row, items, exclude_seen) for row, items in zip(
            [-1] * len(taken) if rows is None else rows.tolist(), taken, strict=True)]  # fmt: skip
        answered = np.flatnonzero([len(items) > 0 for items in read])
        scores = np.full((len(taken), k), -np.inf, dtype=np.float32)
        found = np.full((len(taken), k), -1, dtype=np.int64)
        query = Query(
            None if rows is None else rows[answered], Histories.from_lists([read[row] for row in answered])
        )
        own = [hidden[row] for row in answered]
        if self.capability == "generator":
            answer = histories.generated(self.module, self._items, query, k, own, only, exclude)
        else:
            queries = histories.encoded(self.capability, self.module, self._items, query, self.meta)
            answer = recommended_for(self._items, queries, own, k, only, exclude, lists)
        scores[answered], found[answered] = answer
        for row in empty:
            best, at = self._items.popular(k, only, np.union1d(exclude, hidden[row]))
            scores[row, : len(at)], found[row, : len(at)] = best, at
        return self._named(scores, found, single)

    def _hidden(self, user: int, taken: np.ndarray, exclude_seen: bool) -> np.ndarray:
        """Items that a user is not offered, ascending: known pairs and history."""
        if not exclude_seen:
            return np.empty(0, np.int64)
        known = self._items.seen.items_of(user) if user >= 0 else np.empty(0, np.int64)
        return np.union1d(known, taken).astype(np.int64)

    def _refuse_generator(self, what: str) -> None:
        """Raises :class:`ConfigError` where there are no item vectors."""
        if self.capability == "generator":
            raise ConfigError(
                f"{what} needs item embeddings, and {self.meta.get('model', 'this model')} generates lists "
                "without any"
            )

    def similar_items(
        self, items: Any, k: int = 10, *, search: Search = "auto"
    ) -> tuple[np.ndarray, np.ndarray]:
        """The items whose embeddings have the highest cosine with an item's; the item itself is left out.

        Args:
            items: one id, or several.
            k: how many items.
            search: as in :meth:`recommend`.

        Returns:
            Item ids and ``float32`` cosines, shaped and filled up as in :meth:`recommend`.

        Raises:
            UnknownIdError: an item is not known.
            ConfigError: ``k`` is below 1, ``search`` is none of the choices, or there is no index for an
                approximate search.
        """
        self._refuse_generator("similar_items")
        lists = searched("similar", search, self._index)
        names, single = several(items)
        scores, found = similar(self._items, self._items.indices(names), whole(k), lists)
        return self._named(scores, found, single)

    def _limits(
        self, only: Iterable[Any] | None, exclude: Iterable[Any] | None
    ) -> tuple[np.ndarray | None, np.ndarray]:
        """Indices of the items to choose among, None for all, and of those to leave out, both ascending."""
        find = self._items.indices
        some = None if only is None else np.unique(find(several(only)[0]))
        return some, np.empty(0, np.int64) if exclude is None else np.unique(find(several(exclude)[0]))

    def _named(self, scores: np.ndarray, items: np.ndarray, single: bool) -> tuple[np.ndarray, np.ndarray]:
        ids = self._items.names(items)
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
        rule = usable(self.rule, self.content, self.meta)
        added = Vocabulary(several(ids)[0])  # refuses repeats
        self._items.refuse(added)  # before any work is done
        placed = place(added, features, rule, self.content, self._items.base.table)
        self._items = self._items.grown(added, placed)
        return self

    def copy(self) -> Self:
        """A recommender with the same items that grows on its own; vectors and index are shared."""
        return copy.copy(self)

    # -- an index --------------------------------------------------------------------------------------------

    def build_index(
        self,
        path: str | Path,
        *,
        recall: float = 0.95,
        k: int = 20,
        lists: int | None = None,
        similar: bool = True,
        seed: int = 0,
    ) -> Mapping[str, Facts]:
        """Builds an index beside a saved recommender, so that a search need not compare with every item.

        Items are divided among lists with near vectors, and a search looks through the nearest ones: as many
        as a sample of users (of items, for :meth:`similar_items`) needs to find the wanted share of the ``k``
        best on average, with 99.5 % confidence. Vectors are read in blocks, so a loaded recommender, whose
        vectors are in a mapped file, is never in memory as a whole. The index takes the place of the vectors
        on disk once more, or twice with ``similar``. :meth:`load` finds it again, for as long as the vectors
        are those it was built for.

        Args:
            path: directory of the saved recommender; the index goes into ``index/`` below it.
            recall: wanted share, above 0 and up to 1.
            k: see above; more than ``k`` items are found with a lower recall.
            lists: among how many; default: four times the square root of the number of items.
            similar: build one for :meth:`similar_items` too, by cosine.
            seed: of everything drawn.

        Returns:
            What is known of it: recall on users and items that were not used for choosing, lists, probes.

        Raises:
            ConfigError: an option is out of range, or the vectors are sparse, which FAISS does not index.
            CheckpointError: ``path`` does not hold this recommender, or cannot be written.
            MissingDependencyError: faiss is not installed (extra ``ann``).
        """
        self._refuse_generator("build_index")
        items, users = (dense(table, self.meta) for table in (self._items.base.table, self.user_vectors))
        held = array_bundle.Bundle(Path(path) / HEAD, FORMAT).files.get("item_vectors", {}).get("sha256")
        if held != self._recorded or self._items.added is not None:
            raise CheckpointError(
                f"{path}: does not hold this recommender as it is now; save it there first (save)"
            )
        self._index = build_index(Path(path), items, users, held, recall, k, lists, similar, seed)
        return self._index.facts

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
        capability, state = histories.described(self.module, self.capability, self.meta)
        arrays |= state
        if self.capability == "generator" and self._items.seen.times is not None:
            arrays["seen_times"] = self._items.seen.times
        head = {"rule": rule, "modalities": list(self.content), "meta": self.meta, **capability}
        if not isinstance(self.item_vectors, np.ndarray):
            head["sparse"] = self.item_vectors.shape[1]
        files = array_bundle.write(
            path / HEAD, FORMAT, head, arrays, {"users": self.users, "items": self.items}
        )
        if self._items.added is None:
            self._recorded = files.get("item_vectors", {}).get("sha256")
        return path

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads what :meth:`save` wrote, and the index if :meth:`build_index` made one for it.

        Dense vectors, content, index and, if there are very many, ids are memory-mapped: what is asked for is
        read when it is.

        Raises:
            CheckpointError: a file is missing, not the one that was written, or of another format.
            MissingDependencyError: there is an index, and faiss is not installed (extra ``ann``).
        """
        saved = array_bundle.Bundle(Path(path) / HEAD, FORMAT)
        users, items = (saved.ids(f"{kind}s", kind) for kind in ("user", "item"))
        content = {
            m: ContentVectors(saved.array(f"content_{m}", mmap=True), saved.array(f"content_{m}_items"))
            for m in saved.head["modalities"]
        }
        pairs = saved.array("seen")  # (2, E)
        times = saved.array("seen_times") if "seen_times" in saved.files else None
        seen = Interactions(pairs[0], pairs[1], len(users), len(items), times, name="seen")
        rule, width = restored(saved, saved.head["rule"]), saved.head.get("sparse")
        tables = [vectors.read(saved, f"{kind}_vectors", width, mmap=True) for kind in ("user", "item")]
        capability, module = histories.restored(saved)
        made = cls(
            users, items, tables[0], tables[1], seen, rule, content, saved.head["meta"], capability, module
        )
        made._recorded = saved.files.get("item_vectors", {}).get("sha256")
        if not width:
            made._index = open_index(Path(path), tables[1], tables[0], made._recorded)
        return made

    def export(
        self,
        path: str | Path,
        k: int = 10,
        users: Iterable[Any] | None = None,
        *,
        exclude_seen: bool = True,
        only: Iterable[Any] | None = None,
        exclude: Iterable[Any] | None = None,
        search: Search = "auto",
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
            search: as in :meth:`recommend`.

        Raises:
            UnknownIdError: a user or an item is not known.
            ConfigError: ``k`` is below 1, or ``search`` cannot be had.
            CheckpointError: the file cannot be written.
        """
        names = list(self.users.ids) if users is None else [str(name) for name in several(users)[0]]
        self.users.indices(names)  # an unknown user is found before anything is computed
        some, others = (None if ids is None else several(ids)[0] for ids in (only, exclude))

        def answer(part: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
            return self.recommend(
                part, k, exclude_seen=exclude_seen, only=some, exclude=others, search=search
            )

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
        self._refuse_generator("export_faiss")
        write_faiss(Path(path), self.items, dense(self.item_vectors, self.meta), self.meta)
        return Path(path)
