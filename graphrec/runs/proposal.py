"""Which model to train first on a dataset, where the user names none."""

from __future__ import annotations

from typing import NamedTuple

from graphrec.data import Dataset
from graphrec.models import gram


class Proposal(NamedTuple):
    """A registered model and why it is proposed."""

    model: str
    reason: str


def propose(data: Dataset) -> Proposal:
    """The model to begin with: one that is fitted in seconds and hard to beat in the recorded results
    (docs/results/claims.md, *The simplest thing that works*).

    Args:
        data: its items' content and their number decide.
    """
    needed = 4 * data.n_items**2 / gram.GIB  # in float32
    limit = gram.memory_limit(gram.RegressionConfig().memory)
    content = " and ".join(sorted(data.content))
    if content and needed <= limit:
        return Proposal(
            "content-ease", f"the items have {content}; it is fitted in closed form, without epochs or seeds"
        )
    if content:
        return Proposal(
            "freedom",
            f"the items have {content}; content-ease would take {needed:.0f} GiB for {data.n_items:,} items, "
            f"and {limit:.0f} GiB are allowed",
        )
    return Proposal("ials", "the items have no content; it is fitted in a few passes and takes little memory")
