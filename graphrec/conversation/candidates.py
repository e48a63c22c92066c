"""What an agent knows in one conversation: SCPR's candidate items and attributes, and how both are scored.

Lei et al., "Interactive Path Reasoning on Graph for Conversational Recommendation", KDD 2020,
https://arxiv.org/abs/2007.00194. Items stay candidates while they have every accepted attribute and were not
refused; a rejected attribute removes no item, it is only not asked again. On such candidates the walk over
the graph from the attributes accepted last, through items to attributes, ends exactly at the attributes that
occur in a candidate, so those are what may be asked (a test walks the graph and compares).
"""

from __future__ import annotations

import numpy as np

from graphrec.conversation.belief import Answer, Belief
from graphrec.core.topk import top_indices


class Candidates(Belief):
    """SCPR's: the items and attributes that are still possible; see :class:`Belief`.

    ``scores`` are over all accepted attributes, ``s(v) = u . v + sum_p v . p``.
    """

    def begin(self, question: int | None, named: Answer) -> None:
        """See :class:`Belief`."""
        self._weigh()
        if question is not None:
            self.answered(question, Answer(named.accepted[1:]))

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
        member = np.zeros(setting.catalog.n_items, dtype=bool)
        member[setting.catalog.items_with(attribute)] = True
        keep = np.flatnonzero(member[self.items] & (self.weights > 0))
        if not len(keep):
            self.passed += 1
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
            share = self.share() / max(float(self.weights.sum(dtype=np.float64)), 1e-300)
            occurs, found = share > 0, self.setting.entropy(np.minimum(share, 1.0))
            may_be_asked = (self.by_question(occurs) > 0) & ~self.asked
            self._values = np.where(may_be_asked, self.by_question(found), -1.0)
        return self._values

    # -- recommendations -------------------------------------------------------------------------------------

    @property
    def slate(self) -> np.ndarray:
        """The ``k`` candidates with the highest scores, the lowest item of equals first ``(<= k,) int64``."""
        k = self.setting.config.k
        if self._order is None or (self._shown >= len(self._order) and self.n):
            left = np.flatnonzero(self.weights > 0)
            best = top_indices(self.scores[left], k * self.setting.config.turns)
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
