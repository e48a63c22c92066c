"""SCPR's belief: candidate items and attributes, and their scores.

Lei et al., "Interactive Path Reasoning on Graph for Conversational Recommendation", KDD 2020,
https://arxiv.org/abs/2007.00194. Items stay candidates while they have every accepted attribute and were not
rejected; a rejected attribute removes no item, it is only not asked again. On such candidates the walk over
the graph from the last accepted attributes, through items to attributes, ends exactly at the attributes of
the candidates, so those are what may be asked (a test walks the graph and compares).
"""

from __future__ import annotations

import numpy as np

from graphrec.conversation.belief import Answer, Belief
from graphrec.core.topk import top_indices


class Candidates(Belief):
    """The items and attributes that are still possible; see :class:`Belief`.

    ``scores`` are over all accepted attributes, ``s(v) = u . v + sum_p v . p``.
    """

    def open(self, question: int | None, answer: Answer) -> None:
        """See :class:`Belief`."""
        self._compute_weights()
        if question is not None:
            self.update(question, Answer(answer.accepted[1:]))

    def update(self, question: int, answer: Answer) -> None:
        """Uses the answer to a question."""
        self.asked_questions[question] = True
        self._question_values = None
        for attribute in answer.accepted:
            self._accept(int(attribute))

    def _accept(self, attribute: int) -> None:
        """Keeps the items with an attribute; ignores one that no candidate has, as nothing would be left to
        recommend.
        """
        setting = self.setting
        has_attribute = np.zeros(setting.catalog.n_items, dtype=bool)
        has_attribute[setting.catalog.items_with(attribute)] = True
        keep = np.flatnonzero(has_attribute[self.items] & (self.weights > 0))
        if not len(keep):
            self.n_ignored += 1
            return
        self.accepted_attributes.append(attribute)
        self.items = self.items[keep]
        self.scores = self.scores[keep] + setting.attribute_scores(attribute)[self.items]
        self.attribute_rows = None if self.attribute_rows is None else self.attribute_rows[keep]
        self._compute_weights()

    def _compute_weights(self) -> None:
        self.n_candidates = len(self.items)
        if self.setting.config.weighting == "weighted":
            # Never exactly zero, which marks a rejected item.
            self.weights = np.maximum(1 / (1 + np.exp(-np.clip(self.scores, -80, 80))), np.float32(1e-30))
        else:
            self.weights = np.ones(self.n_candidates, dtype=np.float32)
        self._order: np.ndarray | None = None
        self._n_shown = 0
        self._question_values = None

    # -- questions -------------------------------------------------------------------------------------------

    @property
    def question_values(self) -> np.ndarray:
        """Value of each question ``(n_questions,) float64``; -1 where it must not be asked.

        The entropy of having the attribute among the candidates; of a group, the sum over its attributes.
        """
        if self._question_values is None:
            total = max(float(self.weights.sum(dtype=np.float64)), 1e-300)
            share = self.attribute_weights() / total
            occurs = share > 0
            entropy = self.setting.entropy(np.minimum(share, 1.0))
            may_be_asked = (self.sum_by_question(occurs) > 0) & ~self.asked_questions
            self._question_values = np.where(may_be_asked, self.sum_by_question(entropy), -1.0)
        return self._question_values

    # -- recommendations -------------------------------------------------------------------------------------

    @property
    def slate(self) -> np.ndarray:
        """The ``k`` candidates with the highest scores, the lowest item of equals first ``(<= k,) int64``."""
        k = self.setting.config.k
        if self._order is None or (self._n_shown >= len(self._order) and self.n_candidates):
            left = np.flatnonzero(self.weights > 0)
            self._order = left[top_indices(self.scores[left], k * self.setting.config.turns)]
            self._n_shown = 0
        slate: np.ndarray = self.items[self._order[self._n_shown : self._n_shown + k]]
        return slate

    @property
    def slate_probability(self) -> float:
        """Share of the candidates' weight that is in the slate."""
        return float(self.weights[np.isin(self.items, self.slate)].sum() / self.weights.sum())

    def reject_slate(self) -> None:
        """Removes the items of the slate, which the user rejected."""
        assert self._order is not None
        k = self.setting.config.k
        rejected = self._order[self._n_shown : self._n_shown + k]
        self.weights[rejected] = 0
        self._n_shown += k
        self.n_candidates -= len(rejected)
        self._question_values = None
