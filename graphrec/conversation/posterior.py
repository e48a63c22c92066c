"""A posterior distribution over the items: the belief of an agent that trusts every answer, or nearly so.

``p(v | answers) ~ exp(s(v) / temperature) prod_i p(answer_i | v)``, with ``s`` as in
:mod:`graphrec.conversation.candidates` at the opening. An honest user says yes to an attribute exactly when
the item has it, so a no tells as much as a yes. SCPR uses a no only to not ask again; UNICORN's code
(https://github.com/dengyang17/unicorn) also lowers the scores of items with the rejected attribute, and
excludes none. With an ``error`` above 0, an answer that an item contradicts makes the item less likely and
does not exclude it.

The value of a question is the expected information of its answer, ``H(P(yes)) - H(error)``.
"""

from __future__ import annotations

import numpy as np

from graphrec.conversation.belief import Answer, Belief
from graphrec.core.topk import top_indices

MIN_VALUE = 1e-6
"""Information in bits below which an answer tells nothing."""


class Posterior(Belief):
    """A distribution over the items; see :class:`Belief`.

    ``weights`` are probabilities, ``scores`` those of the opening alone. The candidates are the items that
    contradict the fewest answers, mostly those that contradict none.
    """

    log_weights: np.ndarray
    n_contradicted: np.ndarray
    _slate_indices: np.ndarray | None

    def open(self, question: int | None, answer: Answer) -> None:
        """See :class:`Belief`; the opening is assumed to be true."""
        setting = self.setting
        self.accepted_attributes = [int(a) for a in answer.accepted]
        self.n_contradicted = np.zeros(len(self.items), dtype=np.int64)  # answers, for each item
        self.log_weights = self.scores.astype(np.float64) / setting.config.temperature  # up to a constant
        if setting.prior is not None:
            self.log_weights += setting.prior[self.items]
        self._compute_weights()
        if question is not None:
            self.asked_questions[question] = True
            if setting.enumerated:
                self._apply(self._agrees(question, answer), 0.0)

    def update(self, question: int, answer: Answer) -> None:
        """Uses the answer to a question."""
        self.asked_questions[question] = True
        self._question_values = None
        if not answer.known:
            return
        self.accepted_attributes += [int(a) for a in answer.accepted]
        self._apply(self._agrees(question, answer), self.setting.config.error)

    def _agrees(self, question: int, answer: Answer) -> np.ndarray:
        """Whether each item, as the target, leads to this answer ``(n,) bool``."""
        catalog = self.setting.catalog
        n = len(answer.accepted)
        agrees: np.ndarray
        if self.setting.enumerated:
            group = np.flatnonzero(catalog.groups == question)
            agrees = (catalog.count_attributes(answer.accepted) == n) & (catalog.count_attributes(group) == n)
        else:
            agrees = catalog.count_attributes(np.array([question])) == min(n, 1)
        return np.asarray(agrees[self.items])

    def _apply(self, agrees: np.ndarray, error: float) -> None:
        """Multiplies by the likelihood of an answer; ignores an answer that no item agrees with."""
        if not agrees.any():
            self.n_ignored += 1
            return
        if error:
            self.log_weights += np.where(agrees, np.log1p(-error), np.log(error))
            self.n_contradicted += ~agrees
        else:
            self._keep(np.flatnonzero(agrees))
        self._compute_weights()

    def _keep(self, indices: np.ndarray) -> None:
        self.items = self.items[indices]
        self.log_weights = self.log_weights[indices]
        self.n_contradicted = self.n_contradicted[indices]
        self.attribute_rows = None if self.attribute_rows is None else self.attribute_rows[indices]

    def _compute_weights(self) -> None:
        self.log_weights -= self.log_weights.max()
        weights = np.exp(self.log_weights)
        self.n_candidates = int((self.n_contradicted == self.n_contradicted.min()).sum())
        self.weights = weights / weights.sum()
        self._question_values = None
        self._slate_indices = None

    @property
    def unmet(self) -> int:
        """See :class:`Belief`."""
        return self.n_ignored + int(self.n_contradicted.min())

    # -- questions -------------------------------------------------------------------------------------------

    @property
    def question_values(self) -> np.ndarray:
        """Value of each question in bits ``(n_questions,) float64``; -1 where it must not be asked, or its
        answer tells nothing.
        """
        if self._question_values is None:
            setting = self.setting
            error = setting.config.error
            share = np.clip(self.attribute_weights(), 0, 1)
            share[share < MIN_VALUE] = 0
            share[share > 1 - MIN_VALUE] = 1
            value = setting.entropy(share * (1 - error) + (1 - share) * error)
            value -= setting.entropy(np.array([error]))[0]
            value = self.sum_by_question(value)
            self._question_values = np.where((value > MIN_VALUE) & ~self.asked_questions, value, -1.0)
        return self._question_values

    # -- recommendations -------------------------------------------------------------------------------------

    @property
    def slate(self) -> np.ndarray:
        """The ``k`` most likely items, the lowest of equals first ``(<= k,) int64``."""
        slate: np.ndarray = self.items[self._best()]
        return slate

    @property
    def slate_probability(self) -> float:
        """Probability that the target is in the slate."""
        return float(self.weights[self._best()].sum())

    def _best(self) -> np.ndarray:
        if self._slate_indices is None:
            self._slate_indices = top_indices(self.log_weights, self.setting.config.k)
        return self._slate_indices

    def reject_slate(self) -> None:
        """Removes the items of the slate, which the user rejected. If no other item is left, the items stay
        in the slate, as there is nothing else to recommend, and ``n_candidates`` becomes 0.
        """
        rejected = self._best()
        if len(rejected) < len(self.items):
            self._keep(np.delete(np.arange(len(self.items)), rejected))
            self._compute_weights()
        else:
            self.n_candidates = 0
