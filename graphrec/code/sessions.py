"""People by their sessions: what somebody did within some days, and how much that counts now.

A person who came back for something else is, in a graph, several people who stand for one. What was done
together stays together, and what was done last says most of what comes next.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from graphrec.code.cochange import CoChangeConfig, profiles, spans
from graphrec.data.interactions import Interactions
from graphrec.graphs.graph import Graph
from graphrec.graphs.sparse import graph_of


@dataclass(frozen=True)
class Sessions:
    """Interactions cut into sessions; ``Eq. n`` refers to the numbered equations in docs/models/coder.md.

    Attributes:
        pairs: sessions and their items; ``users`` are the sessions.
        person: of each session ``(n_sessions,) int64``.
        of: session of each interaction, in the order of the interactions ``(E,) int64``.
        share: what each session counts of its person, rows ``(n_users, n_sessions)`` that add up to 1; of
            somebody without interactions an empty one counts all.
    """

    pairs: Interactions
    person: np.ndarray
    of: np.ndarray
    share: Graph

    @classmethod
    def cut(cls, train: Interactions, span: float) -> Self:
        """Sessions on a grid of time; without times each person has one.

        Args:
            train: known interactions.
            span: days of a session.
        """
        from scipy.sparse import csr_matrix

        person, of = spans(train, span)
        person = np.concatenate(
            [person, np.flatnonzero(train.user_degree == 0)]
        )  # who did nothing has one too
        order = np.argsort(person, kind="stable")
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))
        person, of = person[order], place[of]
        pairs = Interactions(of, train.items, len(person), train.n_items, name=f"sessions of {train.name}")
        counts = np.bincount(of, profiles(train, CoChangeConfig()).data, minlength=len(person))
        counts[train.user_degree[person] == 0] = 1
        shape = (train.n_users, len(person))
        share = csr_matrix((counts.astype(np.float32), (person, np.arange(len(person)))), shape=shape)
        return cls(pairs, person, of, graph_of(share))
