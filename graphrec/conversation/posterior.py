"""What an agent knows when it takes every answer at its word, or nearly: a distribution over the items.

``p(v | answers) ~ exp(s(v) / temperature) prod_i p(answer_i | v)``, with ``s`` as in
:mod:`graphrec.conversation.candidates` at the opening. An honest user says yes to an attribute exactly when
the item has it, so a no tells as much as a yes; SCPR and its successors use a no only to not ask again. With
an ``error`` above 0 an answer that an item contradicts makes it less likely and does not rule it out.

A question is worth the information its answer is expected to give, ``H(P(yes)) - H(error)``.
"""

from __future__ import annotations

import numpy as np

from graphrec.conversation.belief import Answer, Belief
from graphrec.core.topk import top_indices

LEAST = 1e-6  # bits: below, there is nothing to learn from an answer


class Posterior(Belief):
    """A distribution over the items; see :class:`Belief`.

    ``weights`` are probabilities, ``scores`` those of the opening alone. Items that contradict the fewest
    answers count as left, mostly those that contradict none.
    """

    log: np.ndarray
    against: np.ndarray
    _slate: np.ndarray | None

    def begin(self, question: int | None, named: Answer) -> None:
        """See :class:`Belief`; the opening is taken as true."""
        setting = self.setting
        self.accepted = [int(a) for a in named.accepted]
        self.against = np.zeros(len(self.items), dtype=np.int64)  # answers that each contradicts
        self.log = self.scores.astype(np.float64) / setting.config.temperature  # up to a constant
        if setting.prior is not None:
            self.log += setting.prior[self.items]
        self._weigh()
        if question is not None:
            self.asked[question] = True
            if setting.enumerated:
                self._believe(self._agrees(question, named), 0.0)

    def answered(self, question: int, answer: Answer) -> None:
        """Takes in what the user said to a question."""
        self.asked[question] = True
        self._values = None
        if not answer.known:
            return
        self.accepted += [int(a) for a in answer.accepted]
        self._believe(self._agrees(question, answer), self.setting.config.error)

    def _agrees(self, question: int, answer: Answer) -> np.ndarray:
        """Whether each item would have led to this answer ``(n,) bool``."""
        catalog, n = self.setting.catalog, len(answer.accepted)
        agrees: np.ndarray
        if self.setting.enumerated:
            group = np.flatnonzero(catalog.groups == question)
            agrees = (catalog.count(answer.accepted) == n) & (catalog.count(group) == n)
        else:
            agrees = catalog.count(np.array([question])) == min(n, 1)
        found: np.ndarray = agrees[self.items]
        return found

    def _believe(self, agrees: np.ndarray, error: float) -> None:
        """Weighs by the answer's likelihood; an answer that no item agrees with is passed over."""
        if not agrees.any():
            self.passed += 1
            return
        if error:
            self.log += np.where(agrees, np.log1p(-error), np.log(error))
            self.against += ~agrees
        else:
            self._keep(np.flatnonzero(agrees))
        self._weigh()

    def _keep(self, places: np.ndarray) -> None:
        self.items, self.log, self.against = self.items[places], self.log[places], self.against[places]
        self.rows = None if self.rows is None else self.rows[places]

    def _weigh(self) -> None:
        self.log -= self.log.max()
        weights = np.exp(self.log)
        self.n = int((self.against == self.against.min()).sum())
        self.weights = weights / weights.sum()
        self._values, self._slate = None, None

    @property
    def unmet(self) -> int:
        """See :class:`Belief`."""
        return self.passed + int(self.against.min())

    # -- questions -------------------------------------------------------------------------------------------

    @property
    def values(self) -> np.ndarray:
        """What each question is worth, in bits ``(n_questions,) float64``; -1 where it may not be asked, or
        nothing is to be learned.
        """
        if self._values is None:
            setting = self.setting
            share, error = np.clip(self.share(), 0, 1), setting.config.error
            share[share < LEAST], share[share > 1 - LEAST] = 0, 1
            found = setting.entropy(share * (1 - error) + (1 - share) * error)
            found -= setting.entropy(np.array([error]))[0]
            found = self.by_question(found)
            self._values = np.where((found > LEAST) & ~self.asked, found, -1.0)
        return self._values

    # -- recommendations -------------------------------------------------------------------------------------

    @property
    def slate(self) -> np.ndarray:
        """The ``k`` likeliest items, the lowest of equals first ``(<= k,) int64``."""
        best: np.ndarray = self.items[self._best()]
        return best

    @property
    def sure(self) -> float:
        """Probability that the target is in the slate."""
        return float(self.weights[self._best()].sum())

    def _best(self) -> np.ndarray:
        if self._slate is None:
            self._slate = top_indices(self.log, self.setting.config.k)
        return self._slate

    def refused(self) -> None:
        """The slate was refused: its items are out. Of the last ones only ``n`` says so; they stay in the
        slate, as there is nothing else to recommend.
        """
        gone = self._best()
        if len(gone) < len(self.items):
            self._keep(np.delete(np.arange(len(self.items)), gone))
            self._weigh()
        else:
            self.n = 0
