"""Sessions: the files that one person worked on within a few days.

A person who returns for another task counts as another node of the graph, so that files of one task stay
together; the most recent sessions count most for the person.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from graphrec.code.cochange import CoChangeConfig, time_windows, user_profiles
from graphrec.data.interactions import Interactions
from graphrec.graphs.graph import Graph
from graphrec.graphs.sparse import from_scipy


@dataclass(frozen=True)
class Sessions:
    """Interactions divided into sessions; ``Eq. n`` refers to the numbered equations in docs/models/coder.md.

    Attributes:
        pairs: sessions (as ``users``) and their items.
        user: user of each session ``(n_sessions,) int64``.
        session_of: session of each interaction, in the order of the interactions ``(E,) int64``.
        weights: weight of each session for its user, rows ``(n_users, n_sessions)`` that sum to 1; a user
            without interactions has one empty session of weight 1.
    """

    pairs: Interactions
    user: np.ndarray
    session_of: np.ndarray
    weights: Graph

    @classmethod
    def from_interactions(cls, train: Interactions, days: float) -> Self:
        """Sessions on a time grid; without times each user has one session.

        Args:
            train: known interactions.
            days: length of a session.
        """
        from scipy.sparse import csr_matrix

        user, session_of = time_windows(train, days)
        user = np.concatenate([user, np.flatnonzero(train.user_degree == 0)])
        order = np.argsort(user, kind="stable")
        position = np.empty(len(order), dtype=np.int64)
        position[order] = np.arange(len(order))
        user = user[order]
        session_of = position[session_of]
        pairs = Interactions(
            session_of, train.items, len(user), train.n_items, name=f"sessions of {train.name}"
        )
        weight = np.bincount(session_of, user_profiles(train, CoChangeConfig()).data, minlength=len(user))
        weight[train.user_degree[user] == 0] = 1
        weights = csr_matrix(
            (weight.astype(np.float32), (user, np.arange(len(user)))), shape=(train.n_users, len(user))
        )
        return cls(pairs, user, session_of, from_scipy(weights))
