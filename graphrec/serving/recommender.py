"""Recommendations by external id, from files that need neither the dataset nor the model.

A :class:`Recommender` holds the final embeddings of a trained ranker, the external ids, the known pairs of
users and items and, for models with a cold-start rule, the content vectors of the items it was trained on.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from graphrec.core.bundle import FileFormat
from graphrec.core.errors import CheckpointError, ConfigError, first_few
from graphrec.data import Dataset, Histories, Interactions, Query, Vocabulary
from graphrec.features.extract.decoding import MAX_PIXELS
from graphrec.models.base import ColdStartRule, ContentProjection, Features, Ranker
from graphrec.models.capabilities import ORDERED, check_unweighted
from graphrec.serving import array_bundle, histories, vectors
from graphrec.serving.catalog import ItemBlock, Items
from graphrec.serving.content import (
    Extractors,
    check_given_once,
    encode_content,
    extractors_from_saved,
    extractors_to_saved,
    saved_extractors,
)
from graphrec.serving.export import check_suffix, require_dense, write_faiss, write_recommendations
from graphrec.serving.ivf import Index, build_index, open_index
from graphrec.serving.placement import (
    ContentVectors,
    check_embeddings,
    embed_new_items,
    modality_dims,
    require_rule,
    rule_from_saved,
    rule_to_saved,
    trained_content,
    upgrade_rule,
)
from graphrec.serving.query import NO_ITEMS, Facts, Limits, Lists, SearchRequest, TopK, empty_topk
from graphrec.serving.recommend import (
    Search,
    as_list,
    check_k,
    choose_lists,
    fill_with_popular,
    hide_lists,
    recommend_to_users,
    search_items,
    similar_by_index,
    without,
)
from graphrec.serving.vectors import Vectors

if TYPE_CHECKING:
    from graphrec.models.capabilities import QueryModule
    from graphrec.models.fold_in import FoldIn, Folding

FORMAT = FileFormat("recommender", 2, {1: upgrade_rule})
HEAD = "recommender.json"


class Recommender:
    """Recommends items to users by external id.

    Use :meth:`from_model` or :meth:`load` to create one. The arguments are attributes, too.

    Args:
        users: external user ids.
        items: external item ids.
        user_vectors: ``(n_users, d) float32``, an array or a sparse matrix of rows.
        item_vectors: ``(n_items, d) float32``, likewise; a score is the inner product.
        seen: known pairs, which are not recommended again; an item's popularity is its number of pairs.
        rule: cold-start rule that gives new items their embeddings, or None.
        content: by modality, the content vectors that new items are compared with; may be empty.
        meta: JSON-able facts: names of the model and the dataset, and the dataset's fingerprint.
        capability: how the model answers queries, see :mod:`graphrec.models.capabilities`.
        module: the encoder or generator of a model that has one.
        extractors: by modality, the extractor of the model's features, which encodes content of new items.
        fold_in: how a model with embeddings answers a history; None: it cannot.
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
        extractors: Extractors | None = None,
        fold_in: FoldIn | None = None,
    ) -> None:
        self.capability = capability
        self.module = module
        self.fold_in = fold_in
        self._folding: Folding | None = None  # made for the first history
        self.users = users
        self.user_vectors = user_vectors
        self.rule = rule
        self.content = dict(content or {})
        self.extractors = dict(extractors or {})
        self.meta = dict(meta or {})
        self._items = Items(ItemBlock(items, item_vectors, 0), seen)
        self._index: Index | None = None
        self._vectors_sha256: str | None = None  # of the file of the item vectors, once saved or loaded

    @property
    def items(self) -> Vocabulary:
        """External ids of all items, with added ones."""
        return self._items.all_ids

    @property
    def item_vectors(self) -> Vectors:
        """The vectors of all items ``(n_items, d) float32``."""
        return self._items.all_vectors

    @property
    def seen(self) -> Interactions:
        """Known pairs, which are not recommended again."""
        return self._items.all_seen

    @property
    def n_items(self) -> int:
        """The number of items; faster than ``len(items)`` after items were added."""
        return len(self._items)

    @property
    def modalities(self) -> dict[str, int]:
        """Modality -> length of the vectors that :meth:`add_items` takes; empty if it cannot add items."""
        return modality_dims(self.rule, self.content)

    @property
    def index(self) -> Mapping[str, Facts] | None:
        """Size and recall of the index, by ``"recommend"`` and, if built, ``"similar"``; None without one."""
        return None if self._index is None else {task: lists.facts for task, lists in self._index.items()}

    @property
    def answers_histories(self) -> bool:
        """Whether :meth:`recommend` takes histories."""
        return self.capability != "embeddings" or self.fold_in is not None

    def __repr__(self) -> str:
        origin = ", ".join(filter(None, [self.meta.get("model"), self.meta.get("dataset")])) or "vectors"
        dim = self._items.base.table.shape[1]
        return f"Recommender({origin}: {len(self.users):,} users, {self.n_items:,} items, dim {dim})"

    # -- from a model ----------------------------------------------------------------------------------------

    @classmethod
    def from_model(
        cls,
        model: Ranker,
        data: Dataset,
        features: Features | None = None,
        *,
        seen: Interactions | None = None,
    ) -> Self:
        """Builds a recommender from a trained model; later training of the model does not change it.

        Args:
            model: a trained ranker for this dataset.
            data: dataset with the ids and the known interactions.
            features: feature tables the model was built with; needed by :meth:`add_items` of models with a
                ``cold_start_rule``, unused by others.
            seen: pairs not to recommend again; default: the pairs of all splits.

        Raises:
            ConfigError: the model is not a ranker.
            DataError: the model or ``seen`` has other numbers of users or items than the dataset.
            FeatureError: the tables are for other items, or lack a modality that the model was built with.
            TrainingError: an embedding is not finite.
        """
        seen = data.train + data.valid + data.test if seen is None else seen
        users, items = vectors.model_vectors(model, data, seen)
        rule = model.cold_start_rule
        content = trained_content(rule, data, features) if rule is not None and features else {}
        meta = {"model": model.name, "dataset": data.name, "fingerprint": data.fingerprint}
        module = histories.query_module(model)
        used = {m: features[m] for m in modality_dims(rule, content) if m in features} if features else {}
        extractors = saved_extractors(used)
        return cls(
            data.users,
            data.items,
            users,
            items,
            seen,
            rule,
            content,
            meta,
            model.capability,
            module,
            extractors,
            histories.fold_in_rule(model, items),
        )

    # -- recommendations -------------------------------------------------------------------------------------

    def recommend(
        self,
        users: Any = None,
        k: int = 10,
        *,
        history: Iterable[Any] | None = None,
        weights: Iterable[Any] | None = None,
        times: Iterable[Any] | None = None,
        exclude_seen: bool = True,
        only: Iterable[Any] | None = None,
        exclude: Iterable[Any] | None = None,
        unknown: Literal["error", "popularity"] = "error",
        search: Search = "auto",
        strict: bool = True,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The items with the highest scores, best first; among equal scores the item with the lowest index.

        The result for a user does not depend on the other users of the list.

        Args:
            users: one id, or several; None if ``history`` alone describes the users.
            k: number of items per user.
            history: ids of the items a user took, oldest first, or one such list per user. It replaces the
                known history of the user, who may also be unknown. Models with embeddings fold it in
                (:mod:`graphrec.models.fold_in`). Items added by :meth:`add_items` are ignored in histories,
                with their weights and times.
            weights: how much each item of ``history`` counts, such as how often it was bought: a number from
                1e-30 to 1e6 for each, in the form of ``history``. Default: each item counts 1, however often
                it is repeated; the weights of repeated items add up. Models that read sequences (encoders
                and generators) refuse weights.
            times: when the user took each item of ``history``, in seconds since the epoch and in its form.
                They put it into order, oldest first; items of the same time stay in the given order. Only
                models that read sequences depend on order and times; others answer as without.
            exclude_seen: leave out the items of the user's known pairs and of ``history``.
            only: recommend only these items, such as those in stock.
            exclude: never recommend these items.
            unknown: result for unknown users: an error, or the most popular items, scored by their number of
                known interactions.
            search: ``"exact"`` compares with every item; ``"approximate"`` with the items in the lists of
                :meth:`build_index` nearest to the user, and with added items; ``"auto"`` is approximate if
                there is an index. With ``only``, and for unknown users, the search is always exact.
            strict: False leaves unknown ids of ``users``, ``only`` and ``exclude`` out, with one warning that
                counts and names them; unknown users get rows without items.

        Returns:
            Item ids and ``float32`` scores, both ``(k,)`` for one id and ``(B, k)`` for several. If fewer
            than ``k`` items can be recommended, ids end in None and scores in ``-inf``.

        Raises:
            UnknownIdError: a user (unless ``unknown="popularity"``) or an item is unknown; without
                ``strict``, no item of ``only`` is known.
            ConfigError: ``k`` is below 1, ``unknown`` or ``search`` is none of the choices, there is no
                index for an approximate search, the model cannot answer histories or reads no weights, a
                history is empty (unless ``unknown="popularity"``), ``users`` and ``history`` have different
                lengths, or ``weights`` or ``times`` are not in the form of ``history``.
            DataError: a row of ``weights`` or ``times`` has another length than its history, or holds
                something else than a finite number or a weight in its range; the message names the row.
        """
        if unknown not in ("error", "popularity"):
            raise ConfigError(f"unknown={unknown!r}; expected 'error' or 'popularity'")
        if not strict:
            options: dict[str, Any] = {"history": history, "weights": weights, "times": times}
            options |= {"exclude_seen": exclude_seen, "unknown": unknown, "search": search}
            return self._recommend_to_known(users, k, only, exclude, options)
        lists = choose_lists("recommend", search, self._index)
        limits = Limits(
            check_k(k),
            None if only is None else self._sorted_indices(only),
            NO_ITEMS if exclude is None else self._sorted_indices(exclude),
        )
        if history is None and (weights is not None or times is not None):
            raise ConfigError("weights and times describe the items of a history; found no history")
        if history is not None or (self.capability == "generator" and users is not None):
            taken = None if history is None else self._as_histories(history, weights, times)
            return self._recommend_by_history(users, taken, limits, exclude_seen, unknown, lists)
        if users is None:
            raise ConfigError("recommend() needs users, history, or both; found neither")
        ids, single = as_list(users)
        rows = self.users.find(ids).astype(np.int64)  # (B,), -1 if unknown
        missing = np.flatnonzero(rows < 0)
        if unknown == "error" and len(missing):
            self.users.index(ids[missing[0]])  # raises
        best = recommend_to_users(self._items, self.user_vectors, rows, limits, exclude_seen, lists)
        return self._with_ids(best, single)

    def unknown_ids(
        self,
        users: Any = None,
        only: Iterable[Any] | None = None,
        exclude: Iterable[Any] | None = None,
    ) -> dict[str, list[str]]:
        """The ids that the recommender does not know, by argument, each once and in the order given.

        Args:
            users: one user id, or several.
            only: item ids.
            exclude: item ids.

        Returns:
            ``users``, ``only`` and ``exclude`` -> unknown ids; arguments without any are left out.
        """
        unknown: dict[str, list[str]] = {}
        for name, given, find in (
            ("users", users, self.users.find),
            ("only", only, self._items.find),
            ("exclude", exclude, self._items.find),
        ):
            ids = [] if given is None else [str(value) for value in as_list(given)[0]]
            missing = np.flatnonzero(np.asarray(find(ids)) < 0)
            if len(missing):
                unknown[name] = list(dict.fromkeys(ids[row] for row in missing))
        return unknown

    def _recommend_to_known(
        self,
        users: Any,
        k: int,
        only: Iterable[Any] | None,
        exclude: Iterable[Any] | None,
        options: dict[str, Any],
    ) -> tuple[np.ndarray, np.ndarray]:
        """:meth:`recommend` without the ids that are unknown."""
        only = None if only is None else [str(value) for value in as_list(only)[0]]
        exclude = None if exclude is None else [str(value) for value in as_list(exclude)[0]]
        looked_up = users is not None and options["history"] is None and options["unknown"] == "error"
        unknown = self.unknown_ids(users if looked_up else None, only, exclude)
        if unknown:
            warnings.warn(f"unknown ids are left out: {_counted(unknown)}", stacklevel=3)
        if only and set(only) == set(unknown.get("only", ())):
            self._items.indices(only)  # raises
        only = without(only, unknown.get("only", ()))
        exclude = without(exclude, unknown.get("exclude", ()))
        if "users" not in unknown:
            return self.recommend(users, k, only=only, exclude=exclude, **options)
        ids, single = as_list(users)
        known = np.flatnonzero(self.users.find(ids) >= 0)
        items = np.full((len(ids), check_k(k)), None, dtype=object)
        scores = np.full(items.shape, -np.inf, dtype=np.float32)
        if len(known):
            names = [ids[row] for row in known]
            items[known], scores[known] = self.recommend(names, k, only=only, exclude=exclude, **options)
        return (items[0], scores[0]) if single else (items, scores)

    def _as_histories(
        self, history: Iterable[Any], weights: Iterable[Any] | None, times: Iterable[Any] | None
    ) -> tuple[Histories, bool]:
        """The arguments of :meth:`recommend` by index, oldest first, and whether they describe one user."""
        id_lists, single = histories.as_histories(history)
        taken = Histories.from_lists(
            [self._items.indices(id_list) for id_list in id_lists],
            histories.as_numbers(times, "times", single),
            histories.as_numbers(weights, "weights", single),
        )
        if self.capability in ORDERED:
            check_unweighted(taken, str(self.meta.get("model", "this model")))
        return taken.by_time(), single

    def _recommend_by_history(
        self,
        users: Any,
        history: tuple[Histories, bool] | None,
        limits: Limits,
        exclude_seen: bool,
        unknown: str,
        lists: Lists | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """See :meth:`recommend`; without ``history``, users have their known pairs as histories."""
        ids, single = ([], True) if users is None else as_list(users)
        rows = None if users is None else self.users.find(ids).astype(np.int64)
        if history is None:
            assert rows is not None
            taken = Histories.from_interactions(self._items.seen).take(np.maximum(rows, 0))
            taken = taken.where((rows >= 0)[taken.row_indices])
        else:
            taken, single_history = history
            single = single and single_history
        if rows is not None and len(rows) != len(taken):
            raise ConfigError(f"{len(rows)} users and {len(taken)} histories; expected one history per user")
        base_histories = taken.where(taken.items < len(self._items.base))  # the model knows no added items
        empty = np.flatnonzero(base_histories.lengths == 0)
        if len(empty) and unknown == "error":
            if history is None and rows is not None and rows[empty[0]] < 0:
                self.users.index(ids[empty[0]])  # raises
            raise ConfigError(
                f"the history of row {empty[0]} holds no item that the model knows; expected one, or "
                "unknown='popularity'"
            )
        hidden = [NO_ITEMS] * len(taken)
        if exclude_seen:
            owners = [-1] * len(taken) if rows is None else rows.tolist()
            hidden = [self._hidden_items(owner, taken[row]) for row, owner in enumerate(owners)]
        answered = np.flatnonzero(base_histories.lengths)
        query = Query(None if rows is None else rows[answered], base_histories.take(answered))
        hidden_answered = [hidden[row] for row in answered]
        best = empty_topk(len(taken), limits.k)
        if self.capability == "generator":
            answers = histories.generate_lists(self.module, self._items, query, hidden_answered, limits)
        else:
            if self.fold_in is not None and (self._folding is None or self._folding.rule is not self.fold_in):
                self._folding = histories.folding(self.fold_in, self._items)
            queries = histories.encode_histories(
                self.capability, self.module, self._folding, self._items, query, self.meta
            )
            request = SearchRequest(queries, limits, hide_lists(hidden_answered))
            answers = search_items(self._items, request, lists)
        best[0][answered], best[1][answered] = answers
        for row in empty:
            exclude = np.union1d(limits.exclude, hidden[row])
            fill_with_popular(self._items, best, np.array([row]), limits._replace(exclude=exclude))
        return self._with_ids(best, single)

    def _hidden_items(self, user: int, taken: np.ndarray) -> np.ndarray:
        """Items of a user's known pairs and history, ascending; the user -1 has no known pairs."""
        known = self._items.seen.items_of(user) if user >= 0 else NO_ITEMS
        return np.union1d(known, taken).astype(np.int64)

    def _require_item_vectors(self, method: str) -> None:
        """Raises :class:`ConfigError` for the recommender of a generator, which has no item vectors."""
        if self.capability == "generator":
            raise ConfigError(
                f"{method} needs item embeddings, but {self.meta.get('model', 'this model')} generates lists "
                "without any"
            )

    def similar_items(
        self, items: Any, k: int = 10, *, search: Search = "auto"
    ) -> tuple[np.ndarray, np.ndarray]:
        """The items whose embeddings have the highest cosine with an item's, the item itself left out.

        Args:
            items: one id, or several.
            k: number of similar items per item.
            search: as in :meth:`recommend`.

        Returns:
            Item ids and ``float32`` cosines, in the shapes of :meth:`recommend`.

        Raises:
            UnknownIdError: an item is not known.
            ConfigError: ``k`` is below 1, ``search`` is none of the choices, or there is no index for an
                approximate search.
        """
        self._require_item_vectors("similar_items")
        lists = choose_lists("similar", search, self._index)
        ids, single = as_list(items)
        best = similar_by_index(self._items, self._items.indices(ids), check_k(k), lists)
        return self._with_ids(best, single)

    def _sorted_indices(self, ids: Iterable[Any]) -> np.ndarray:
        """Indices of the items with these ids, ascending and without repeats."""
        return np.unique(self._items.indices(as_list(ids)[0]))

    def _with_ids(self, best: TopK, single: bool) -> tuple[np.ndarray, np.ndarray]:
        """Item ids and scores, only the first row with ``single``."""
        scores, items = best
        ids = self._items.names(items)
        return (ids[0], scores[0]) if single else (ids, scores)

    # -- new items -------------------------------------------------------------------------------------------

    def encode_content(
        self,
        ids: Iterable[Any],
        content: Mapping[str, Sequence[str | bytes | Path | None] | None],
        *,
        max_pixels: int = MAX_PIXELS,
    ) -> dict[str, np.ndarray]:
        """The vectors of new items' content, as the extraction of the model's features gives them.

        Only these items are encoded. The extractor is kept with the recommender, with what it learned from
        the corpus, so that a new text does not change the vectors of other items.

        Args:
            ids: external ids of the items, for messages.
            content: modality -> one value per item: a text, or for pictures and other files their bytes or
                path; None for an item without it.
            max_pixels: larger pictures are refused.

        Returns:
            Modality -> vectors ``(n, d_m) float32``, a row of NaN for an item without content.

        Raises:
            FeatureError: the recommender holds no extractor of a modality, the extractor cannot be made
                anew, or content cannot be read; names the modality and the item.
        """
        names = [str(value) for value in as_list(ids)[0]]
        return encode_content(self.extractors, self.modalities, names, content, max_pixels)

    def add_items(
        self,
        ids: Iterable[Any],
        features: Mapping[str, Any] | None = None,
        *,
        content: Mapping[str, Sequence[str | bytes | Path | None] | None] | None = None,
    ) -> Self:
        """Adds items without interactions, embedded by the model's cold-start rule; changes this object.

        A new item gets the embedding of an item without train interactions: with most models the mean
        direction and length of its ``k`` nearest items with train interactions, in each modality it has,
        weighted as in the model; with VBPR and AlphaRec the projection of its content; with ItemKNN on
        content its similarities to the nearest items. :meth:`save` saves added items, too.

        Args:
            ids: their external ids, all of them new.
            features: modality -> vectors ``(n, d_m)``, as an array, rows or a feature table, computed by the
                extractor of the model's features. A row of NaN, zeros or None, and a modality that is left
                out or None, mean that the item does not have the modality.
            content: the items' texts and files, for modalities without vectors; see :meth:`encode_content`.

        Returns:
            The recommender itself.

        Raises:
            FeatureError: the recommender cannot embed new items, a modality is not one of the model's, its
                vectors have another shape or are not finite, an item has no content at all, content cannot
                be encoded, a modality is in both ``features`` and ``content``, or an embedding would not be
                finite or be far longer than those of known items.
            DataError: an id is known already or occurs twice.
        """
        rule = require_rule(self.rule, self.content, self.meta)
        added = Vocabulary(as_list(ids)[0])  # refuses repeats
        self._items.check_new(added)
        features = dict(features or {})
        check_given_once(features, content or {})
        features |= self.encode_content(added.ids, content or {})
        base = self._items.base
        embeddings = embed_new_items(added, features, rule, self.content, base.table)
        # Means of known vectors and lists of cosines are no longer than those; a projection can be.
        longest = base.longest if isinstance(rule, ContentProjection) else None
        check_embeddings(added, embeddings, longest)
        self._items = self._items.with_added(added, embeddings)
        return self

    def copy(self) -> Self:
        """A recommender with the same items; adding items to one leaves the other as it is."""
        return copy.copy(self)

    # -- index --------------------------------------------------------------------------------------------

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
        """Builds an index for a saved recommender, so that a search need not compare with every item.

        Items are divided among lists by their vectors, and a search compares with the items of the nearest
        lists: as many lists as a sample of users (of items, for :meth:`similar_items`) needs to find the
        wanted share of the ``k`` best items on average, at 99.5 % confidence. Vectors are read in blocks, so
        the mapped vectors of a loaded recommender are never in memory as a whole. On disk, the index takes as
        much space as the vectors, or twice as much with ``similar``. :meth:`load` opens it, as long as it is
        of the saved vectors.

        Args:
            path: directory of the saved recommender; the index goes into its folder ``index``.
            recall: wanted share of the ``k`` best items, above 0 and up to 1.
            k: number of items the recall is measured at; longer results have a lower recall.
            lists: number of lists; default: four times the square root of the number of items.
            similar: build an index for :meth:`similar_items`, too, by cosine.
            seed: seed of all random draws.

        Returns:
            Its size, numbers of lists and probes, and its recall on users and items not used to choose them.

        Raises:
            ConfigError: an option is out of range, or the vectors are sparse, which FAISS does not index.
            CheckpointError: ``path`` does not hold this recommender, or cannot be written.
            MissingDependencyError: faiss is not installed (extra ``ann``).
        """
        self._require_item_vectors("build_index")
        items, users = (
            require_dense(table, self.meta) for table in (self._items.base.table, self.user_vectors)
        )
        sha256 = _vectors_sha256(array_bundle.Bundle(Path(path) / HEAD, FORMAT).files)
        if sha256 != self._vectors_sha256 or self._items.added is not None:
            raise CheckpointError(
                f"{path}: does not hold this recommender in its present state; save it there first (save)"
            )
        self._index = build_index(Path(path), items, users, sha256, recall, k, lists, similar, seed)
        facts = self.index
        assert facts is not None
        return facts

    # -- files ---------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Saves the recommender as a directory of ``.npy`` and Arrow files headed by ``recommender.json``.

        Args:
            path: directory to create; a recommender already in it stays intact until this one is complete.

        Raises:
            CheckpointError: it cannot be written.
        """
        path = Path(path)
        rule, arrays = rule_to_saved(self.rule)
        arrays |= vectors.to_arrays("user_vectors", self.user_vectors)
        arrays |= vectors.to_arrays("item_vectors", self.item_vectors)
        arrays["seen"] = np.stack([self.seen.users, self.seen.items])
        for modality, known in self.content.items():
            arrays |= {f"content_{modality}": known.values, f"content_{modality}_items": known.items}
        extractors, fitted = extractors_to_saved(self.extractors)
        arrays |= fitted
        capability, state = histories.module_to_saved(self.module, self.capability, self.meta)
        arrays |= state
        folding, folded = histories.fold_in_to_saved(self.fold_in)
        arrays |= folded
        if self.capability == "generator" and self._items.seen.times is not None:
            arrays["seen_times"] = self._items.seen.times
        head = {"rule": rule, "modalities": list(self.content), "meta": self.meta}
        head |= capability | folding
        if extractors:
            head["extractors"] = extractors
        if not isinstance(self.item_vectors, np.ndarray):
            head["sparse"] = self.item_vectors.shape[1]
        files = array_bundle.write(
            path / HEAD, FORMAT, head, arrays, {"users": self.users, "items": self.items}
        )
        if self._items.added is None:
            self._vectors_sha256 = _vectors_sha256(files)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Loads a saved recommender, and its index if :meth:`build_index` built one.

        Dense vectors, content, the index and long lists of ids are memory-mapped, so they are read on demand.

        Raises:
            CheckpointError: a file is missing, differs from the one that was written, or has another format.
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
        rule = rule_from_saved(saved, saved.head["rule"])
        width = saved.head.get("sparse")
        user_vectors = vectors.read_vectors(saved, "user_vectors", width)
        item_vectors = vectors.read_vectors(saved, "item_vectors", width)
        capability, module = histories.module_from_saved(saved)
        meta = saved.head["meta"]
        extractors = extractors_from_saved(saved)
        recommender = cls(
            users,
            items,
            user_vectors,
            item_vectors,
            seen,
            rule,
            content,
            meta,
            capability,
            module,
            extractors,
            histories.fold_in_from_saved(saved),
        )
        recommender._vectors_sha256 = _vectors_sha256(saved.files)
        if not width:
            recommender._index = open_index(
                Path(path), item_vectors, user_vectors, recommender._vectors_sha256
            )
        return recommender

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
        escape_formulas: bool = False,
    ) -> Path:
        """Writes recommendations as a table, one row per user and rank: ``user, rank, item, score``.

        The suffix decides the format: ``.parquet``, ``.csv``, ``.jsonl`` (one object a line) or ``.arrow``.

        Users are processed in blocks, so memory does not grow with their number. Ranks count from 1.

        Args:
            path: the file; it is complete or absent, also after a crash.
            k: items per user; users with fewer candidates have fewer rows.
            users: ids; default: all.
            exclude_seen: as in :meth:`recommend`.
            only: as in :meth:`recommend`.
            exclude: as in :meth:`recommend`.
            search: as in :meth:`recommend`.
            escape_formulas: in ``.csv``, put ``'`` before ids that begin with ``=``, ``+``, ``-``, ``@``, a
                tab or a carriage return, so that a spreadsheet does not run them. Such ids are changed.

        Raises:
            UnknownIdError: a user or an item is not known.
            ConfigError: ``k`` is below 1, ``search`` is invalid or needs a missing index, another suffix, or
                ``escape_formulas`` for another format than CSV.
            CheckpointError: the file cannot be written.
        """
        check_suffix(Path(path))
        ids = list(self.users.ids) if users is None else [str(user) for user in as_list(users)[0]]
        self.users.indices(ids)  # fails for an unknown user before anything is computed
        recommend = partial(
            self.recommend,
            k=k,
            exclude_seen=exclude_seen,
            only=None if only is None else as_list(only)[0],
            exclude=None if exclude is None else as_list(exclude)[0],
            search=search,
        )
        write_recommendations(Path(path), ids, recommend, escape_formulas)
        return Path(path)

    def export_faiss(self, path: str | Path) -> Path:
        """Writes a FAISS index over the item embeddings for inner-product search.

        The directory gets ``items.faiss`` (``IndexFlatIP``), ``items.arrow`` (column ``id``, one row
        per vector) and, last, ``index.json`` with their sha256. Search it with rows of ``user_vectors``.

        Args:
            path: directory to create.

        Raises:
            ConfigError: the vectors are sparse, which FAISS does not index.
            MissingDependencyError: faiss is not installed (extra ``ann``).
            CheckpointError: the directory cannot be written.
        """
        self._require_item_vectors("export_faiss")
        write_faiss(Path(path), self.items, require_dense(self.item_vectors, self.meta), self.meta)
        return Path(path)


def _counted(unknown: Mapping[str, Sequence[str]]) -> str:
    """Numbers of the unknown ids by argument, with the first of each."""
    parts = [
        f"{len(ids):,} of {argument}: {first_few(list(map(repr, ids)))}" for argument, ids in unknown.items()
    ]
    return "; ".join(parts)


def _vectors_sha256(files: Mapping[str, Mapping[str, str]]) -> str | None:
    """The sha256 of the file of dense item vectors, among the files of a bundle; None if they are sparse."""
    return files.get("item_vectors", {}).get("sha256")
