"""A recommender that answers many requests at once while items are added to it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np

from graphrec.core.errors import ConfigError, FeatureError, GraphrecError
from graphrec.serving import Recommender
from graphrec.serving.content import check_given_once
from graphrec.serving.http import schema
from graphrec.serving.http.journal import Addition, Journal
from graphrec.serving.recommend import Search

T = TypeVar("T")
Answer = tuple[np.ndarray, np.ndarray]
REPLAYED = 1000
"""Additions of a journal that are replayed at once."""
NO_ITEMS = "this server accepts no items; start one without --read-only, with a place for its --journal"
NO_HISTORIES = "this recommender cannot answer a history; train and save it again"
BATCH = 256
"""Most users or items in one search for several requests."""


class Options(NamedTuple):
    """Options of a request for recommendations; see :meth:`graphrec.Recommender.recommend`."""

    k: int
    exclude_seen: bool = True
    only: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    unknown: Literal["error", "popularity"] = "error"


class LiveRecommender:
    """A recommender behind a server.

    A request sees the recommender either before or after an addition: an addition makes a copy with the new
    items, which replaces the former recommender in a single step.

    Args:
        recommender: recommender to serve; not changed.
        search: see :meth:`graphrec.Recommender.recommend`.
        journal: journal of the additions; None: no items are accepted.

    Attributes:
        recommender: recommender with the items added so far.
        journal: the journal.
        replayed: number of items of the journal that were added.
        known: number of items of the journal that the recommender had already.
        quarantined: row and error of each addition of the journal that this recommender cannot take, such as
            one made for another model. It stays in the journal and is left out.

    Raises:
        ConfigError: the recommender has no index for an approximate search.
    """

    def __init__(
        self, recommender: Recommender, search: Search = "auto", journal: Journal | None = None
    ) -> None:
        self.search = search
        self.journal = journal
        self.recommender = recommender.copy()
        self._adding = threading.Lock()
        self._encoding = threading.Lock()
        self._original_items = recommender.items
        self.replayed = self.known = 0
        self.quarantined: list[tuple[int, str]] = []
        if search == "approximate" and recommender.index is None:
            raise ConfigError(
                "--search approximate, and the recommender has no index; build one with graphrec index"
            )
        additions = journal.additions if journal else []
        for start in range(0, len(additions), REPLAYED):  # each growing copies what was added before
            self._replay(start, additions[start : start + REPLAYED])

    def _replay(self, start: int, additions: Sequence[Addition]) -> None:
        """Adds those items of additions ``start``, ... (from 0) that the recommender does not have."""
        joined = _join(additions)
        new = [i for i, name in enumerate(joined.ids) if name not in self._original_items]
        features = {m: [rows[i] for i in new] for m, rows in joined.features.items()}
        try:
            if new:
                self.recommender.add_items([joined.ids[i] for i in new], features)
        except GraphrecError as cause:
            half = len(additions) // 2
            if half:  # find the row
                self._replay(start, additions[:half])
                self._replay(start + half, additions[half:])
            else:
                self.quarantined.append((start + 1, str(cause)))
            return
        self.known += len(joined.ids) - len(new)
        self.replayed += len(new)

    def recommend(self, requests: Sequence[tuple[Sequence[str], Options]]) -> list[Answer | GraphrecError]:
        """Answers several requests, those with equal options in one search; each as if it were alone."""
        recommender = self.recommender
        answers: dict[int, Answer | GraphrecError] = {}
        groups: dict[Options, list[int]] = {}
        for number, (users, options) in enumerate(requests):
            try:
                if options.unknown == "error":
                    recommender.users.indices(users)  # else all requests of its group would fail
                groups.setdefault(options, []).append(number)
            except GraphrecError as cause:
                answers[number] = cause
        for options, group in groups.items():
            names = [name for number in group for name in requests[number][0]]
            try:
                ids, scores = recommender.recommend(names, search=self.search, **options._asdict())
            except GraphrecError as cause:
                answers |= dict.fromkeys(group, cause)
                continue
            end = 0
            for number in group:
                begin, end = end, end + len(requests[number][0])
                answers[number] = ids[begin:end], scores[begin:end]
        return [answers[number] for number in range(len(requests))]

    def recommend_by_history(self, visitors: Sequence[schema.Visitor], options: Options) -> Answer:
        """The items with the highest scores for users with histories.

        Those with weights, with times, with both and with neither are answered apart, as if alone.

        Raises:
            GraphrecError: see :meth:`graphrec.Recommender.recommend`.
        """
        recommender = self.recommender
        ids = np.full((len(visitors), options.k), None, dtype=object)
        scores = np.full(ids.shape, -np.inf, dtype=np.float32)
        groups: dict[tuple[bool, bool], list[int]] = {}
        for row, visitor in enumerate(visitors):
            groups.setdefault((visitor.weights is None, visitor.times is None), []).append(row)
        for (unweighted, untimed), rows in groups.items():
            part = [visitors[row] for row in rows]
            ids[rows], scores[rows] = recommender.recommend(
                [visitor.id for visitor in part],
                history=[visitor.history for visitor in part],
                weights=None if unweighted else [visitor.weights for visitor in part],
                times=None if untimed else [visitor.times for visitor in part],
                search=self.search,
                **options._asdict(),
            )
        return ids, scores

    def prepare(self) -> None:
        """Prepares the calling thread for searching: one thread of torch and of FAISS.

        A search by an index computes so little that several threads cost more than they gain, and the other
        processors are busy with requests.
        """
        if self.search != "exact" and self.recommender.index is not None:
            import faiss
            import torch

            torch.set_num_threads(1)
            faiss.omp_set_num_threads(1)

    def similar(self, requests: Sequence[tuple[Sequence[str], int]]) -> list[Answer | GraphrecError]:
        """Answers several requests for the ``k`` items most similar to some items."""
        recommender = self.recommender
        search: Search = self.search if "similar" in (recommender.index or {}) else "exact"
        answers: list[Answer | GraphrecError] = []
        for items, k in requests:
            try:
                answers.append(recommender.similar_items(items, k, search=search))
            except GraphrecError as cause:
                answers.append(cause)
        return answers

    def add_content(
        self,
        ids: list[str],
        features: Mapping[str, list[list[float] | None]],
        content: Mapping[str, list[str | bytes | None]],
    ) -> int:
        """:meth:`add` with the vectors of the content, which the journal keeps instead of the content.

        One request is encoded at a time, which bounds the memory that pictures take.

        Raises:
            FeatureError: content cannot be encoded, or there are vectors of the same modality, too.
        """
        for modality, saved in self.recommender.extractors.items():
            if saved.kind != "text" and any(isinstance(value, str) for value in content.get(modality, ())):
                raise FeatureError(
                    f"content {modality!r}: found text; expected the bytes of files, never paths"
                )
        check_given_once(features, content)
        with self._encoding:
            vectors = self.recommender.encode_content(ids, content, max_pixels=schema.PIXELS)
        rows = {m: [None if np.isnan(row).any() else row.tolist() for row in v] for m, v in vectors.items()}
        return self.add(Addition(ids, {**features, **rows}))

    def add(self, addition: Addition) -> int:
        """Adds items and returns how many the recommender holds then; once this returns, none can be lost.

        Raises:
            ConfigError: this server accepts no items.
            DataError: an id is known already or occurs twice.
            FeatureError: an item cannot be placed.
            CheckpointError: the journal cannot be written; nothing was added.
        """
        if self.journal is None:
            raise ConfigError(NO_ITEMS)
        with self._adding:
            grown = self.recommender.copy().add_items(addition.ids, addition.features)
            self.journal.append(addition)
            self.recommender = grown
            return grown.n_items


def _join(additions: Sequence[Addition]) -> Addition:
    """Several additions as one."""
    ids: list[str] = []
    features: dict[str, list[list[float] | None]] = {}
    for addition in additions:
        for modality in addition.features.keys() - features.keys():
            features[modality] = [None] * len(ids)
        for modality, rows in features.items():
            rows += addition.features.get(modality, [None] * len(addition.ids))
        ids += addition.ids
    return Addition(ids, features)


class RequestBatcher:
    """Answers requests in batches, in a thread of its own; a batch is what arrived during the one before.

    Args:
        answer: answers several requests at once, in order; a request is a tuple that begins with its ids.
        prepare: called in the thread before it begins.
    """

    def __init__(self, answer: Callable[[list[Any]], list[Any]], prepare: Callable[[], None]) -> None:
        self._work = answer
        self._waiting: list[tuple[Any, asyncio.Future[Any]]] = []
        self._busy = False
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="search", initializer=prepare)

    async def submit(self, request: Any) -> Any:
        """The answer to one request; raises it if it is an exception."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        self._waiting.append((request, answer))
        if not self._busy:
            self._busy = True
            self._task = loop.create_task(self._run())  # a reference, or it might be collected
        return await answer

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch: list[tuple[Any, asyncio.Future[Any]]] = []
                n_ids = 0
                while self._waiting and (not batch or n_ids + len(self._waiting[0][0][0]) <= BATCH):
                    batch.append(self._waiting.pop(0))
                    n_ids += len(batch[-1][0][0])
                await self._answer(batch)
        finally:
            self._busy = False

    async def _answer(self, batch: list[tuple[Any, asyncio.Future[Any]]]) -> None:
        loop = asyncio.get_running_loop()
        try:
            results = await loop.run_in_executor(self._pool, self._work, [request for request, _ in batch])
        except Exception as cause:
            results = [cause] * len(batch)
        for (_, answer), result in zip(batch, results, strict=True):
            if answer.done():  # the client has disconnected
                continue
            if isinstance(result, Exception):
                answer.set_exception(result)
            else:
                answer.set_result(result)
