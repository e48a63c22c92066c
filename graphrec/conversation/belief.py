"""What conversations share, and what an agent knows in one of them whichever way it takes answers in."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np

from graphrec.conversation.catalog import Catalog
from graphrec.conversation.config import ConversationConfig
from graphrec.conversation.vectors import DialogueVectors
from graphrec.core.errors import ConfigError, DataError

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
    """What all conversations over one catalog share.

    Args:
        catalog: items and attributes.
        vectors: of users, items and attributes.
        config: rules.
        prior: what :class:`~graphrec.conversation.posterior.Posterior` adds to the items' logarithms before
            anything is said ``(n_items,) float``.

    Raises:
        ConfigError: enumerated questions without groups.
        DataError: vectors and catalog differ in size.
    """

    def __init__(
        self,
        catalog: Catalog,
        vectors: DialogueVectors,
        config: ConversationConfig | None = None,
        prior: np.ndarray | None = None,
    ) -> None:
        self.catalog, self.vectors, self.prior = catalog, vectors, prior
        self.config = config or ConversationConfig()
        sizes = (len(vectors.items), len(vectors.attributes))
        if sizes != (catalog.n_items, catalog.n_attributes):
            raise DataError(
                f"vectors of {sizes[0]:,} items and {sizes[1]:,} attributes; expected those of the "
                f"catalog's {catalog.n_items:,} and {catalog.n_attributes:,}: train the scorer on this "
                "dataset"
            )
        if self.enumerated and not catalog.n_groups:
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
        return self.catalog.n_groups if self.enumerated else self.catalog.n_attributes

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
            items, table = self.catalog.items_with(attribute), self.catalog.table
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


class Belief:
    """What an agent knows in one conversation.

    Args:
        setting: what conversations share.
        user: index of the user, or None for somebody unknown.
        question: what the user opens with, if anything.
        answer: the attributes it names.

    Attributes:
        items: items that may still be it ``(n,) int64``, ascending.
        scores: ``s(v) = u . v + v . p`` for the first attribute p that was named, if any ``(n,) float32``.
        weights: what each counts for in the worth of a question ``(n,)``; 0 once refused.
        n: how many count as left.
        asked: questions that are not asked again ``(n_questions,) bool``.
        accepted: attributes in the order they were accepted.
        passed: answers that were passed over, as no item goes with them and with those before.
    """

    weights: np.ndarray
    n: int

    def __init__(
        self, setting: Setting, user: int | None, question: int | None = None, answer: Answer | None = None
    ) -> None:
        self.setting, vector = setting, setting.user(user)
        self.asked = np.zeros(setting.n_questions, dtype=bool)
        self.accepted: list[int] = []
        self.passed = 0
        self._values: np.ndarray | None = None
        named = answer.accepted if answer is not None else np.empty(0, np.int64)
        self.rows: np.ndarray | None
        if len(named):
            first = int(named[0])
            vectors, self.rows = setting.block(first)
            self.items = setting.catalog.items_with(first)
            self.scores = vectors @ vector + setting.affinity(first)[self.items]
            self.accepted.append(first)
        else:
            self.items, self.rows = np.arange(setting.catalog.n_items), setting.catalog.table
            self.scores = setting.vectors.items @ vector
        self.begin(question, Answer(named))

    def begin(self, question: int | None, named: Answer) -> None:
        """Takes in the opening: items and scores are those of the first attribute named, if any."""
        raise TypeError(f"{type(self).__name__} does not define begin()")

    def answered(self, question: int, answer: Answer) -> None:
        """Takes in what the user said to a question."""
        raise TypeError(f"{type(self).__name__} does not define answered()")

    def refused(self) -> None:
        """The slate was refused."""
        raise TypeError(f"{type(self).__name__} does not define refused()")

    @property
    def values(self) -> np.ndarray:
        """What each question is worth ``(n_questions,) float64``; -1 where it is not to be asked."""
        raise TypeError(f"{type(self).__name__} does not define values")

    @property
    def question(self) -> int | None:
        """The question worth most, the lowest of equals; None when there is none left."""
        best = int(self.values.argmax())
        return best if self.values[best] >= 0 else None

    @property
    def slate(self) -> np.ndarray:
        """The ``k`` items to recommend, best first, the lowest of equals first ``(<= k,) int64``."""
        raise TypeError(f"{type(self).__name__} does not define slate")

    @property
    def sure(self) -> float:
        """How much of the weight is in the slate."""
        raise TypeError(f"{type(self).__name__} does not define sure")

    @property
    def unmet(self) -> int:
        """How many answers the items that are left do not meet."""
        return self.passed

    def by_question(self, values: np.ndarray) -> np.ndarray:
        """What attributes have ``(n_attributes,)``, summed over each group where groups are asked about
        ``(n_questions,)``.
        """
        if not self.setting.enumerated:
            return values
        groups = self.setting.catalog.groups
        grouped = groups >= 0
        return np.bincount(groups[grouped], values[grouped], minlength=self.setting.n_questions)

    def share(self) -> np.ndarray:
        """Weight of the items that have each attribute ``(n_attributes,) float64``."""
        if self.rows is None:
            return self.setting.catalog.totals(self.items, self.weights)
        found: np.ndarray = self.weights.astype(np.float32, copy=False) @ self.rows
        return found.astype(np.float64)
