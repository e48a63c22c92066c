"""What conversations over one catalog share, and the agent's belief about the target item."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from graphrec.conversation.catalog import Catalog
from graphrec.conversation.config import ConversationConfig
from graphrec.conversation.vectors import DialogueVectors
from graphrec.core.errors import ConfigError, DataError

CACHE_SIZE = 2048
"""Number of attributes whose item scores and vectors are kept between conversations."""


class Answer(NamedTuple):
    """A user's answer to a question.

    Attributes:
        accepted: the attributes that the user accepts, ascending ``(n,) int64``; empty when the answer is no.
        known: False where the user does not know.
    """

    accepted: np.ndarray
    known: bool = True


@dataclass(eq=False, repr=False)
class Setting:
    """What all conversations over one catalog share.

    Attributes:
        catalog: items and attributes.
        vectors: of users, items and attributes.
        config: rules.
        prior: log-weights of the items that :class:`~graphrec.conversation.posterior.Posterior` adds before
            the first answer ``(n_items,) float``.

    Raises:
        ConfigError: enumerated questions without groups.
        DataError: vectors and catalog differ in size.
    """

    catalog: Catalog
    vectors: DialogueVectors
    config: ConversationConfig = field(default_factory=ConversationConfig)
    prior: np.ndarray | None = None

    def __post_init__(self) -> None:
        catalog = self.catalog
        sizes = (len(self.vectors.items), len(self.vectors.attributes))
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
        self._attribute_scores: dict[int, np.ndarray] = {}
        self._blocks: dict[int, tuple[np.ndarray, np.ndarray | None]] = {}

    @property
    def enumerated(self) -> bool:
        """Whether questions are about groups."""
        return self.config.questions == "enumerated"

    @property
    def n_questions(self) -> int:
        """Number of different questions."""
        return self.catalog.n_groups if self.enumerated else self.catalog.n_attributes

    @cached_property
    def mean_user(self) -> np.ndarray:
        """The mean of all users' vectors ``(d,)``, which stands for an unknown user."""
        mean: np.ndarray = self.vectors.users.mean(0)
        return mean

    def user_vector(self, user: int | None) -> np.ndarray:
        """A user's vector ``(d,)``; None is an unknown user."""
        return self.mean_user if user is None else self.vectors.users[user]

    def attribute_scores(self, attribute: int) -> np.ndarray:
        """What an accepted attribute adds to the items' scores ``(n_items,) float32``."""
        scores = self._attribute_scores.get(attribute)
        if scores is None:
            scores = self.vectors.items @ self.vectors.attributes[attribute]
            if len(self._attribute_scores) < CACHE_SIZE:
                self._attribute_scores[attribute] = scores
        return scores

    def block(self, attribute: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Vectors ``(n, d)`` and table rows ``(n, n_attributes)`` of the items with an attribute."""
        block = self._blocks.get(attribute)
        if block is None:
            items = self.catalog.items_with(attribute)
            table = self.catalog.table
            block = self.vectors.items[items], None if table is None else table[items]
            if len(self._blocks) < CACHE_SIZE:
                self._blocks[attribute] = block
        return block

    def entropy(self, probability: np.ndarray) -> np.ndarray:
        """Entropy of having an attribute or not, in bits; 0 where it is certain."""
        p = probability
        with np.errstate(divide="ignore", invalid="ignore"):
            entropy = -p * np.log2(p)
            if self.config.entropy == "binary":
                entropy -= (1 - p) * np.log2(1 - p)
        return np.where((p > 0) & (p < 1), entropy, 0.0)


class Belief(ABC):
    """What an agent knows in one conversation.

    Args:
        setting: what conversations share.
        user: index of the user, or None for an unknown user.
        question: the question that the user's opening answers, if there is one.
        answer: the answer to it.

    Attributes:
        items: possible target items ``(n,) int64``, ascending.
        scores: ``s(v) = u . v + v . p`` for the first attribute p of the opening, if any ``(n,) float32``.
        weights: weight of each item in the value of a question ``(n,)``; 0 once it was rejected.
        n_candidates: number of items that count as candidates.
        asked_questions: questions that are not asked again ``(n_questions,) bool``.
        accepted_attributes: attributes in the order in which they were accepted.
        n_ignored: number of answers that were ignored, as no item is consistent with them and the earlier
            answers.
    """

    weights: np.ndarray
    n_candidates: int

    def __init__(
        self, setting: Setting, user: int | None, question: int | None = None, answer: Answer | None = None
    ) -> None:
        self.setting = setting
        self.asked_questions = np.zeros(setting.n_questions, dtype=bool)
        self.accepted_attributes: list[int] = []
        self.n_ignored = 0
        self._question_values: np.ndarray | None = None
        vector = setting.user_vector(user)
        accepted = answer.accepted if answer is not None else np.empty(0, np.int64)
        self.attribute_rows: np.ndarray | None
        if len(accepted):
            first = int(accepted[0])
            item_vectors, self.attribute_rows = setting.block(first)
            self.items = setting.catalog.items_with(first)
            self.scores = item_vectors @ vector + setting.attribute_scores(first)[self.items]
            self.accepted_attributes.append(first)
        else:
            self.items = np.arange(setting.catalog.n_items)
            self.attribute_rows = setting.catalog.table
            self.scores = setting.vectors.items @ vector
        self.open(question, Answer(accepted))

    @abstractmethod
    def open(self, question: int | None, answer: Answer) -> None:
        """Uses the opening; ``items`` and ``scores`` already use its first attribute, if any."""

    @abstractmethod
    def update(self, question: int, answer: Answer) -> None:
        """Uses the answer to a question."""

    @abstractmethod
    def reject_slate(self) -> None:
        """Removes the items of the slate, which the user rejected."""

    @property
    @abstractmethod
    def question_values(self) -> np.ndarray:
        """Value of each question ``(n_questions,) float64``; -1 where it must not be asked."""

    @property
    def best_question(self) -> int | None:
        """The question of highest value, the lowest of equals; None when no question is left."""
        best = int(self.question_values.argmax())
        return best if self.question_values[best] >= 0 else None

    @property
    @abstractmethod
    def slate(self) -> np.ndarray:
        """The ``k`` items to recommend, best first, the lowest of equals first ``(<= k,) int64``."""

    @property
    @abstractmethod
    def slate_probability(self) -> float:
        """Share of the weight that is in the slate."""

    @property
    def unmet(self) -> int:
        """Number of answers that the remaining items contradict."""
        return self.n_ignored

    def sum_by_question(self, values: np.ndarray) -> np.ndarray:
        """Values of attributes ``(n_attributes,)``, summed over each group with enumerated questions
        ``(n_questions,)``.
        """
        if not self.setting.enumerated:
            return values
        groups = self.setting.catalog.groups
        grouped = groups >= 0
        return np.bincount(groups[grouped], values[grouped], minlength=self.setting.n_questions)

    def attribute_weights(self) -> np.ndarray:
        """Total weight of the items that have each attribute ``(n_attributes,) float64``."""
        if self.attribute_rows is None:
            return self.setting.catalog.attribute_totals(self.items, self.weights)
        totals: np.ndarray = self.weights.astype(np.float32, copy=False) @ self.attribute_rows
        return totals.astype(np.float64)
