"""What an agent knows in one conversation: SCPR's candidate items and attributes, and how both are scored.

Lei et al., "Interactive Path Reasoning on Graph for Conversational Recommendation", KDD 2020,
https://arxiv.org/abs/2007.00194. Items stay candidates while they have every accepted attribute and were not
refused; a rejected attribute removes no item, it is only not asked again. On such candidates the walk over
the graph from the attributes accepted last, through items to attributes, ends exactly at the attributes that
occur in a candidate, so those are what may be asked (a test walks the graph and compares).
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np

from graphrec.conversation.catalogue import Catalogue
from graphrec.conversation.config import ConversationConfig
from graphrec.conversation.vectors import DialogueVectors
from graphrec.errors import ConfigError, DataError

KEPT = 2048  # columns and blocks of vectors that are kept between conversations


class Answer(NamedTuple):
    """What a user says to a question.

    Attributes:
        accepted: the attributes affirmed, ascending ``(n,) int64``; empty when the answer is no.
        known: False where the user does not know.
    """

    accepted: np.ndarray
    known: bool = True


class Setting:
    """What all conversations over one catalogue share.

    Args:
        catalogue: items and attributes.
        vectors: of users, items and attributes.
        config: rules.
        prior: what :class:`~graphrec.conversation.posterior.Posterior` adds to the items' logarithms before
            anything is said ``(n_items,) float``.

    Raises:
        ConfigError: enumerated questions without groups.
        DataError: vectors and catalogue differ in size.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        vectors: DialogueVectors,
        config: ConversationConfig | None = None,
        prior: np.ndarray | None = None,
    ) -> None:
        self.catalogue, self.vectors, self.prior = catalogue, vectors, prior
        self.config = config or ConversationConfig()
        sizes = (len(vectors.items), len(vectors.attributes))
        if sizes != (catalogue.n_items, catalogue.n_attributes):
            raise DataError(
                f"vectors of {sizes[0]:,} items and {sizes[1]:,} attributes; expected those of the "
                f"catalogue's {catalogue.n_items:,} and {catalogue.n_attributes:,}: train the scorer on this "
                "dataset"
            )
        if self.enumerated and not catalogue.n_groups:
            raise ConfigError(
                "enumerated questions ask for a group of attributes and the dataset has none; expected "
                "questions='binary', or a dataset with ('attribute', 'in', 'group')"
            )
        self._affinity: dict[int, np.ndarray] = {}
        self._blocks: dict[int, tuple[np.ndarray, np.ndarray | None]] = {}

    @property
    def enumerated(self) -> bool:
        """Whether questions are about groups."""
        return self.config.questions == "enumerated"

    @property
    def n_questions(self) -> int:
        """How many different questions there are."""
        return self.catalogue.n_groups if self.enumerated else self.catalogue.n_attributes

    @cached_property
    def stranger(self) -> np.ndarray:
        """The vector of a user nobody knows ``(d,)``: the mean of all users."""
        mean: np.ndarray = self.vectors.users.mean(0)
        return mean

    def user(self, user: int | None) -> np.ndarray:
        """A user's vector ``(d,)``; None is somebody unknown."""
        return self.stranger if user is None else self.vectors.users[user]

    def affinity(self, attribute: int) -> np.ndarray:
        """What an accepted attribute adds to the items' scores ``(n_items,) float32``."""
        found = self._affinity.get(attribute)
        if found is None:
            found = self.vectors.items @ self.vectors.attributes[attribute]
            if len(self._affinity) < KEPT:
                self._affinity[attribute] = found
        return found

    def block(self, attribute: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Vectors ``(n, d)`` and rows of the table ``(n, n_attributes)`` of the items with an attribute."""
        found = self._blocks.get(attribute)
        if found is None:
            items, table = self.catalogue.items_with(attribute), self.catalogue.table
            found = self.vectors.items[items], None if table is None else table[items]
            if len(self._blocks) < KEPT:
                self._blocks[attribute] = found
        return found

    def entropy(self, probability: np.ndarray) -> np.ndarray:
        """Entropy of having an attribute or not, in bits; 0 where it is certain."""
        p = probability
        with np.errstate(divide="ignore", invalid="ignore"):
            found = -p * np.log2(p)
            if self.config.entropy == "binary":
                found -= (1 - p) * np.log2(1 - p)
        return np.where((p > 0) & (p < 1), found, 0.0)


class Candidates:
    """The items and attributes that are still possible in one conversation.

    Args:
        setting: what conversations share.
        user: index of the user, or None for somebody unknown.
        question: what the user opens with, if anything.
        answer: the attributes it names.

    Attributes:
        items: candidate items, those refused among them ``(n,) int64``, ascending.
        scores: ``s(v) = u . v + sum_p v . p`` over the accepted attributes ``(n,) float32``.
        weights: what each counts in an attribute's entropy; 0 once refused ``(n,) float32``.
        n: how many are left.
        asked: questions that are not asked again ``(n_questions,) bool``.
        accepted: attributes in the order they were accepted.
    """

    def __init__(
        self, setting: Setting, user: int | None, question: int | None = None, answer: Answer | None = None
    ) -> None:
        self.setting, vector = setting, setting.user(user)
        self.asked = np.zeros(setting.n_questions, dtype=bool)
        self.accepted: list[int] = []
        self._values: np.ndarray | None = None
        named = answer.accepted if answer is not None else np.empty(0, np.int64)
        self.rows: np.ndarray | None
        if len(named):
            first = int(named[0])
            vectors, self.rows = setting.block(first)
            self.items = setting.catalogue.items_with(first)
            self.scores = vectors @ vector + setting.affinity(first)[self.items]
            self.accepted.append(first)
        else:
            self.items, self.rows = np.arange(setting.catalogue.n_items), setting.catalogue.table
            self.scores = setting.vectors.items @ vector
        self._weigh()
        if question is not None:
            self.answered(question, Answer(named[1:]))

    def answered(self, question: int, answer: Answer) -> None:
        """Takes in what the user said to a question."""
        self.asked[question] = True
        self._values = None
        for attribute in answer.accepted:
            self._accept(int(attribute))

    def _accept(self, attribute: int) -> None:
        """Keeps the items with an attribute; one that no candidate has is passed over, as it would leave
        nothing to recommend.
        """
        setting = self.setting
        member = np.zeros(setting.catalogue.n_items, dtype=bool)
        member[setting.catalogue.items_with(attribute)] = True
        keep = np.flatnonzero(member[self.items] & (self.weights > 0))
        if not len(keep):
            return
        self.accepted.append(attribute)
        self.items = self.items[keep]
        self.scores = self.scores[keep] + setting.affinity(attribute)[self.items]
        self.rows = None if self.rows is None else self.rows[keep]
        self._weigh()

    def _weigh(self) -> None:
        self.n = len(self.items)
        if self.setting.config.weighting == "weighted":
            # Never quite zero, which says that an item was refused.
            self.weights = np.maximum(1 / (1 + np.exp(-np.clip(self.scores, -80, 80))), np.float32(1e-30))
        else:
            self.weights = np.ones(self.n, dtype=np.float32)
        self._order: np.ndarray | None = None
        self._shown, self._values = 0, None

    # -- questions -------------------------------------------------------------------------------------------

    @property
    def values(self) -> np.ndarray:
        """What each question is worth ``(n_questions,) float64``; -1 where it may not be asked.

        The entropy of having the attribute among the candidates; of a group, the sum over its attributes.
        """
        if self._values is None:
            total = max(float(self.weights.sum(dtype=np.float64)), 1e-300)
            if self.rows is not None:
                share = (self.weights @ self.rows).astype(np.float64) / total
            else:
                share = self.setting.catalogue.totals(self.items, self.weights) / total
            occurs, found = share > 0, self.setting.entropy(np.minimum(share, 1.0))
            if self.setting.enumerated:
                groups = self.setting.catalogue.groups
                grouped = groups >= 0
                n = self.setting.n_questions
                found = np.bincount(groups[grouped], found[grouped], minlength=n)
                occurs = np.bincount(groups[grouped], occurs[grouped], minlength=n) > 0
            self._values = np.where(occurs & ~self.asked, found, -1.0)
        return self._values

    @property
    def question(self) -> int | None:
        """The question worth most, the lowest of equals; None when there is none left."""
        best = int(self.values.argmax())
        return best if self.values[best] >= 0 else None

    # -- recommendations -------------------------------------------------------------------------------------

    @property
    def slate(self) -> np.ndarray:
        """The ``k`` candidates with the highest scores, the lowest item of equals first ``(<= k,) int64``."""
        k = self.setting.config.k
        if self._order is None or (self._shown >= len(self._order) and self.n):
            left = np.flatnonzero(self.weights > 0)
            best = best_first(self.scores[left], k * self.setting.config.turns)
            self._order, self._shown = left[best], 0
        found: np.ndarray = self.items[self._order[self._shown : self._shown + k]]
        return found

    @property
    def sure(self) -> float:
        """Share of the candidates' weight that is in the slate."""
        return float(self.weights[np.isin(self.items, self.slate)].sum() / self.weights.sum())

    def refused(self) -> None:
        """The slate was refused: its items are out."""
        assert self._order is not None
        k = self.setting.config.k
        gone = self._order[self._shown : self._shown + k]
        self.weights[gone] = 0
        self._shown += k
        self.n -= len(gone)
        self._values = None


def best_first(scores: np.ndarray, n: int) -> np.ndarray:
    """Places of the ``n`` highest scores, highest first, the first of equals first ``(<= n,) int64``."""
    places = np.arange(len(scores))
    if len(scores) > n:
        places = np.flatnonzero(scores >= np.partition(scores, len(scores) - n)[len(scores) - n])
    best: np.ndarray = places[np.argsort(-scores[places], kind="stable")][:n]
    return best
